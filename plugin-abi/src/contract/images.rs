//! Image records: a name for a descriptor.

use super::{BoxStream, Ctx, Descriptor, Labels, Result, async_trait};
use std::time::SystemTime;

/// A name and what it stands for (`containerd.services.images.v1.Image`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The reference, unique in its namespace.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// A manifest or an index.
    pub target: Descriptor,
    /// Set by the store.
    pub created: SystemTime,
    /// Set by the store.
    pub updated: SystemTime,
}

/// The image store of a namespace.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// The image called `name`.
    async fn get(&self, ctx: &Ctx, name: &str) -> Result<Image>;
    /// Images that match any of `filters` (none: all), by name.
    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<Image>>;
    /// Stores a new image. `AlreadyExists` when the name is taken.
    async fn create(&self, ctx: &Ctx, image: Image) -> Result<Image>;
    /// Changes the `fields` (`target`, `labels`, `labels.KEY`, `annotations…`; none: all) of an image.
    async fn update(&self, ctx: &Ctx, image: Image, fields: &[String]) -> Result<Image>;
    /// Removes an image; with `sync`, returns after garbage was collected; with `target`, only while it has that target
    /// (`NotFound` otherwise).
    async fn delete(&self, ctx: &Ctx, name: &str, sync: bool, target: Option<Descriptor>) -> Result<()>;
}
