//! The walking differ (`io.containerd.differ.v1.walking`): applies layers to mounts, and makes layers by walking two mounted trees.
//!
//! ```text
//!   apply  content store ─▶ (stream processors) ─▶ Feed ─▶ layer::apply ─▶ the directory that the mounts stand for (`target`)
//!   diff   two mounted trees ─▶ differ::compare ─▶ an ingest of the content store
//! ```
//!
//! The layers themselves are `orlop_plugin::layer`'s business, mounts `orlop_plugin::mount`'s, making layers `orlop_plugin::differ`'s.

mod apply;
mod processors;
mod target;

use std::sync::Arc;

use orlop_plugin::contract::{Comparer, Contracts, Ctx, Descriptor, DiffOptions, Mount, async_trait};
use orlop_plugin::{Host, Instance, Registration, Result, differ, kind};

use processors::Processors;

/// What this crate registers.
pub fn registrations() -> Vec<Registration> {
    let walking = Registration::new(kind::DIFFER, "walking", |context| async move {
        let differ = Arc::new(Walking {
            host: context.host,
            processors: Processors::new(context.stream_processors),
        });
        Ok(Instance::new().with_contracts(Contracts::default().with_differ(differ)))
    });
    vec![walking.requires([kind::METADATA]).host_platform()]
}

/// The differ. The content store is looked up at each call: it may have been replaced.
struct Walking {
    host: Host,
    processors: Processors,
}

#[async_trait]
impl Comparer for Walking {
    async fn diff(&self, ctx: &Ctx, lower: Vec<Mount>, upper: Vec<Mount>, options: DiffOptions) -> Result<Descriptor> {
        differ::compare(self.host.content()?, ctx, lower, upper, options).await
    }
}
