//! Preparing a snapshot or a view.

use std::sync::Arc;

use orlop_plugin::contract::{Ctx, Labels, Mount, SnapshotInfo, SnapshotKind, Snapshotter, collect};
use orlop_plugin::{Error, Result};

use super::{NamespacedSnapshotter, SNAPSHOT_REF, inherited};
use crate::in_flight;
use crate::labels;
use crate::leases::snapshots;
use crate::record::{self, SnapshotRecord};
use crate::shared::{Caller, Shared, backend_key, detached};
use crate::store::{Key, Reader, no_nul};

/// A snapshot on its way: runs to its end, whatever becomes of its caller.
struct Create {
    shared: Arc<Shared>,
    backend: Arc<dyn Snapshotter>,
    snapshotter: Arc<str>,
    ctx: Ctx,
    caller: Caller,
    kind: SnapshotKind,
    key: String,
    parent: String,
    labels: Labels,
}

/// A snapshot that the snapshotter underneath has, and its record does not exist yet.
struct Made {
    key: String,
    backend: String,
    backend_parent: String,
    labels: Labels,
    created: i64,
    updated: i64,
}

// === impl NamespacedSnapshotter ===

impl NamespacedSnapshotter {
    /// Makes a snapshot of `kind`.
    pub(super) async fn create(
        &self,
        ctx: &Ctx,
        kind: SnapshotKind,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let caller = Caller::of(ctx)?;
        if key.is_empty() {
            return Err(Error::invalid_argument("snapshot key must not be empty"));
        }
        no_nul("snapshot key", key)?;
        labels::validate("info.Labels", &labels)?;
        if let Some(target) = labels.get(SNAPSHOT_REF) {
            no_nul(SNAPSHOT_REF, target)?;
        }
        let create = Create {
            shared: Arc::clone(&self.shared),
            backend: self.backend().await?,
            snapshotter: Arc::clone(&self.name),
            ctx: ctx.clone(),
            caller,
            kind,
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels::kept(labels),
        };
        detached(create.run()).await
    }
}

// === impl Create ===

impl Create {
    async fn run(self) -> Result<Vec<Mount>> {
        let in_flight = &self.shared.in_flight;
        // Nobody commits to this key meanwhile.
        let _record = in_flight
            .hold(in_flight::snapshot_record(
                self.caller.ns(),
                &self.snapshotter,
                &self.key,
            ))
            .await;
        let backend_parent = self.check().await?;
        let now = record::now();
        let made = Made {
            backend: backend_key(self.caller.ns(), self.shared.store.next_id().await?, &self.key),
            key: self.key.clone(),
            backend_parent: backend_parent.clone(),
            labels: self.labels.clone(),
            created: now,
            updated: now,
        };
        let held = in_flight
            .hold(in_flight::snapshot(&self.snapshotter, &made.backend))
            .await;
        let inner = inherited(&self.labels);
        let answer = match self.kind {
            SnapshotKind::View => {
                self.backend
                    .view(&self.ctx, &made.backend, &backend_parent, inner)
                    .await
            }
            _ => {
                self.backend
                    .prepare(&self.ctx, &made.backend, &backend_parent, inner)
                    .await
            }
        };
        match answer {
            Ok(mounts) => {
                let backend = made.backend.clone();
                let recorded = self.record(made).await;
                if recorded.is_err() {
                    self.undo(&backend).await;
                }
                drop(held);
                recorded.map(|()| mounts)
            }
            Err(error) if error.is_already_exists() => match self.labels.get(SNAPSHOT_REF) {
                Some(target) => Err(self.adopt(target, backend_parent).await),
                // The key was never used before, so this cannot be; and to a client it would mean that the snapshot is there.
                None => Err(Error::unknown(format!("unexpected error from snapshotter: {error}"))),
            },
            Err(error) => {
                // It may have been made all the same, if only the answer was lost.
                self.shared.dirty.snapshotter(&self.snapshotter);
                Err(error)
            }
        }
    }

