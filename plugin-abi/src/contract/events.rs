//! Events: what happened, to whom it may concern.

use super::{Any, BoxStream, Ctx, Result, async_trait};
use std::time::SystemTime;

/// An event with its stamp (`containerd.types.Envelope`).
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// When it happened.
    pub timestamp: SystemTime,
    /// Where it happened.
    pub namespace: String,
    /// `/tasks/exit` and so on.
    pub topic: String,
    /// The event, typed `containerd.events.…`.
    pub event: Option<Any>,
}

/// The events exchange.
#[async_trait]
pub trait Events: Send + Sync + 'static {
    /// Stamps an event with now and the namespace of `ctx`, and sends it to every subscriber.
    async fn publish(&self, ctx: &Ctx, topic: &str, event: Any) -> Result<()>;
    /// Sends an event that has its stamp already.
    async fn forward(&self, ctx: &Ctx, envelope: Envelope) -> Result<()>;
    /// Events from now on, of every namespace, that match any of `filters` (none: all).
    async fn subscribe(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<Envelope>>;
}
