//! Snapshotters: stacks of file system layers.
//!
//! ```text
//!            prepare/view(key, parent)              commit(name, key)
//!   (none) ─────────────────────────▶ Active ─────────────────────────▶ Committed
//!                                     View                                 │ may be a parent
//!            remove(key)  ◀───────────┘  ◀─────────────────────────────────┘ (not while it has children)
//! ```

use super::{BoxStream, Ctx, Error, Labels, Result, async_trait};
use std::sync::Arc;
use std::time::SystemTime;

/// A mount that a client performs: what `mount(2)` wants, in containerd's shape (`containerd.types.Mount`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The file system: `bind`, `overlay`, `ext4`, …
    pub kind: String,
    /// A device or a directory.
    pub source: String,
    /// A path inside the mount point, mostly empty.
    pub target: String,
    /// Options as in fstab: `ro`, `lowerdir=…`.
    pub options: Vec<String>,
}

/// What a snapshot is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SnapshotKind {
    /// Readable, removable, never committed.
    View,
    /// Writable, can be committed.
    Active,
    /// Immutable, can be a parent.
    Committed,
}

/// The capability of plugins whose snapshotter has [`Snapshotter::commit_onto`], as containerd calls it.
pub const REBASE: &str = "rebase";

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// View, active or committed.
    pub kind: SnapshotKind,
    /// The key of an active snapshot or view, the name of a committed one.
    pub name: String,
    /// The committed snapshot underneath; empty for none.
    pub parent: String,
    /// Labels.
    pub labels: Labels,
    /// When it was prepared.
    pub created: SystemTime,
    /// When it last changed.
    pub updated: SystemTime,
}

/// What a snapshot itself takes on disk, its parents not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Inodes.
    pub inodes: u64,
    /// Bytes.
    pub size: u64,
}

/// One snapshotter, as `containerd.services.snapshots.v1` describes it.
///
/// Every operation is atomic and durable when it returns; each is called concurrently. Keys and names share one space.
#[async_trait]
pub trait Snapshotter: Send + Sync + 'static {
    /// What is known of `key`. `NotFound` when there is none.
    async fn stat(&self, ctx: &Ctx, key: &str) -> Result<SnapshotInfo>;

    /// Changes the labels of `info.name`: those named in `fields` (`labels.KEY`), or all of them (`labels`, or no fields).
    /// Any other field is `InvalidArgument`. Returns what is known afterwards.
    async fn update(&self, ctx: &Ctx, info: SnapshotInfo, fields: &[String]) -> Result<SnapshotInfo>;

    /// What `key` takes on disk, without its parents. Fixed once committed.
    async fn usage(&self, ctx: &Ctx, key: &str) -> Result<Usage>;

    /// The mounts of an active snapshot or a view. `FailedPrecondition` for a committed one.
    async fn mounts(&self, ctx: &Ctx, key: &str) -> Result<Vec<Mount>>;

    /// Makes a writable snapshot over the committed `parent` (empty: over nothing). `AlreadyExists` when `key` is taken.
    async fn prepare(&self, ctx: &Ctx, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>>;

    /// Like `prepare`, read-only.
    async fn view(&self, ctx: &Ctx, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>>;

    /// Turns the active snapshot `key` into the committed `name`; `key` is free afterwards.
    async fn commit(&self, ctx: &Ctx, name: &str, key: &str, labels: Labels) -> Result<()>;

    /// Like `commit`, for an active snapshot that was prepared over nothing: what it becomes stands on the committed `parent` (none when
    /// empty), as if it had been prepared there. `InvalidArgument` when it stands on another one already, `NotFound` without the parent.
    ///
    /// Only for snapshotters with the capability [`REBASE`]: others say `Unimplemented`, and those of before containerd 2.2 do not
    /// see the parent at all. It lets the layers of an image be unpacked side by side.
    async fn commit_onto(&self, ctx: &Ctx, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        if parent.is_empty() {
            return self.commit(ctx, name, key, labels).await;
        }
        Err(Error::unimplemented(format!(
            "this snapshotter cannot commit {key} onto {parent}: it must be prepared there"
        )))
    }

    /// Removes a snapshot. `FailedPrecondition` while another one stands on it.
    async fn remove(&self, ctx: &Ctx, key: &str) -> Result<()>;

    /// All snapshots that match any of `filters` (containerd's grammar; none: all), in key order.
    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<SnapshotInfo>>;

    /// Frees what removed snapshots left behind. `Unimplemented` when there is never anything.
    async fn cleanup(&self, _ctx: &Ctx) -> Result<()> {
        Err(Error::unimplemented("this snapshotter has no cleanup"))
    }
}

/// Snapshotters by name: what the public `Snapshots` service chooses from.
#[async_trait]
pub trait Snapshotters: Send + Sync + 'static {
    /// The snapshotter called `name`; `NotFound`, naming the plugin that is missing, when there is none.
    fn snapshotter(&self, name: &str) -> Result<Arc<dyn Snapshotter>>;
}
