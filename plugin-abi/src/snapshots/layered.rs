//! A whole snapshotter for those that keep each snapshot in a directory of its own.
//!
//! ```text
//!   prepare   plan ─▶ mkdir ID ─▶ Layers::make ─▶ record committed        a crash before the end leaves ID without a record
//!   commit    Layers::commit ─▶ record renamed ─▶ Layers::settle          a crash before the record is renamed leaves an active snapshot
//!   remove    record gone ─▶ directory removed (at once, or by cleanup)   a crash in between leaves ID without a record
//!   start     every ID without a record is removed, in the background
//!   damage    the records are rebuilt from the directories first, and what has none then is kept
//! ```

use std::collections::BTreeSet;
use std::fs::{DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::rebuild;
use super::records::{Records, Snapshot, Stored};
use super::store::lock;
use super::usage::disk_usage;
use crate::contract::{
    BoxStream, Ctx, Labels, Mount, SnapshotInfo, SnapshotKind, Snapshotter, Usage, async_trait, stream_of,
};
use crate::{Contracts, Error, InitContext, Instance, Result, blocking};

/// What differs between snapshotters that keep a directory a snapshot. Every function may block.
pub trait Layers: Send + Sync + 'static {
    /// Whether [`Layers::mounts`] does more than look things up in memory, and must be kept off its caller's thread.
    const MOUNTS_BLOCK: bool = false;

    /// Makes what `snapshot` is in its own directory, which is there, empty and fresh. When it fails the directory is removed.
    fn make(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()>;

    /// How an active snapshot or a view is mounted.
    fn mounts(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Vec<Mount>>;

    /// What an active snapshot itself takes on disk.
    fn usage(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Usage> {
        disk_usage(&directories.of(snapshot.id))
    }

    /// Makes of an active snapshot what its children will stand on, durably, before it is recorded as committed; says what that takes on
    /// disk. No second call for the same snapshot runs meanwhile.
    ///
    /// The record may not follow: after an error elsewhere comes [`Layers::revert`], after a crash nothing but, perhaps, another call of
    /// this. Until the record is renamed the snapshot stays active, and keeps what an active one needs.
    fn commit(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Usage> {
        self.usage(directories, snapshot)
    }

    /// Takes back what [`Layers::commit`] made, whole or in part: the snapshot stays active.
    fn revert(&self, _directories: &Directories, _snapshot: &Snapshot) -> Result<()> {
        Ok(())
    }

    /// Makes an active snapshot that was made over nothing fit to stand on the parents that `snapshot` has now. Comes before
    /// [`Layers::commit`], and the snapshot may all the same stay active, over nothing.
    ///
    /// Those that can do it say so by the capability [`crate::contract::REBASE`].
    fn rebase(&self, _directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        let (name, parent) = (&snapshot.info.name, &snapshot.info.parent);
        Err(Error::unimplemented(format!(
            "this snapshotter cannot commit {name} onto {parent}: it must be prepared there"
        )))
    }

    /// Removes what only an active snapshot needs, after it was recorded as committed. What stays behind goes with the snapshot.
    fn settle(&self, _directories: &Directories, _snapshot: &Snapshot) -> Result<()> {
        Ok(())
    }

    /// Removes the directory of a snapshot with all that is in it.
    fn unmake(&self, directory: &Path) -> Result<()> {
        remove_tree(directory)
    }

    /// Adds what is known of a snapshot beside its record, before a caller sees it.
    fn describe(&self, _directories: &Directories, _id: u64, _info: &mut SnapshotInfo) {}
}

/// Where the directories of snapshots are.
#[derive(Clone, Debug)]
pub struct Directories(PathBuf);

/// When the directory of a removed snapshot goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Before `remove` returns.
    AtOnce,
    /// With the next `cleanup`, which garbage collection calls: `remove` is quick, however much there is.
    AtCleanup,
}

/// A snapshotter over [`Layers`]. Cloning shares it.
pub struct LayeredSnapshotter<L>(Arc<Inner<L>>);

struct Inner<L> {
    records: Records,
    directories: Directories,
    layers: L,
    removal: Removal,
    /// Directories that have no record yet.
    making: Mutex<BTreeSet<u64>>,
    /// One cleanup at a time: what a slow one found may have a new owner once a quick one has removed it.
    cleaning: Mutex<()>,
    /// Active snapshots that are being committed.
    committing: Committing,
}

/// The directory a snapshotter works in: the one configured, or the plugin's own. Made now if it is not there.
pub fn plugin_root(context: &InitContext, configured: &str) -> Result<PathBuf> {
    if configured.is_empty() {
        return context.root().map(Path::to_owned);
    }
    let root = PathBuf::from(configured);
    private_directory(&root)?;
    Ok(root)
}

fn private_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::io(format!("make the directory {}", path.display()), &error))
}

/// Removes a directory with all that is in it. One that is not there is fine. Blocks.
pub fn remove_tree(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", directory.display()), &error))
        }
        _ => Ok(()),
    }
}

