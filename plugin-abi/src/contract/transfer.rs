//! Transfers: an image from one kind of place to another (`containerd.services.transfer.v1`).

use super::{Any, Ctx, Result, async_trait};

/// Moves images.
#[async_trait]
pub trait Transfer: Send + Sync + 'static {
    /// Moves from `source` to `destination` (types of `containerd.types.transfer`), telling its progress on the stream named
    /// `progress` (empty: nowhere). `Unimplemented` for a pair it does not know.
    async fn transfer(&self, ctx: &Ctx, source: Any, destination: Any, progress: &str) -> Result<()>;
}
