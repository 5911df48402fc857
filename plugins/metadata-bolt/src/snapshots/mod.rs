//! Namespaced snapshotters: what a client calls `KEY` in namespace `NS` is `NS/COUNTER/KEY` to the snapshotter underneath.
//!
//! The record here has the labels, the parent and the times; the snapshotter underneath has the kind and the files, and of the labels
//! those that are meant for it. Removing removes the record: the files go with the next garbage collection.
//!
//! ```text
//!   prepare, view    the snapshotter makes it ▶ the record commits           what a crash leaves has no record: it is garbage
//!   commit           the intent commits ▶ the snapshotter commits ▶ the record of the name commits
//!                                       └ a crash leaves the intent, settled before the snapshotter is used next (commit.rs)
//! ```

mod commit;
mod create;

pub(crate) use commit::Settled;

use std::collections::HashMap;
use std::sync::Arc;

use containerd_client::events;
use futures_util::FutureExt;
use orlop_plugin::contract::{
    BoxStream, Ctx, Labels, Mount, SnapshotInfo, SnapshotKind, Snapshotter, Snapshotters, Usage, async_trait, collect,
    stream_of,
};
use orlop_plugin::filter::{self, Filters};
use orlop_plugin::{Error, Result};

use crate::labels;
use crate::leases::snapshots;
use crate::record::{self, SnapshotRecord, time};
use crate::shared::{Caller, Shared};
use crate::store::{Draft, Key, Kind, Prefix, Reader, decode, no_nul};

/// Names the layer that a snapshot is for: a remote snapshotter that has it answers `AlreadyExists`.
const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";

/// Labels that are meant for the snapshotter underneath begin so.
const INHERITED: &str = "containerd.io/snapshot/";

/// The namespaced snapshotters, by name.
pub(crate) struct NamespacedSnapshotters(pub(crate) Arc<Shared>);

/// One of them.
#[derive(Clone)]
pub(crate) struct NamespacedSnapshotter {
    shared: Arc<Shared>,
    name: Arc<str>,
}

fn snapshot_not_found(key: &str) -> Error {
    Error::not_found(format!("snapshot {key} does not exist: not found"))
}