// === impl Directories ===

impl Directories {
    /// Those of the snapshotter at `root`.
    pub fn under(root: &Path) -> Self {
        Self(root.join("snapshots"))
    }

    /// The directory of snapshot `id`.
    pub fn of(&self, id: u64) -> PathBuf {
        self.0.join(id.to_string())
    }

    /// The numbers of those that are there.
    pub(super) fn numbers(&self) -> Result<BTreeSet<u64>> {
        let doing = |error| Error::io(format!("list {}", self.0.display()), &error);
        let mut ids = BTreeSet::new();
        for entry in std::fs::read_dir(&self.0).map_err(doing)? {
            let name = entry.map_err(doing)?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        Ok(ids)
    }

    /// Makes a directory inside a snapshot's with exactly this mode, whatever the process's umask is.
    pub fn make(path: &Path, mode: u32) -> Result<()> {
        let doing = || format!("make the directory {}", path.display());
        std::fs::create_dir(path).map_err(|error| Error::io(doing(), &error))?;
        std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| Error::io(doing(), &error))
    }
}

// === impl LayeredSnapshotter ===

impl<L> Clone for LayeredSnapshotter<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: Layers> LayeredSnapshotter<L> {
    /// Opens the snapshotter at `root`, a directory that exists, and cleans up behind a crash in the background.
    pub async fn open(root: &Path, layers: L, removal: Removal) -> Result<Self> {
        let root = root.to_owned();
        let inner = blocking(move || {
            let directories = Directories::under(&root);
            private_directory(&directories.0)?;
            let records = Records::open(&root)?;
            rebuild::rebuild(&records, &directories)?;
            Ok(Arc::new(Inner {
                records,
                directories,
                layers,
                removal,
                making: Mutex::default(),
                cleaning: Mutex::default(),
                committing: Committing::default(),
            }))
        })
        .await?;
        let cleaner = Arc::clone(&inner);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = cleaner.clean() {
                tracing::warn!(%error, "could not look for what a crash left of snapshots");
            }
        });
        Ok(Self(inner))
    }

    /// Lets go of the records, so that another instance can open them. Everything afterwards is `Unavailable`.
    pub async fn close(&self) {
        let inner = Arc::clone(&self.0);
        // The database writes and syncs once more; that fails only by a panic, and then there is nothing left to let go of.
        let _ = blocking(move || {
            inner.records.close();
            Ok(())
        })
        .await;
    }

    /// The instance of a plugin that is this snapshotter: it offers it, shows its `root`, and closes it in the end, so that the next one
    /// can open the same records.
    pub fn into_instance(self, root: &Path) -> Instance {
        let ended = self.clone();
        Instance::new()
            .with_contracts(Contracts::default().with_snapshotter(Arc::new(self)))
            .export("root", root.display())
            .on_shutdown(move || async move { ended.close().await })
    }

    fn described(&self, stored: Stored) -> SnapshotInfo {
        let mut info = stored.info;
        self.0.layers.describe(&self.0.directories, stored.id, &mut info);
        info
    }

    async fn create(&self, kind: SnapshotKind, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let inner = Arc::clone(&self.0);
        let (key, parent) = (key.to_owned(), parent.to_owned());
        blocking(move || inner.create(kind, &key, &parent, labels)).await
    }
}

