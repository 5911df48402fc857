//! Records that a damaged database lost, rebuilt from the directories of the snapshots.
//!
//! Every directory carries, as the extended attribute [`ATTRIBUTE`], what its record says. The attribute is set before a new snapshot's
//! record is committed and changed after a record was, so that it is never far behind; nobody waits for it to be durable except a new
//! snapshot. It is read only here. A file system without such attributes takes none, and then only the copies of the database are left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost::Message;
use redb::ReadableTable;
use rustix::fs::{XattrFlags, getxattr, setxattr};

use super::layered::Directories;
use super::record::{Kind, Record};
use super::records::{FILE, Records, Stored};
use super::store::{Contents, FIRST_ID, NEXT_ID, Refusal, Tables};
use crate::Result;
use crate::contract::{SnapshotInfo, Usage};
use crate::database::{self, Finding, Past};

/// Only root sees and sets it.
const ATTRIBUTE: &str = "trusted.orlop.snapshot";

/// No attribute is larger, on any file system.
const LARGEST: usize = 64 << 10;

/// What the attribute holds.
#[derive(Clone, PartialEq, Message)]
struct Note {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    record: Option<Record>,
}

/// What was made of the directories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rebuilt {
    /// Names of the records that were rebuilt, or brought up to date.
    pub(super) rebuilt: Vec<String>,
    /// Names of the records that were dropped, because their directories are gone.
    pub(super) dropped: Vec<String>,
    /// The directories that stay without a record.
    pub(super) kept: BTreeSet<u64>,
}

/// Notes at a snapshot's directory what its record says.
pub(super) fn note(directory: &Path, id: u64, info: &SnapshotInfo, usage: Usage) {
    let mut note = Note {
        name: info.name.clone(),
        record: Some(Record::of(id, info, usage)),
    };
    let set = |note: &Note| setxattr(directory, ATTRIBUTE, &note.encode_to_vec(), XattrFlags::empty());
    if set(&note).is_err() {
        // Labels can be larger than what a file system takes.
        if let Some(record) = &mut note.record {
            record.labels.clear();
        }
        if let Err(error) = set(&note) {
            tracing::debug!(%error, directory = %directory.display(), "the snapshot could not be rebuilt from its directory");
        }
    }
}

/// Notes that the snapshot was removed: its directory goes, and must neither come back nor be kept.
pub(super) fn note_removed(directory: &Path) {
    // Nothing to note it at is just as well.
    let _ = setxattr(directory, ATTRIBUTE, &[], XattrFlags::empty());
}

/// What a directory says of itself.
enum Noted {
    Nothing,
    Removed,
    Snapshot(String, Record),
}

fn noted(directory: &Path, id: u64) -> Noted {
    let mut buffer = vec![0; LARGEST];
    let Ok(length) = getxattr(directory, ATTRIBUTE, buffer.as_mut_slice()) else {
        return Noted::Nothing;
    };
    if length == 0 {
        return Noted::Removed;
    }
    match Note::decode(&buffer[..length]) {
        Ok(Note {
            name,
            record: Some(record),
        }) if !name.is_empty() && record.id == id => Noted::Snapshot(name, record),
        _ => Noted::Nothing,
    }
}

/// Rebuilds what the records lack, if the database was damaged or is new. Blocks.
pub(super) fn rebuild(records: &Records, directories: &Directories) -> Result<()> {
    if records.past == Past::Whole {
        return Ok(());
    }
    let found: BTreeMap<u64, Noted> = directories
        .numbers()?
        .into_iter()
        .map(|id| (id, noted(&directories.of(id), id)))
        .collect();
    if records.past == Past::New && found.values().all(|noted| matches!(noted, Noted::Nothing)) {
        return Ok(());
    }
    let rebuilt = records
        .store
        .write(Vec::new(), move |tables| reconcile(tables, found))?;
    records.read_facts()?;
    records.store.rebuilt();
    tracing::error!(
        rebuilt = rebuilt.rebuilt.len(),
        dropped = ?rebuilt.dropped,
        "the records of the snapshots were rebuilt from their directories; those of directories that are gone were dropped"
    );
    for id in rebuilt.kept {
        tracing::error!(
            directory = %directories.of(id).display(),
            "nobody knows what this snapshot was: it is kept, and may be removed by hand"
        );
    }
    Ok(())
}

