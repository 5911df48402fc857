//! The records of one snapshotter.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use redb::ReadableTable;

use super::operations::{self, existing, named};
use super::record::{Record, chosen, nanoseconds, time, without_empty};
use super::store::{FIRST_ID, NEXT_ID, Refusal, Store};
use crate::contract::{Labels, SnapshotInfo, SnapshotKind, Usage};
use crate::database::Past;
use crate::filter::Filters;
use crate::{Error, Result};

/// The database's name under a snapshotter's root.
pub(super) const FILE: &str = "metadata.redb";

/// A snapshot with what it stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number: the name of its directory, never given out twice.
    pub id: u64,
    /// What is known of it.
    pub info: SnapshotInfo,
    /// The ids of what it stands on, nearest first.
    pub parents: Vec<u64>,
}

/// A snapshot as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number.
    pub id: u64,
    /// What is known of it.
    pub info: SnapshotInfo,
    /// What it takes on disk; zero before it is committed.
    pub usage: Usage,
}

/// The records of one snapshotter, in a database under its root.
///
/// Reads see what is committed, wait for nobody and touch a handful of cached pages. Writes block until they are durable: call them
/// inside [`crate::blocking`]. Those that come together share one commit.
pub struct Records {
    pub(super) store: Store,
    next_id: AtomicU64,
    first_id: AtomicU64,
    /// Whether the database was damaged, or is new.
    pub(super) past: Past,
}

// === impl Records ===

impl Records {
    /// Opens `ROOT/metadata.redb`, or makes it. Blocks.
    ///
    /// Ids of a new database begin above every numbered directory in `ROOT/snapshots`: whoever kept snapshots there before (containerd,
    /// say, on the same root) keeps them.
    pub fn open(root: &Path) -> Result<Self> {
        let (store, past) = Store::open(&root.join(FILE), || Ok(highest_number(&root.join("snapshots"))? + 1))?;
        let records = Self {
            next_id: AtomicU64::new(1),
            first_id: AtomicU64::new(1),
            store,
            past,
        };
        records.read_facts()?;
        Ok(records)
    }

    /// Takes up the numbers that are kept beside the records.
    pub(super) fn read_facts(&self) -> Result<()> {
        let fact = |name| Ok::<u64, Error>(self.store.fact(name)?.unwrap_or(1));
        self.next_id.store(fact(NEXT_ID)?, Ordering::Relaxed);
        self.first_id.store(fact(FIRST_ID)?, Ordering::Relaxed);
        Ok(())
    }

    /// Lets go of the database, so that another instance can open it. Everything afterwards is `Unavailable`.
    pub fn close(&self) {
        self.store.close();
    }

    /// A number that no snapshot has had.
    pub fn fresh_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The first number that was given out here.
    pub fn first_id(&self) -> u64 {
        self.first_id.load(Ordering::Relaxed)
    }

    /// What is recorded of `key`.
    pub fn get(&self, key: &str) -> Result<Stored> {
        self.store.read(|table| Ok(existing(table, key)?.stored(key)))
    }

    /// `key` with its parents, for its mounts. `FailedPrecondition` when it is committed.
    pub fn mountable(&self, key: &str) -> Result<Snapshot> {
        self.store.read(|table| {
            let stored = existing(table, key)?.stored(key);
            operations::mountable(stored.info.kind, key)?;
            with_parents(table, stored)
        })
    }

    /// `key` with its parents, if it may be committed as `name` onto `parent` (empty: onto what it stands on), and whether that parent is
    /// new to it: what [`Records::commit`] will check again.
    pub fn committable(&self, name: &str, key: &str, parent: &str) -> Result<(Snapshot, bool)> {
        named("name", name)?;
        self.store.read(|table| {
            let record = operations::committable(table, name, key)?;
            let rebased = operations::rebased(&record, key, parent)?;
            let mut stored = record.stored(key);
            if rebased {
                parent.clone_into(&mut stored.info.parent);
            }
            Ok((with_parents(table, stored)?, rebased))
        })
    }

    /// A recorded snapshot with its parents.
    pub(super) fn standing(&self, stored: Stored) -> Result<Snapshot> {
        self.store.read(|table| with_parents(table, stored))
    }

