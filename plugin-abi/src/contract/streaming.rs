//! Named streams between a client and a plugin of the daemon (`containerd.services.streaming.v1`).

use super::{Any, BoxStream, Ctx, Result, async_trait};

/// The two ends of named streams.
///
/// A client opens a stream and names it in the request that uses it; the plugin that serves the request attaches to it.
#[async_trait]
pub trait Streaming: Send + Sync + 'static {
    /// The client's end: makes the stream `id` of the namespace and returns what the other end sends. `AlreadyExists` when taken.
    /// The stream lives as long as the returned one is held.
    async fn open(&self, ctx: &Ctx, id: &str, outgoing: BoxStream<Any>) -> Result<BoxStream<Any>>;
    /// The plugin's end: joins the stream `id`. `NotFound` when no client has opened it, `AlreadyExists` when it is joined already.
    async fn attach(&self, ctx: &Ctx, id: &str, outgoing: BoxStream<Any>) -> Result<BoxStream<Any>>;
}