/// Checks the records of the snapshotter at `root` and their copies without changing anything. Blocks.
pub fn check(root: &Path) -> Result<Vec<Finding>> {
    database::check::<Contents>(&root.join(FILE))
}

/// Mends the records of the snapshotter at `root`, rebuilds what they lack from its directories, and says what it did. Blocks.
pub fn repair(root: &Path) -> Result<Vec<String>> {
    let done = database::repair::<Contents>(&root.join(FILE))?;
    if !done.is_empty() {
        let records = Records::open(root)?;
        rebuild(&records, &Directories::under(root))?;
        records.close();
    }
    Ok(done)
}

/// Makes the records say what the directories do. Numbers grow, so the higher of two that claim a name has it.
fn reconcile(tables: &mut Tables<'_>, found: BTreeMap<u64, Noted>) -> Result<Rebuilt, Refusal> {
    let mut rebuilt = Rebuilt::default();
    let mut before: BTreeMap<String, Record> = BTreeMap::new();
    for entry in tables.records.iter()? {
        let (name, bytes) = entry?;
        before.insert(
            name.value().to_owned(),
            Record::decode_from(name.value(), bytes.value())?,
        );
    }
    let mut after: BTreeMap<String, Record> = BTreeMap::new();
    for (name, record) in &before {
        match found.get(&record.id) {
            None | Some(Noted::Removed) => rebuilt.dropped.push(name.clone()),
            // What the directory says is newer.
            Some(Noted::Snapshot(..)) => {}
            Some(Noted::Nothing) => {
                after.insert(name.clone(), record.clone());
            }
        }
    }
    for noted in found.values() {
        if let Noted::Snapshot(name, record) = noted {
            after.insert(name.clone(), record.clone());
        }
    }
    // One that stands on nothing, or on what is not committed, cannot be used.
    loop {
        let orphans: Vec<String> = after
            .iter()
            .filter(|(_, record)| {
                !record.parent.is_empty()
                    && after
                        .get(&record.parent)
                        .is_none_or(|parent| parent.kind() != Kind::Committed)
            })
            .map(|(name, _)| name.clone())
            .collect();
        if orphans.is_empty() {
            break;
        }
        for name in orphans {
            after.remove(&name);
        }
    }
    let recorded: BTreeSet<u64> = after.values().map(|record| record.id).collect();
    let first = tables.facts.get(FIRST_ID)?.map_or(1, |first| first.value());
    let first = recorded.first().map_or(first, |lowest| first.min(*lowest));
    let next = tables.facts.get(NEXT_ID)?.map_or(1, |next| next.value());
    let next = found.keys().next_back().map_or(next, |highest| next.max(highest + 1));
    tables.facts.insert(FIRST_ID, first)?;
    tables.facts.insert(NEXT_ID, next)?;
    for name in before.keys() {
        tables.records.remove(name.as_str())?;
    }
    tables.children.retain(|_, ()| false)?;
    for (name, record) in &after {
        tables
            .records
            .insert(name.as_str(), record.encode_to_vec().as_slice())?;
        if let Some(parent) = after.get(&record.parent) {
            tables.children.insert((parent.id, record.id), ())?;
        }
        if before.get(name) != Some(record) {
            rebuilt.rebuilt.push(name.clone());
        }
    }
    for (id, noted) in found {
        // Lower ones were never ours, and what was removed goes.
        if id >= first && !recorded.contains(&id) && !matches!(noted, Noted::Removed) {
            tables.kept.insert(id, ())?;
            rebuilt.kept.insert(id);
        }
    }
    Ok(rebuilt)
}

/// [`note`] for what was just recorded.
pub(super) fn note_stored(directories: &Directories, stored: &Stored) {
    note(&directories.of(stored.id), stored.id, &stored.info, stored.usage);
}
