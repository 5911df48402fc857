//! Sweeping: small transactions that remove what was not reached, and is not meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use containerd_client::events;
use containerd_client::services::v1::ImageDelete;
use orlop_plugin::Result;
use orlop_plugin::contract::Namespace;

use super::mark::Marks;
use crate::record::SnapshotRecord;
use crate::shared::Shared;
use crate::store::{Draft, Key, Kind, Reader};
use crate::{leases, snapshots};

/// About how many records one transaction looks at: few enough that writers hardly notice.
const CHUNK: usize = 512;

/// What a sweep did.
#[derive(Debug, Default)]
pub(super) struct Swept {
    pub(super) removed: u64,
    /// How long other writers could not run.
    pub(super) blocked: Duration,
}

/// Removes what is dead, group after group.
pub(super) async fn sweep(shared: &Arc<Shared>, mut marks: Marks, groups: Vec<Vec<Key>>) -> Result<Swept> {
    let mut swept = Swept::default();
    let mut groups = groups.into_iter().peekable();
    while groups.peek().is_some() {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            match groups.next() {
                Some(group) => chunk.extend(group),
                None => break,
            }
        }
        let removed;
        (marks, removed) = shared
            .store
            .write_quietly(move |draft| {
                let begun = Instant::now();
                let removed = remove_unreached(draft, &mut marks, chunk)?;
                Ok((marks, (removed, begun.elapsed())))
            })
            .await?;
        let (removed, blocked) = removed;
        swept.removed += removed.len() as u64;
        swept.blocked += blocked;
        for key in removed {
            tell(shared, &key).await;
        }
    }
    Ok(swept)
}

fn remove_unreached(draft: &mut Draft<'_>, marks: &mut Marks, chunk: Vec<Key>) -> Result<Vec<Key>> {
    let stored = draft.take_journal();
    marks.revisit(draft, stored)?;
    let mut removed = Vec::new();
    for key in chunk {
        if !marks.reached(&key) && remove(draft, &key)? {
            removed.push(key);
        }
    }
    Ok(removed)
}

/// Removes a record with what belongs to it; false when it is gone already.
fn remove(draft: &mut Draft<'_>, key: &Key) -> Result<bool> {
    if !draft.has(key)? {
        return Ok(false);
    }
    match key.kind() {
        Kind::Snapshot => {
            let [ns, snapshotter, name] = key.parts();
            let record: SnapshotRecord = draft.load(key)?.unwrap_or_default();
            snapshots::remove_record(draft, ns, snapshotter, name, &record);
        }
        Kind::Lease => {
            let [ns, id] = key.parts();
            leases::remove(draft, ns, id)?;
        }
        _ => draft.delete(key.clone()),
    }
    Ok(true)
}

/// Notes the backend that has something to clean, and publishes what containerd publishes.
async fn tell(shared: &Arc<Shared>, key: &Key) {
    // A namespace of a key was one when the key was made.
    let Ok(ns) = Namespace::new(key.namespace()) else {
        return;
    };
    match key.kind() {
        Kind::Blob | Kind::Ingest => shared.dirty.content(),
        Kind::Snapshot => {
            let [_, snapshotter, name] = key.parts();
            shared.dirty.snapshotter(snapshotter);
            let event = events::SnapshotRemove {
                key: name.to_owned(),
                snapshotter: snapshotter.to_owned(),
            };
            shared.publish(&ns, event).await;
        }
        Kind::Image => {
            let [_, name] = key.parts();
            shared.publish(&ns, ImageDelete { name: name.to_owned() }).await;
        }
        _ => {}
    }
}
