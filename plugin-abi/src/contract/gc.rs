//! Garbage collection, in two halves: who decides when ([`GarbageCollector`], a plugin) and who does it ([`Collector`], the metadata
//! store). containerd keeps both in process; here they meet over `orlop.gc.v1`.

use super::{BoxStream, Ctx, Result, async_trait};
use std::time::Duration;

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcStats {
    /// How long it took, marking and sweeping.
    pub elapsed: Duration,
    /// Of it, how long writers had to wait.
    pub blocked: Duration,
    /// Records removed.
    pub removed: u64,
}

/// What has changed since the last [`Mutation`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mutation {
    /// Committed changes.
    pub mutations: u64,
    /// Of them, those that may have made garbage.
    pub deletions: u64,
}

/// Decides when garbage is collected.
#[async_trait]
pub trait GarbageCollector: Send + Sync + 'static {
    /// Returns after a collection that began after this call.
    async fn schedule_and_wait(&self, ctx: &Ctx) -> Result<GcStats>;
}

/// Collects when told.
#[async_trait]
pub trait Collector: Send + Sync + 'static {
    /// Marks and sweeps, once.
    async fn collect(&self, ctx: &Ctx) -> Result<GcStats>;
    /// Tells of changes, several in one message when they come fast.
    async fn mutations(&self, ctx: &Ctx) -> Result<BoxStream<Mutation>>;
}