    /// What the snapshotter underneath calls the parent. `AlreadyExists`, with the lease holding what there is, when the key or the
    /// snapshot that this one is for exist.
    async fn check(&self) -> Result<String> {
        let (caller, snapshotter) = (self.caller.clone(), Arc::clone(&self.snapshotter));
        let (key, parent) = (self.key.clone(), self.parent.clone());
        let target = self.labels.get(SNAPSHOT_REF).cloned();
        // What exists is an outcome to commit, for the lease's sake, and an error to the caller.
        let checked = self.shared.store.write(move |draft| {
            if let Some(target) = target.filter(|target| !target.is_empty())
                && draft.has(&Key::snapshot(caller.ns(), &snapshotter, &target))?
            {
                caller.hold(draft, &snapshots(&snapshotter), &target)?;
                return Ok(Err(Error::already_exists(format!(
                    "target snapshot {target:?}: already exists"
                ))));
            }
            if draft.has(&Key::snapshot(caller.ns(), &snapshotter, &key))? {
                caller.hold(draft, &snapshots(&snapshotter), &key)?;
                return Ok(Err(Error::already_exists(format!("snapshot {key:?}: already exists"))));
            }
            if parent.is_empty() {
                return Ok(Ok(String::new()));
            }
            match draft.load::<SnapshotRecord>(&Key::snapshot(caller.ns(), &snapshotter, &parent))? {
                Some(record) => Ok(Ok(record.backend)),
                None => Err(Error::not_found(format!(
                    "parent snapshot {parent} does not exist: not found"
                ))),
            }
        });
        checked.await?
    }

    /// Records the snapshot that the snapshotter underneath has under the label `target`. The outcome is an error in any case:
    /// `AlreadyExists` is what the caller hoped for.
    async fn adopt(&self, target: &str, backend_parent: String) -> Error {
        let filter = format!("labels.{SNAPSHOT_REF:?}=={target},parent=={backend_parent:?}");
        let found = async {
            let infos = collect(self.backend.list(&self.ctx, &[filter]).await?).await?;
            let fits = |info: &SnapshotInfo| {
                info.kind == SnapshotKind::Committed
                    && info.labels.get(SNAPSHOT_REF).is_some_and(|label| label == target)
                    && info.parent == backend_parent
            };
            infos
                .into_iter()
                .find(fits)
                .ok_or_else(|| Error::not_found(format!("target snapshot {target:?} in backend: not found")))
        };
        let adopted = async {
            let name = found
                .await
                .map_err(|error| error.context("failed walking backend snapshots"))?
                .name;
            let held = self
                .shared
                .in_flight
                .hold(in_flight::snapshot(&self.snapshotter, &name))
                .await;
            // It may have been cleaned away before it was held.
            let info = self.backend.stat(&self.ctx, &name).await?;
            let mut labels = info.labels;
            labels.extend(self.labels.clone());
            let made = Made {
                key: target.to_owned(),
                backend: info.name,
                backend_parent: info.parent,
                labels: labels::kept(labels),
                created: record::nanos(info.created),
                updated: record::nanos(info.updated),
            };
            self.record(made).await?;
            drop(held);
            Ok(())
        };
        match adopted.await {
            Ok(()) => Error::already_exists(format!("target snapshot {target:?} from snapshotter: already exists")),
            Err(error) => error,
        }
    }

    /// Commits the record.
    async fn record(&self, made: Made) -> Result<()> {
        let (caller, snapshotter, parent) = (self.caller.clone(), Arc::clone(&self.snapshotter), self.parent.clone());
        let recorded = self.shared.store.write(move |draft| {
            let ns = caller.ns();
            caller.hold(draft, &snapshots(&snapshotter), &made.key)?;
            let key = Key::snapshot(ns, &snapshotter, &made.key);
            if draft.has(&key)? {
                return Ok(Err(Error::already_exists(format!(
                    "snapshot {:?}: already exists",
                    made.key
                ))));
            }
            if !parent.is_empty() {
                let record: SnapshotRecord = draft
                    .load(&Key::snapshot(ns, &snapshotter, &parent))?
                    .ok_or_else(|| Error::not_found(format!("parent snapshot {parent} does not exist: not found")))?;
                if record.backend != made.backend_parent {
                    return Err(Error::invalid_argument(format!(
                        "mismatched parent {parent} from target {:?}: the snapshotter's stands on {:?}",
                        made.key, made.backend_parent
                    )));
                }
                draft.put_empty(Key::child(ns, &snapshotter, &parent, &made.key));
            }
            let record = SnapshotRecord {
                labels: made.labels,
                backend: made.backend,
                parent,
                created: made.created,
                updated: made.updated,
                committing: None,
            };
            draft.put(key, &record);
            draft.ensure_namespace(ns)?;
            Ok(Ok(()))
        });
        recorded.await?
    }

    /// Removes a snapshot whose record could not be committed.
    async fn undo(&self, backend: &str) {
        if let Err(error) = self.backend.remove(&self.ctx, backend).await {
            tracing::warn!(snapshotter = %self.snapshotter, snapshot = backend, %error, "a snapshot without a record stays until garbage is collected");
            self.shared.dirty.snapshotter(&self.snapshotter);
        }
    }
}
