//! What may be done with records: containerd's rules, inside one transaction. Every check comes before the first write.

use std::time::SystemTime;

use prost::Message;
use redb::ReadableTable;

use super::record::{Kind, Record, nanoseconds, without_empty};
use super::records::{Snapshot, Stored};
use super::store::{NEXT_ID, Refusal, Tables, find};
use crate::Error;
use crate::contract::{Labels, SnapshotInfo, SnapshotKind, Usage};

/// A name must be something.
pub(super) fn named(what: &str, name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::invalid_argument(format!(
            "a snapshot's {what} must not be empty"
        )));
    }
    Ok(())
}

fn missing(key: &str) -> Error {
    Error::not_found(format!("snapshot {key} does not exist"))
}

/// The record called `key`, or `NotFound`.
pub(super) fn existing(table: &impl ReadableTable<&'static str, &'static [u8]>, key: &str) -> Result<Record, Refusal> {
    find(table, key)?.ok_or_else(|| missing(key).into())
}

/// The ids of what a snapshot on `parent` stands on, nearest first, if it may stand there.
pub(super) fn parents(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    parent: &str,
) -> Result<Vec<u64>, Refusal> {
    let mut ids = Vec::new();
    let mut next = parent.to_owned();
    while !next.is_empty() {
        let Some(record) = find(table, &next)? else {
            return Err(Error::not_found(format!("parent snapshot {next} does not exist")).into());
        };
        if record.kind() != Kind::Committed {
            return Err(Error::invalid_argument(format!(
                "parent snapshot {next} is not committed: only a committed snapshot can be a parent"
            ))
            .into());
        }
        ids.push(record.id);
        next = record.parent;
    }
    Ok(ids)
}

/// Whether `key` may be prepared.
pub(super) fn free(table: &impl ReadableTable<&'static str, &'static [u8]>, key: &str) -> Result<(), Refusal> {
    if find(table, key)?.is_some() {
        return Err(Error::already_exists(format!("snapshot {key} already exists")).into());
    }
    Ok(())
}

/// Records a planned snapshot, if nothing has changed since it was planned that it builds upon.
pub(super) fn insert(tables: &mut Tables<'_>, snapshot: &Snapshot) -> Result<(), Refusal> {
    let info = &snapshot.info;
    free(&tables.records, &info.name)?;
    let parents = parents(&tables.records, &info.parent)?;
    if parents != snapshot.parents {
        return Err(Error::aborted(format!(
            "parent snapshot {} was replaced while {} was made on it: prepare it again",
            info.parent, info.name
        ))
        .into());
    }
    let record = Record::of(snapshot.id, info, Usage::default());
    let next = tables
        .facts
        .get(NEXT_ID)?
        .map_or(0, |next| next.value())
        .max(snapshot.id + 1);
    tables.facts.insert(NEXT_ID, next)?;
    tables
        .records
        .insert(info.name.as_str(), record.encode_to_vec().as_slice())?;
    if let Some(parent) = parents.first() {
        tables.children.insert((*parent, snapshot.id), ())?;
    }
    Ok(())
}

/// The record of `key`, if it may be committed as `name`.
pub(super) fn committable(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
    key: &str,
) -> Result<Record, Refusal> {
    if find(table, name)?.is_some() {
        return Err(Error::already_exists(format!("committed snapshot {name} already exists")).into());
    }
    let record = existing(table, key)?;
    if record.kind() != Kind::Active {
        return Err(Error::failed_precondition(format!(
            "snapshot {key} is not active: only an active snapshot can be committed"
        ))
        .into());
    }
    Ok(record)
}

/// Whether `record`, that of `key`, gets a parent by being committed onto `parent`.
pub(super) fn rebased(record: &Record, key: &str, parent: &str) -> Result<bool, Error> {
    if parent.is_empty() || record.parent == parent {
        return Ok(false);
    }
    if record.parent.is_empty() {
        return Ok(true);
    }
    Err(Error::invalid_argument(format!(
        "snapshot {key} cannot be committed onto {parent}: it stands on {}",
        record.parent
    )))
}

/// Turns the active `key` into the committed `name`, which stands on `parent` if it stood on nothing. Its labels are replaced, not inherited.
pub(super) fn commit(
    tables: &mut Tables<'_>,
    name: &str,
    key: &str,
    parent: &str,
    labels: Labels,
    usage: Usage,
) -> Result<Stored, Refusal> {
    let mut record = committable(&tables.records, name, key)?;
    if rebased(&record, key, parent)? {
        if let Some(parent) = parents(&tables.records, parent)?.first() {
            tables.children.insert((*parent, record.id), ())?;
        }
        parent.clone_into(&mut record.parent);
    }
    let now = nanoseconds(SystemTime::now());
    record.kind = Kind::Committed as i32;
    record.labels = without_empty(labels);
    (record.created, record.updated) = (now, now);
    (record.inodes, record.size) = (usage.inodes, usage.size);
    tables.records.insert(name, record.encode_to_vec().as_slice())?;
    tables.records.remove(key)?;
    Ok(record.stored(name))
}

/// Forgets `key`.
pub(super) fn remove(tables: &mut Tables<'_>, key: &str) -> Result<Stored, Refusal> {
    let record = existing(&tables.records, key)?;
    if tables
        .children
        .range((record.id, 0)..=(record.id, u64::MAX))?
        .next()
        .is_some()
    {
        return Err(Error::failed_precondition(format!(
            "cannot remove snapshot {key} with child: another snapshot stands on it; remove that one first"
        ))
        .into());
    }
    if !record.parent.is_empty() {
        let parent = existing(&tables.records, &record.parent)?;
        tables.children.remove((parent.id, record.id))?;
    }
    tables.records.remove(key)?;
    Ok(record.stored(key))
}

/// Changes labels: those that `fields` name, or all.
pub(super) fn update(tables: &mut Tables<'_>, info: &SnapshotInfo, fields: &[String]) -> Result<Stored, Refusal> {
    let mut record = existing(&tables.records, &info.name)?;
    if fields.is_empty() {
        record.labels = info.labels.clone();
    }
    for field in fields {
        if field == "labels" {
            record.labels = info.labels.clone();
        } else if let Some(key) = field.strip_prefix("labels.") {
            let value = info.labels.get(key).cloned().unwrap_or_default();
            record.labels.insert(key.to_owned(), value);
        } else {
            return Err(Error::invalid_argument(format!(
                "cannot update field {field:?} of snapshot {}: only labels can be changed",
                info.name
            ))
            .into());
        }
    }
    record.labels = without_empty(record.labels);
    record.updated = nanoseconds(SystemTime::now());
    tables
        .records
        .insert(info.name.as_str(), record.encode_to_vec().as_slice())?;
    Ok(record.stored(&info.name))
}

/// Whether something may be mounted: everything but what is committed.
pub(super) fn mountable(kind: SnapshotKind, key: &str) -> Result<(), Error> {
    if kind == SnapshotKind::Committed {
        return Err(Error::failed_precondition(format!(
            "snapshot {key} is committed: only an active snapshot or a view has mounts"
        )));
    }
    Ok(())
}
