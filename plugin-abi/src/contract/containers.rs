//! Container records: what a task is made from.

use super::{Any, BoxStream, Ctx, Labels, Result, async_trait};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// Which shim runs a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runtime {
    /// `io.containerd.runc.v2`, or the absolute path of a shim.
    pub name: String,
    /// Options, in the runtime's own type.
    pub options: Option<Any>,
}

/// A container (`containerd.services.containers.v1.Container`).
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// The id, unique in its namespace, immutable.
    pub id: String,
    /// Labels.
    pub labels: Labels,
    /// The image's name, if it came from one.
    pub image: String,
    /// The runtime, immutable.
    pub runtime: Runtime,
    /// The OCI runtime specification, JSON inside.
    pub spec: Option<Any>,
    /// The snapshotter that has `snapshot_key`.
    pub snapshotter: String,
    /// The snapshot that is its root file system; empty for none.
    pub snapshot_key: String,
    /// Set by the store.
    pub created: SystemTime,
    /// Set by the store.
    pub updated: SystemTime,
    /// What clients keep with a container.
    pub extensions: BTreeMap<String, Any>,
    /// The sandbox it belongs to; empty for none.
    pub sandbox: String,
}

/// The containers of a namespace.
#[async_trait]
pub trait Containers: Send + Sync + 'static {
    /// The container `id`.
    async fn get(&self, ctx: &Ctx, id: &str) -> Result<Container>;
    /// Containers that match any of `filters` (none: all), by id.
    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<Container>>;
    /// Stores a new container. `AlreadyExists` when the id is taken.
    async fn create(&self, ctx: &Ctx, container: Container) -> Result<Container>;
    /// Changes the `fields` of a container (none: all that may change). An unknown or immutable field is `InvalidArgument`.
    async fn update(&self, ctx: &Ctx, container: Container, fields: &[String]) -> Result<Container>;
    /// Removes a container record.
    async fn delete(&self, ctx: &Ctx, id: &str) -> Result<()>;
}
