//! Reading and drafting: what an operation sees and changes inside the shared write transaction.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use orlop_plugin::contract::Labels;
use orlop_plugin::{Error, Result};
use prost::Message;
use redb::{ReadOnlyTable, ReadableTable, Table};

use super::failed;
use super::key::{Key, Prefix};
use crate::record::NamespaceRecord;

pub(super) type Bytes = &'static [u8];

/// Is shown a key and its record, and says whether it wants more.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>> + 'a;

/// Whoever can be asked for records: a committed view, or a draft over the transaction under way.
pub(crate) trait Reader {
    /// The record of `key`, encoded.
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>>;

    /// Visits the records of `prefix` from `from` on, in key order, until told to break.
    fn scan_from(&self, prefix: &Prefix, from: &[u8], visit: &mut Visit<'_>) -> Result<()>;

    /// Visits all records of `prefix`, in key order.
    fn scan(&self, prefix: &Prefix, visit: &mut dyn FnMut(Key, &[u8]) -> Result<()>) -> Result<()> {
        self.scan_from(prefix, prefix.start(), &mut |key, value| {
            visit(Key::from_bytes(key)?, value)?;
            Ok(ControlFlow::Continue(()))
        })
    }

    /// The first key of `prefix`.
    fn first(&self, prefix: &Prefix) -> Result<Option<Key>> {
        let mut first = None;
        self.scan_from(prefix, prefix.start(), &mut |key, _| {
            first = Some(Key::from_bytes(key)?);
            Ok(ControlFlow::Break(()))
        })?;
        Ok(first)
    }

    /// All keys of `prefix`.
    fn keys(&self, prefix: &Prefix) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        self.scan(prefix, &mut |key, _| {
            keys.push(key);
            Ok(())
        })?;
        Ok(keys)
    }

    /// The record of `key`, decoded.
    fn load<R: Message + Default>(&self, key: &Key) -> Result<Option<R>>
    where
        Self: Sized,
    {
        self.get(key)?.map(|value| decode(key, &value)).transpose()
    }

    /// Whether `key` has a record.
    fn has(&self, key: &Key) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }
}

/// A record from its bytes. `DataLoss` when they are damaged.
pub(crate) fn decode<R: Message + Default>(key: &Key, value: &[u8]) -> Result<R> {
    R::decode(value)
        .map_err(|error| Error::data_loss(format!("the record {key:?} of the metadata is damaged: {error}")))
}

/// All that was committed at one moment; never changes, never waits.
pub(crate) struct View(pub(super) ReadOnlyTable<Bytes, Bytes>);

impl Reader for View {
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        let value = self.0.get(key.as_bytes()).map_err(|e| failed("read the metadata", e))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn scan_from(&self, prefix: &Prefix, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        let end = prefix.end();
        let range = match &end {
            Some(end) => self.0.range(from..end.as_slice()),
            None => self.0.range(from..),
        };
        for entry in range.map_err(|e| failed("read the metadata", e))? {
            let (key, value) = entry.map_err(|e| failed("read the metadata", e))?;
            if visit(key.value(), value.value())?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// What one operation changes: kept beside the transaction until the operation has succeeded, so that one that fails leaves
/// nothing behind in the batch it shares with others.
pub(crate) struct Draft<'t> {
    table: &'t Table<'t, Bytes, Bytes>,
    journal: &'t mut Option<Vec<Key>>,
    changes: BTreeMap<Key, Option<Vec<u8>>>,
    garbage: bool,
}

/// The changes of an operation that succeeded.
pub(super) struct Changes {
    pub(super) records: BTreeMap<Key, Option<Vec<u8>>>,
    pub(super) garbage: bool,
}

// === impl Draft ===

impl<'t> Draft<'t> {
    pub(super) fn new(table: &'t Table<'t, Bytes, Bytes>, journal: &'t mut Option<Vec<Key>>) -> Self {
        Self {
            table,
            journal,
            changes: BTreeMap::new(),
            garbage: false,
        }
    }

    pub(super) fn into_changes(self) -> Changes {
        Changes {
            records: self.changes,
            garbage: self.garbage,
        }
    }

    /// Stores a record.
    pub(crate) fn put(&mut self, key: Key, record: &impl Message) {
        self.changes.insert(key, Some(record.encode_to_vec()));
    }

    /// Stores a key whose presence says all.
    pub(crate) fn put_empty(&mut self, key: Key) {
        self.changes.insert(key, Some(Vec::new()));
    }

    /// Removes a record, if it is there.
    pub(crate) fn delete(&mut self, key: Key) {
        self.changes.insert(key, None);
    }

    /// Removes all records of `prefix`.
    pub(crate) fn delete_all(&mut self, prefix: &Prefix) -> Result<()> {
        for key in self.keys(prefix)? {
            self.delete(key);
        }
        Ok(())
    }

    /// Says that this operation may have left garbage.
    pub(crate) fn leaves_garbage(&mut self) {
        self.garbage = true;
    }

    /// A namespace comes to be with the first object in it.
    pub(crate) fn ensure_namespace(&mut self, ns: &str) -> Result<()> {
        let key = Key::namespace_record(ns);
        if !self.has(&key)? {
            self.put(key, &NamespaceRecord { labels: Labels::new() });
        }
        Ok(())
    }

    /// From now on, every record stored by a later operation is noted.
    pub(crate) fn start_journal(&mut self) {
        *self.journal = Some(Vec::new());
    }

    /// What was stored since the journal was started or taken last.
    pub(crate) fn take_journal(&mut self) -> Vec<Key> {
        self.journal.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl Reader for Draft<'_> {
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        if let Some(changed) = self.changes.get(key) {
            return Ok(changed.clone());
        }
        let value = self
            .table
            .get(key.as_bytes())
            .map_err(|e| failed("read the metadata", e))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn scan_from(&self, prefix: &Prefix, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        let end = prefix.end();
        let within = |key: &[u8]| key >= from && end.as_ref().is_none_or(|end| key < end.as_slice());
        let range = match &end {
            Some(end) => self.table.range(from..end.as_slice()),
            None => self.table.range(from..),
        };
        let mut stored = range.map_err(|e| failed("read the metadata", e))?;
        let mut drafted = self.changes.iter().filter(|(key, _)| within(key.as_bytes()));
        let mut next = || stored.next().transpose().map_err(|e| failed("read the metadata", e));
        let (mut old, mut new) = (next()?, drafted.next());
        loop {
            let older_first = match (&old, new) {
                (None, None) => return Ok(()),
                (Some((old, _)), Some((new, _))) => old.value() < new.as_bytes(),
                (old, _) => old.is_some(),
            };
            let flow = match (&old, new) {
                (Some((key, value)), _) if older_first => {
                    let flow = visit(key.value(), value.value())?;
                    old = next()?;
                    flow
                }
                (_, Some((key, change))) => {
                    if old.as_ref().is_some_and(|(old, _)| old.value() == key.as_bytes()) {
                        old = next()?;
                    }
                    new = drafted.next();
                    match change {
                        Some(value) => visit(key.as_bytes(), value)?,
                        None => ControlFlow::Continue(()),
                    }
                }
                _ => return Ok(()),
            };
            if flow.is_break() {
                return Ok(());
            }
        }
    }
}