#[async_trait]
impl<L: Layers> Snapshotter for LayeredSnapshotter<L> {
    async fn stat(&self, _: &Ctx, key: &str) -> Result<SnapshotInfo> {
        self.0.records.get(key).map(|stored| self.described(stored))
    }

    async fn update(&self, _: &Ctx, info: SnapshotInfo, fields: &[String]) -> Result<SnapshotInfo> {
        let (inner, fields) = (Arc::clone(&self.0), fields.to_owned());
        let stored = blocking(move || {
            let stored = inner.records.update(info, &fields)?;
            rebuild::note_stored(&inner.directories, &stored);
            Ok(stored)
        })
        .await?;
        Ok(self.described(stored))
    }

    async fn usage(&self, _: &Ctx, key: &str) -> Result<Usage> {
        let stored = self.0.records.get(key)?;
        if stored.info.kind != SnapshotKind::Active {
            return Ok(stored.usage);
        }
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let snapshot = inner.records.standing(stored)?;
            inner.layers.usage(&inner.directories, &snapshot)
        })
        .await
    }

    async fn mounts(&self, _: &Ctx, key: &str) -> Result<Vec<Mount>> {
        let snapshot = self.0.records.mountable(key)?;
        if !L::MOUNTS_BLOCK {
            return self.0.layers.mounts(&self.0.directories, &snapshot);
        }
        let inner = Arc::clone(&self.0);
        blocking(move || inner.layers.mounts(&inner.directories, &snapshot)).await
    }

    async fn prepare(&self, _: &Ctx, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(SnapshotKind::Active, key, parent, labels).await
    }

    async fn view(&self, _: &Ctx, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(SnapshotKind::View, key, parent, labels).await
    }

    async fn commit(&self, ctx: &Ctx, name: &str, key: &str, labels: Labels) -> Result<()> {
        self.commit_onto(ctx, name, key, "", labels).await
    }

    async fn commit_onto(&self, _: &Ctx, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        let inner = Arc::clone(&self.0);
        let (name, key, parent) = (name.to_owned(), key.to_owned(), parent.to_owned());
        blocking(move || inner.commit(&name, &key, &parent, labels)).await
    }

    async fn remove(&self, _: &Ctx, key: &str) -> Result<()> {
        let (inner, key) = (Arc::clone(&self.0), key.to_owned());
        blocking(move || {
            let removed = inner.records.remove(&key)?;
            rebuild::note_removed(&inner.directories.of(removed.id));
            if inner.removal == Removal::AtOnce {
                inner.unmake(removed.id);
            }
            Ok(())
        })
        .await
    }

    async fn list(&self, _: &Ctx, filters: &[String]) -> Result<BoxStream<SnapshotInfo>> {
        let (inner, filters) = (Arc::clone(&self.0), filters.to_owned());
        let list = blocking(move || inner.records.list(&filters)).await?;
        Ok(stream_of(
            list.into_iter().map(|stored| self.described(stored)).collect(),
        ))
    }

    async fn cleanup(&self, _: &Ctx) -> Result<()> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.clean()).await
    }
}

// === impl Inner ===

impl<L: Layers> Inner<L> {
    fn create(&self, kind: SnapshotKind, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let mut snapshot = self.records.plan(kind, key, parent, labels)?;
        let _making = self.directory(&mut snapshot)?;
        let directory = self.directories.of(snapshot.id);
        let made = self
            .layers
            .make(&self.directories, &snapshot)
            .map_err(|error| error.context(format_args!("make snapshot {key}")))
            .and_then(|()| self.layers.mounts(&self.directories, &snapshot))
            .and_then(|mounts| {
                rebuild::note(&directory, snapshot.id, &snapshot.info, Usage::default());
                self.records
                    .insert(&snapshot, vec![directory, self.directories.0.clone()])?;
                Ok(mounts)
            });
        if made.is_err() {
            self.unmake(snapshot.id);
        }
        made
    }