/// The labels that the snapshotter underneath is told.
fn inherited(labels: &Labels) -> Labels {
    let passed = labels
        .iter()
        .filter(|(key, _)| *key == SNAPSHOT_REF || key.starts_with(INHERITED));
    passed.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// What the snapshotter underneath says of a snapshot, with what the record says laid over it.
fn overlay(mut info: SnapshotInfo, key: &str, record: SnapshotRecord) -> SnapshotInfo {
    info.labels.extend(record.labels);
    SnapshotInfo {
        kind: info.kind,
        name: key.to_owned(),
        parent: record.parent,
        labels: info.labels,
        created: time(record.created),
        updated: time(record.updated),
    }
}

/// Removes the record of a snapshot, and its parent's record of it.
pub(crate) fn remove_record(draft: &mut Draft<'_>, ns: &str, snapshotter: &str, key: &str, record: &SnapshotRecord) {
    draft.delete(Key::snapshot(ns, snapshotter, key));
    if !record.parent.is_empty() {
        draft.delete(Key::child(ns, snapshotter, &record.parent, key));
    }
}

fn matches(filters: &Filters, info: &SnapshotInfo) -> bool {
    filters.matches(|path| match path {
        ["kind", ..] => Some(match info.kind {
            SnapshotKind::Active => "active",
            SnapshotKind::View => "view",
            SnapshotKind::Committed => "committed",
        }),
        ["name", ..] => Some(info.name.as_str()),
        ["parent", ..] => Some(info.parent.as_str()),
        ["labels", key @ ..] => filter::label(&info.labels, key),
        _ => None,
    })
}

// === impl NamespacedSnapshotters ===

impl Snapshotters for NamespacedSnapshotters {
    /// The plugin is looked for again at every operation, so that one that starts later or is replaced is found.
    fn snapshotter(&self, name: &str) -> Result<Arc<dyn Snapshotter>> {
        no_nul("snapshotter", name)?;
        // Inside the daemon the plugins are known at once.
        if let Some(Err(error)) = self.0.snapshotter(name).now_or_never() {
            return Err(error);
        }
        Ok(Arc::new(NamespacedSnapshotter {
            shared: Arc::clone(&self.0),
            name: name.into(),
        }))
    }
}

// === impl NamespacedSnapshotter ===

impl NamespacedSnapshotter {
    /// The snapshotter underneath, once what a crash left of commits is settled.
    async fn backend(&self) -> Result<Arc<dyn Snapshotter>> {
        let backend = self.shared.snapshotter(&self.name).await?;
        commit::settle_all(&self.shared, &self.name, &backend).await?;
        Ok(backend)
    }

    fn record(&self, ctx: &Ctx, key: &str) -> Result<SnapshotRecord> {
        let caller = Caller::of(ctx)?;
        let record = self
            .shared
            .store
            .view()
            .load(&Key::snapshot(caller.ns(), &self.name, key))?;
        record.ok_or_else(|| snapshot_not_found(key))
    }
}

#[async_trait]
impl Snapshotter for NamespacedSnapshotter {
    async fn stat(&self, ctx: &Ctx, key: &str) -> Result<SnapshotInfo> {
        let backend = self.backend().await?;
        let record = self.record(ctx, key)?;
        let info = backend
            .stat(ctx, &record.backend)
            .await
            .map_err(|error| error.context(format!("snapshot {key}")))?;
        Ok(overlay(info, key, record))
    }

    /// The snapshotter underneath comes first: if it refuses, nothing has changed.
    async fn update(&self, ctx: &Ctx, info: SnapshotInfo, fields: &[String]) -> Result<SnapshotInfo> {
        if info.name.is_empty() {
            return Err(Error::invalid_argument("snapshot name must not be empty"));
        }
        let (caller, backend) = (Caller::of(ctx)?, self.backend().await?);
        let mut record = self.record(ctx, &info.name)?;
        labels::update(&mut record.labels, &info.labels, fields, "snapshot", &info.name)?;
        labels::validate("info.Labels", &record.labels)?;
        let inner = SnapshotInfo {
            name: record.backend.clone(),
            labels: inherited(&record.labels),
            ..info.clone()
        };
        let inner = backend.update(ctx, inner, fields).await?;
        let (key, name, fields) = (info.name, Arc::clone(&self.name), fields.to_vec());
        let (key, record) = self
            .shared
            .store
            .write(move |draft| {
                let place = Key::snapshot(caller.ns(), &name, &key);
                let mut record: SnapshotRecord = draft.load(&place)?.ok_or_else(|| snapshot_not_found(&key))?;
                labels::update(&mut record.labels, &info.labels, &fields, "snapshot", &key)?;
                record.labels = labels::kept(record.labels);
                record.updated = record::now();
                draft.put(place, &record);
                Ok((key, record))
            })
            .await?;
        Ok(overlay(inner, &key, record))
    }

    async fn usage(&self, ctx: &Ctx, key: &str) -> Result<Usage> {
        let backend = self.backend().await?;
        backend
            .usage(ctx, &self.record(ctx, key)?.backend)
            .await
            .map_err(|error| error.context(format!("snapshot {key}")))
    }

    async fn mounts(&self, ctx: &Ctx, key: &str) -> Result<Vec<Mount>> {
        let backend = self.backend().await?;
        backend
            .mounts(ctx, &self.record(ctx, key)?.backend)
            .await
            .map_err(|error| error.context(format!("snapshot {key}")))
    }

    async fn prepare(&self, ctx: &Ctx, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let mounts = self.create(ctx, SnapshotKind::Active, key, parent, labels).await?;
        let event = events::SnapshotPrepare {
            key: key.to_owned(),
            parent: parent.to_owned(),
            snapshotter: self.name.to_string(),
        };
        self.shared.publish(ctx.namespace()?, event).await;
        Ok(mounts)
    }

    async fn view(&self, ctx: &Ctx, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(ctx, SnapshotKind::View, key, parent, labels).await
    }

    async fn commit(&self, ctx: &Ctx, name: &str, key: &str, labels: Labels) -> Result<()> {
        self.commit_onto(ctx, name, key, "", labels).await
    }

    async fn commit_onto(&self, ctx: &Ctx, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        self.commit_as(ctx, name, key, parent, labels).await?;
        let event = events::SnapshotCommit {
            key: key.to_owned(),
            name: name.to_owned(),
            snapshotter: self.name.to_string(),
        };
        self.shared.publish(ctx.namespace()?, event).await;
        Ok(())
    }

    async fn remove(&self, ctx: &Ctx, key: &str) -> Result<()> {
        let (caller, _) = (Caller::of(ctx)?, self.backend().await?);
        let (name, removed) = (Arc::clone(&self.name), key.to_owned());
        self.shared
            .store
            .write(move |draft| {
                let place = Key::snapshot(caller.ns(), &name, &removed);
                let record: SnapshotRecord = draft.load(&place)?.ok_or_else(|| snapshot_not_found(&removed))?;
                if let Some(child) = draft.first(&Prefix::of(Kind::Child, &[caller.ns(), &name, &removed]))? {
                    let [_, _, _, child] = child.parts();
                    return Err(Error::failed_precondition(format!(
                        "cannot remove snapshot {removed} with child: {child} stands on it"
                    )));
                }
                if record.committing.is_some() {
                    return Err(Error::failed_precondition(format!(
                        "cannot remove snapshot {removed}: it is being committed"
                    )));
                }
                remove_record(draft, caller.ns(), &name, &removed, &record);
                caller.release(draft, &snapshots(&name), &removed);
                draft.leaves_garbage();
                Ok(())
            })
            .await?;
        self.shared.dirty.snapshotter(&self.name);
        let event = events::SnapshotRemove {
            key: key.to_owned(),
            snapshotter: self.name.to_string(),
        };
        self.shared.publish(ctx.namespace()?, event).await;
        Ok(())
    }

    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<SnapshotInfo>> {
        let (caller, filters) = (Caller::of(ctx)?, Filters::parse(filters)?);
        let (backend, name) = (self.backend().await?, Arc::clone(&self.name));
        let records = self
            .shared
            .store
            .read(move |view| {
                let mut records = Vec::new();
                view.scan(&Prefix::of(Kind::Snapshot, &[caller.ns(), &name]), &mut |key, value| {
                    let record: SnapshotRecord = decode(&key, value)?;
                    let [_, _, key] = key.parts();
                    records.push((key.to_owned(), record));
                    Ok(())
                })?;
                Ok(records)
            })
            .await?;
        if records.is_empty() {
            return Ok(stream_of(Vec::new()));
        }
        // One walk underneath instead of a question for every record. What it does not have was removed since.
        let inner = collect(backend.list(ctx, &[]).await?).await?;
        let mut inner: HashMap<_, _> = inner.into_iter().map(|info| (info.name.clone(), info)).collect();
        let infos = records.into_iter().filter_map(|(key, record)| {
            let info = inner.remove(&record.backend)?;
            Some(overlay(info, &key, record)).filter(|info| matches(&filters, info))
        });
        Ok(stream_of(infos.collect()))
    }

    /// Frees what removed snapshots left behind in the snapshotter underneath, of any namespace.
    async fn cleanup(&self, ctx: &Ctx) -> Result<()> {
        self.backend().await?.cleanup(ctx).await
    }
}

#[cfg(test)]
mod tests;
