//! The ground that snapshotters stand on: their records, their directories, and a whole snapshotter for those that need no more.
//!
//! ```text
//!   ROOT/metadata.redb      what snapshots there are                            [`Records`]
//!   ROOT/snapshots/ID/      what a snapshot is made of; ID is a number           [`LayeredSnapshotter`], [`Layers`]
//! ```
//!
//! A directory is made before its record is committed and removed after the record is gone, so that a crash can leave a directory
//! without a record (cleaned at the next start) but never a record without its directory. The rules, which names may be taken, what
//! may be committed, what may not be removed, are containerd's (`snapshots/storage`); they are checked again inside the transaction.
//!
//! A snapshotter that keeps a directory a snapshot implements [`Layers`], a few small functions that may block, and is done: what is in
//! the directory (files, a subvolume, an image) is its own business. One with volumes elsewhere (thin devices) leaves it empty: it says that there may be one.

mod copy;
mod directory_types;
mod id_map;
mod layered;
mod operations;
mod rebuild;
mod record;
mod records;
mod store;
#[cfg(test)]
mod tests;
mod usage;

pub use copy::copy_contents;
pub use directory_types::tells_types;
pub use id_map::{map_options, root_owner};
pub use layered::{Directories, LayeredSnapshotter, Layers, Removal, plugin_root, remove_tree};
pub use rebuild::{check, repair};
pub use records::{Records, Snapshot, Stored};
pub use usage::disk_usage;

/// A label of a snapshot with the user ids of its container, `CONTAINER:HOST:LENGTH,…`.
pub const UID_MAPPING: &str = "containerd.io/snapshot/uidmapping";
/// The same for group ids.
pub const GID_MAPPING: &str = "containerd.io/snapshot/gidmapping";
