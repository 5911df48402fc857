//! Marking: what must stay.
//!
//! The nodes of the graph are the keys of the records. A node is reached flat or fully; what is reached fully after it was reached flat is
//! followed again. Nothing here changes the store.

use std::collections::{BTreeMap, HashMap, HashSet};

use orlop_plugin::Result;
use orlop_plugin::contract::Labels;

use super::conditions::{self, Condition};
use super::labels::{self, Depth, FLAT};
use crate::leases;
use crate::record::{BlobRecord, ImageRecord, IngestRecord, LeaseRecord, SnapshotRecord};
use crate::store::{Key, Kind, Prefix, Reader, decode};

/// What was reached.
#[derive(Default)]
pub(super) struct Marks {
    reached: HashMap<Key, Depth>,
    /// For a node, the nodes that by their own labels live as long as it.
    back_references: HashMap<Key, Vec<Key>>,
}

/// What one pass over the records finds.
#[derive(Default)]
struct Scan {
    roots: Vec<(Key, Depth)>,
    /// What may be removed, if it is not reached.
    candidates: Vec<Key>,
    back_references: HashMap<Key, Vec<Key>>,
    /// Content and images, the snapshots they refer to on a condition, and the condition.
    conditions: Vec<(Key, Key, Condition)>,
    /// When snapshots were last used, as far as they say.
    used_at: HashMap<Key, i64>,
    /// The leases that have not expired, and how what they hold is reached.
    leases: HashMap<Key, Depth>,
}

// === impl Marks ===

impl Marks {
    /// Marks over `reader` as of `now`; also gives what was not reached, in key order.
    pub(super) fn of(reader: &dyn Reader, now: i64) -> Result<(Self, Vec<Key>)> {
        let mut scan = Scan::default();
        reader.scan(&Prefix::all(), &mut |key, value| scan.visit(key, value, now))?;
        scan.weigh(now);
        let mut marks = Self {
            reached: HashMap::new(),
            back_references: scan.back_references,
        };
        marks.trace(reader, scan.roots)?;
        let dead = scan.candidates.into_iter().filter(|key| !marks.reached(key)).collect();
        Ok((marks, dead))
    }

    /// Whether a node was reached.
    pub(super) fn reached(&self, key: &Key) -> bool {
        self.reached.contains_key(key)
    }

    /// Reaches what was stored meanwhile, whatever reached it before: it may refer to other things now.
    pub(super) fn revisit(&mut self, reader: &dyn Reader, stored: Vec<Key>) -> Result<()> {
        let mut gray = Vec::new();
        for key in stored.into_iter().collect::<HashSet<_>>() {
            let key = match key.kind() {
                Kind::LeaseResource => {
                    let [ns, _, kind, id] = key.parts();
                    match leases::resource_key(ns, kind, id) {
                        Some(key) => key,
                        None => continue,
                    }
                }
                Kind::Adoption | Kind::Child | Kind::Namespace | Kind::Sequence => continue,
                _ => key,
            };
            self.reached.remove(&key);
            gray.push((key, Depth::Full));
        }
        self.trace(reader, gray)
    }

    /// What `key` refers to when it is reached fully, its back references among it.
    pub(super) fn references(&self, reader: &dyn Reader, key: &Key, push: &mut dyn FnMut(&Key)) -> Result<()> {
        self.follow(reader, key, Depth::Full, &mut |key, _| push(&key))
    }

    fn trace(&mut self, reader: &dyn Reader, mut gray: Vec<(Key, Depth)>) -> Result<()> {
        while let Some((key, depth)) = gray.pop() {
            if self.reached.get(&key).is_some_and(|reached| *reached >= depth) {
                continue;
            }
            self.follow(reader, &key, depth, &mut |key, depth| gray.push((key, depth)))?;
            self.reached.insert(key, depth);
        }
        Ok(())
    }

    fn follow(&self, reader: &dyn Reader, key: &Key, depth: Depth, push: &mut dyn FnMut(Key, Depth)) -> Result<()> {
        if depth == Depth::Full {
            for key in self.back_references.get(key).into_iter().flatten() {
                push(key.clone(), Depth::Full);
            }
        }
        // References may lead nowhere.
        match reader.get(key)? {
            Some(value) => labels::record_references(key, &value, depth, push),
            None => Ok(()),
        }
    }
}

// === impl Scan ===

impl Scan {
    /// Leases come before what they hold, because of the order of the keys.
    fn visit(&mut self, key: Key, value: &[u8], now: i64) -> Result<()> {
        match key.kind() {
            Kind::Blob => {
                let record: BlobRecord = decode(&key, value)?;
                self.object(&key, &record.labels, labels::is_root(&record.labels));
                self.conditional(&key, &record.labels);
            }
            Kind::Snapshot => {
                let record: SnapshotRecord = decode(&key, value)?;
                // One that is being committed is about to be what its client wants.
                let root = record.committing.is_some() || labels::is_root(&record.labels);
                if let Some(used_at) = conditions::used_at(&record.labels) {
                    self.used_at.insert(key.clone(), used_at);
                }
                self.object(&key, &record.labels, root);
            }
            Kind::Image => {
                let record: ImageRecord = decode(&key, value)?;
                let root = !labels::expired(&record.labels, now);
                self.object(&key, &record.labels, root);
                self.conditional(&key, &record.labels);
            }
            Kind::Ingest => {
                let record: IngestRecord = decode(&key, value)?;
                self.object(&key, &BTreeMap::new(), record.expires > now);
            }
            Kind::Container => self.roots.push((key, Depth::Full)),
            Kind::Lease => {
                let record: LeaseRecord = decode(&key, value)?;
                if labels::expired(&record.labels, now) {
                    self.candidates.push(key);
                } else {
                    let depth = if record.labels.contains_key(FLAT) {
                        Depth::Flat
                    } else {
                        Depth::Full
                    };
                    self.leases.insert(key, depth);
                }
            }
            Kind::LeaseResource => {
                let [ns, lease, kind, id] = key.parts();
                if let Some(depth) = self.leases.get(&Key::lease(ns, lease)) {
                    self.roots
                        .extend(leases::resource_key(ns, kind, id).map(|key| (key, *depth)));
                }
            }
            Kind::Adoption | Kind::Child | Kind::Namespace | Kind::Sequence => {}
        }
        Ok(())
    }

    fn conditional(&mut self, key: &Key, labels: &Labels) {
        conditions::references(key.namespace(), labels, &mut |snapshot, condition| {
            self.conditions.push((key.clone(), snapshot, condition));
        });
    }

    /// A condition that holds makes a reference: both ends were read by now.
    fn weigh(&mut self, now: i64) {
        for (referrer, snapshot, condition) in std::mem::take(&mut self.conditions) {
            if self
                .used_at
                .get(&snapshot)
                .is_some_and(|used_at| condition.holds(*used_at, now))
            {
                self.back_references.entry(referrer).or_default().push(snapshot);
            }
        }
    }

    fn object(&mut self, key: &Key, labels: &Labels, root: bool) {
        labels::back_references(key.namespace(), labels, &mut |referrer| {
            self.back_references.entry(referrer).or_default().push(key.clone());
        });
        if root {
            self.roots.push((key.clone(), Depth::Full));
        } else {
            self.candidates.push(key.clone());
        }
    }
}