    /// Makes the directory of a planned snapshot. What a crash left under its number is not touched: it takes another.
    fn directory(&self, snapshot: &mut Snapshot) -> Result<Making<'_>> {
        loop {
            let making = Making::new(&self.making, snapshot.id);
            let directory = self.directories.of(snapshot.id);
            match DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => return Ok(making),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => snapshot.id = self.records.fresh_id(),
                Err(error) => return Err(Error::io(format!("make the directory {}", directory.display()), &error)),
            }
        }
    }

    fn commit(&self, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        let _alone = self.committing.enter(self.records.get(key)?.id);
        // Checked before the work as well as in the transaction; whoever was here before may have committed it.
        let (snapshot, rebased) = self.records.committable(name, key, parent)?;
        if rebased {
            self.layers.rebase(&self.directories, &snapshot)?;
        }
        // Outside of the transaction: nobody else waits for a walk through a large layer.
        let committed = self
            .layers
            .commit(&self.directories, &snapshot)
            .map_err(|error| error.context(format_args!("commit snapshot {key}")))
            .and_then(|usage| self.records.commit(name, key, parent, labels, usage))
            .inspect(|stored| rebuild::note_stored(&self.directories, stored));
        let after = match &committed {
            Ok(_) => self.layers.settle(&self.directories, &snapshot),
            Err(_) => self.layers.revert(&self.directories, &snapshot),
        };
        if let Err(error) = after {
            tracing::warn!(%error, key, "something of a commit stays behind, until the snapshot is removed");
        }
        committed.map(drop)
    }

    /// Removes a directory whose record is gone. What does not work now is tried again by the next cleanup.
    fn unmake(&self, id: u64) {
        let directory = self.directories.of(id);
        if let Err(error) = self.layers.unmake(&directory) {
            tracing::warn!(%error, directory = %directory.display(), "a removed snapshot's directory stays for now");
        }
    }

    /// Removes every directory without a record.
    fn clean(&self) -> Result<()> {
        let _alone = lock(&self.cleaning);
        // In this order: a directory seen here is either still being made, or recorded, or garbage.
        let mut found = self.directories.numbers()?;
        found.retain(|id| *id >= self.records.first_id());
        for id in lock(&self.making).iter() {
            found.remove(id);
        }
        if found.is_empty() {
            return Ok(());
        }
        for id in self.records.ids()? {
            found.remove(&id);
        }
        for id in self.records.store.kept()? {
            found.remove(&id);
        }
        for id in found {
            self.unmake(id);
        }
        Ok(())
    }
}

/// Keeps cleanup away from a directory that has no record yet.
struct Making<'a> {
    all: &'a Mutex<BTreeSet<u64>>,
    id: u64,
}

// === impl Making ===

impl<'a> Making<'a> {
    fn new(all: &'a Mutex<BTreeSet<u64>>, id: u64) -> Self {
        lock(all).insert(id);
        Self { all, id }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        lock(self.all).remove(&self.id);
    }
}

/// The snapshots that are being committed. Two commits of one snapshot come one after the other, and the second finds it gone.
#[derive(Default)]
struct Committing {
    ids: Mutex<BTreeSet<u64>>,
    left: Condvar,
}

/// One of them, until it is dropped.
struct Alone<'a> {
    among: &'a Committing,
    id: u64,
}

// === impl Committing ===

impl Committing {
    /// Waits until nobody else commits snapshot `id`.
    fn enter(&self, id: u64) -> Alone<'_> {
        let mut ids = lock(&self.ids);
        while !ids.insert(id) {
            ids = self.left.wait(ids).unwrap_or_else(PoisonError::into_inner);
        }
        Alone { among: self, id }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        lock(&self.among.ids).remove(&self.id);
        self.among.left.notify_all();
    }
}
