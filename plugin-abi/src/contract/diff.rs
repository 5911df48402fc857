//! Differs: from a layer to a file system and back.

use super::{Any, Ctx, Descriptor, Labels, Mount, Result, async_trait};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// How a layer is applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApplyOptions {
    /// Payloads for stream processors, by media type.
    pub payloads: BTreeMap<String, Any>,
    /// Whether to `syncfs` before returning.
    pub sync_fs: bool,
}

/// How a layer is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiffOptions {
    /// The media type wanted; empty: a gzipped OCI layer.
    pub media_type: String,
    /// The ingest reference; empty: the differ chooses.
    pub reference: String,
    /// Labels of the new blob.
    pub labels: Labels,
    /// No file in the layer is younger than this (`SOURCE_DATE_EPOCH`).
    pub source_date_epoch: Option<SystemTime>,
}

/// Applies layers.
#[async_trait]
pub trait Applier: Send + Sync + 'static {
    /// Unpacks the blob `layer` over `mounts`. Returns the descriptor of the uncompressed tar: its digest is the diff id.
    /// `Unimplemented` for a media type this differ does not know, so that another one is asked.
    async fn apply(
        &self,
        ctx: &Ctx,
        layer: Descriptor,
        mounts: Vec<Mount>,
        options: ApplyOptions,
    ) -> Result<Descriptor>;
}

/// Makes layers.
#[async_trait]
pub trait Comparer: Send + Sync + 'static {
    /// Writes what differs between `lower` and `upper` as a layer into the content store and returns its descriptor.
    async fn diff(&self, ctx: &Ctx, lower: Vec<Mount>, upper: Vec<Mount>, options: DiffOptions) -> Result<Descriptor>;
}

/// Both.
pub trait Differ: Applier + Comparer {}

impl<T: Applier + Comparer> Differ for T {}
