//! Image verification: whether an image may be pulled (`io.containerd.image-verifier.v1`). containerd keeps it in process; here it is
//! `orlop.verifier.v1`.

use super::{Ctx, Descriptor, Result, async_trait};

/// What a verifier thinks of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the image may be pulled.
    pub accepted: bool,
    /// Why, for people.
    pub reason: String,
}

/// Judges images.
#[async_trait]
pub trait ImageVerifier: Send + Sync + 'static {
    /// Judges the image that the reference `name` resolved to, before anything of it is fetched. An error is no judgement, and whoever asks
    /// must take it for a refusal.
    async fn verify(&self, ctx: &Ctx, name: &str, target: Descriptor) -> Result<Judgement>;
}
