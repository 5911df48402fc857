//! The local content store: blobs and ingests in a directory, laid out as containerd lays them out.
//!
//! ```text
//!   ROOT/blobs/sha256/HEX                                        a blob: read only, whole, durable
//!   ROOT/ingest/SHA256(reference)/{ref,startedat,updatedat,total,data}   what may become one
//! ```
//!
//! Three rules make it fast without giving durability up. A blob is written, synced and only then named, so that a name in `blobs`
//! always stands for whole bytes ([`ingest`]). The sync of the directory behind a name is shared by all who wait for one
//! ([`durable`]). And an ingest lives in memory while it is small and young ([`ingest::IN_MEMORY`], [`writer::SETTLE`]): most blobs of an
//! image are a few KiB, and are committed before a directory of five files for them would have been worth making.
//!
//! Labels are not kept here: the metadata store has them, and its records decide which namespace sees what. Specified by containerd's
//! `content/local`.

mod durable;
mod ingest;
mod layout;
mod refs;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use orlop_plugin::{Contracts, Instance, Registration, kind};
use std::sync::Arc;

pub use store::LocalStore;

/// The registration of `io.containerd.content.v1.content`.
pub fn registrations() -> Vec<Registration> {
    vec![Registration::new(kind::CONTENT, "content", |context| async move {
        let root = context.root()?.to_path_buf();
        let store = Arc::new(LocalStore::open(root.clone()).await?);
        let cleaned = store.clone();
        // What a crash left behind waits for nobody, and nobody for it.
        tokio::task::spawn_blocking(move || cleaned.clean());
        Ok(Instance::new()
            .with_contracts(Contracts::default().with_content(store))
            .export("root", root.display()))
    })]
}