    /// What a new snapshot will be, with a fresh id. Nothing is recorded before [`Records::insert`].
    ///
    /// `AlreadyExists` for a key that is taken, `NotFound` or `InvalidArgument` for a parent that is not there or not committed.
    pub fn plan(&self, kind: SnapshotKind, key: &str, parent: &str, labels: Labels) -> Result<Snapshot> {
        named("key", key)?;
        if kind == SnapshotKind::Committed {
            return Err(Error::invalid_argument(
                "a snapshot is made active or a view, and committed later",
            ));
        }
        let parents = self.store.read(|table| {
            let parents = operations::parents(table, parent)?;
            operations::free(table, key)?;
            Ok(parents)
        })?;
        // Recorded times have nanoseconds, whatever the clock has.
        let now = time(nanoseconds(SystemTime::now()));
        Ok(Snapshot {
            id: self.fresh_id(),
            info: SnapshotInfo {
                kind,
                name: key.to_owned(),
                parent: parent.to_owned(),
                labels: without_empty(labels),
                created: now,
                updated: now,
            },
            parents,
        })
    }

    /// Records a planned snapshot. The entries of the directories in `made` are durable before the record is. Blocks.
    ///
    /// Fails like [`Records::plan`], and with `Aborted` when its parent was replaced in between.
    pub fn insert(&self, snapshot: &Snapshot, made: Vec<PathBuf>) -> Result<()> {
        let snapshot = snapshot.clone();
        self.store
            .write(made, move |tables| operations::insert(tables, &snapshot))
    }

    /// Turns the active `key` into the committed `name`, with these labels only; what stood on nothing stands on `parent`. Blocks.
    pub fn commit(&self, name: &str, key: &str, parent: &str, labels: Labels, usage: Usage) -> Result<Stored> {
        named("name", name)?;
        let (name, key, parent) = (name.to_owned(), key.to_owned(), parent.to_owned());
        self.store.write(Vec::new(), move |tables| {
            operations::commit(tables, &name, &key, &parent, labels, usage)
        })
    }

    /// Forgets `key`, and says what it was. `FailedPrecondition` while another one stands on it. Blocks.
    pub fn remove(&self, key: &str) -> Result<Stored> {
        let key = key.to_owned();
        self.store
            .write(Vec::new(), move |tables| operations::remove(tables, &key))
    }

    /// Changes the labels that `fields` name (`labels.KEY`), or all (`labels`, or no fields). Blocks.
    pub fn update(&self, info: SnapshotInfo, fields: &[String]) -> Result<Stored> {
        let fields = fields.to_owned();
        self.store
            .write(Vec::new(), move |tables| operations::update(tables, &info, &fields))
    }

    /// Everything that any of `filters` chooses, in the order of the names. Reads every record: call it inside [`crate::blocking`].
    pub fn list(&self, filters: &[String]) -> Result<Vec<Stored>> {
        let filters = Filters::parse(filters)?;
        self.store.read(|table| {
            let mut list = Vec::new();
            for entry in table.iter()? {
                let (name, bytes) = entry?;
                let stored = Record::decode_from(name.value(), bytes.value())?.stored(name.value());
                if chosen(&filters, &stored.info) {
                    list.push(stored);
                }
            }
            Ok(list)
        })
    }

    /// The ids of all snapshots. Reads every record.
    pub fn ids(&self) -> Result<BTreeSet<u64>> {
        Ok(self.list(&[])?.into_iter().map(|stored| stored.id).collect())
    }
}

fn with_parents(table: &impl ReadableTable<&'static str, &'static [u8]>, stored: Stored) -> Result<Snapshot, Refusal> {
    let parents = operations::parents(table, &stored.info.parent)?;
    Ok(Snapshot {
        id: stored.id,
        info: stored.info,
        parents,
    })
}

/// The highest number that names an entry of a directory; zero when none does.
fn highest_number(directory: &Path) -> Result<u64> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(Error::io(format!("list {}", directory.display()), &error)),
    };
    let numbers = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok())
        .max();
    Ok(numbers.unwrap_or(0))
}
