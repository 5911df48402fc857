//! Leases: what garbage collection must spare.

use super::{Ctx, Labels, Result, async_trait};
use std::time::SystemTime;

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The id, unique in its namespace.
    pub id: String,
    /// Set by the store.
    pub created: SystemTime,
    /// Labels; `containerd.io/gc.expire` (RFC 3339) and `containerd.io/gc.flat` have a meaning.
    pub labels: Labels,
}

/// Something a lease holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseResource {
    /// A digest, a snapshot key, an ingest reference or an image name.
    pub id: String,
    /// `content`, `ingests`, `snapshots/SNAPSHOTTER` or `images`.
    pub kind: String,
}

/// The leases of a namespace.
#[async_trait]
pub trait Leases: Send + Sync + 'static {
    /// Makes a lease; without an `id` the store chooses one. `AlreadyExists` when it is taken.
    async fn create(&self, ctx: &Ctx, id: Option<&str>, labels: Labels) -> Result<Lease>;
    /// Removes a lease; with `sync`, returns after garbage was collected.
    async fn delete(&self, ctx: &Ctx, id: &str, sync: bool) -> Result<()>;
    /// Leases that match any of `filters` (none: all), by id.
    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<Vec<Lease>>;
    /// Lets lease `id` hold `resource`.
    async fn add_resource(&self, ctx: &Ctx, id: &str, resource: LeaseResource) -> Result<()>;
    /// Lets lease `id` hold `resource` no longer.
    async fn delete_resource(&self, ctx: &Ctx, id: &str, resource: LeaseResource) -> Result<()>;
    /// What lease `id` holds.
    async fn list_resources(&self, ctx: &Ctx, id: &str) -> Result<Vec<LeaseResource>>;
}
