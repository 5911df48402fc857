//! Committing a snapshot, so that the record and the snapshotter underneath agree again after a crash at any instant.
//!
//! ```text
//!   Active ──1─▶ Active{committing} ──2─▶ Active{committing}, committed underneath ──3─▶ Committed under its name
//!                       │ a crash, or no answer
//!                       └─▶ settled: committed underneath? 3 : Active again
//! ```

use std::sync::{Arc, PoisonError};

use orlop_plugin::contract::{Ctx, Labels, Namespace, Snapshotter};
use orlop_plugin::{Error, Result};

use super::{NamespacedSnapshotter, inherited, remove_record, snapshot_not_found};
use crate::in_flight;
use crate::labels;
use crate::leases::snapshots;
use crate::record::{self, CommitIntent, SnapshotRecord};
use crate::shared::{Caller, Shared, backend_key, detached};
use crate::store::{Draft, Key, Kind, Prefix, Reader, decode, no_nul};

/// A commit on its way: runs to its end, whatever becomes of its caller.
struct Commit {
    shared: Arc<Shared>,
    backend: Arc<dyn Snapshotter>,
    snapshotter: Arc<str>,
    ctx: Ctx,
    caller: Caller,
    key: String,
    intent: CommitIntent,
}

// === impl NamespacedSnapshotter ===

impl NamespacedSnapshotter {
    pub(super) async fn commit_as(&self, ctx: &Ctx, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        let caller = Caller::of(ctx)?;
        if name.is_empty() {
            return Err(Error::invalid_argument("snapshot name must not be empty"));
        }
        no_nul("snapshot name", name)?;
        labels::validate("info.Labels", &labels)?;
        let backend = self.backend().await?;
        let intent = CommitIntent {
            name: name.to_owned(),
            backend: backend_key(caller.ns(), self.shared.store.next_id().await?, name),
            labels: labels::kept(labels),
            parent: parent.to_owned(),
        };
        let commit = Commit {
            shared: Arc::clone(&self.shared),
            backend,
            snapshotter: Arc::clone(&self.name),
            ctx: ctx.clone(),
            caller,
            key: key.to_owned(),
            intent,
        };
        detached(commit.run()).await
    }
}

// === impl Commit ===

impl Commit {
    async fn run(self) -> Result<()> {
        let Self {
            shared,
            snapshotter,
            caller,
            ..
        } = &self;
        let place = Key::snapshot(caller.ns(), snapshotter, &self.key);
        // One commit to a name, and one of a snapshot, at a time; and no settling of either.
        let name = in_flight::snapshot_record(caller.ns(), snapshotter, &self.intent.name);
        let _name = shared.in_flight.claim(name).await;
        let active = shared
            .store
            .view()
            .load::<SnapshotRecord>(&place)?
            .unwrap_or_default()
            .backend;
        let _active = shared.in_flight.claim(in_flight::commit(snapshotter, &active)).await;
        let _held = shared
            .in_flight
            .hold(in_flight::snapshot(snapshotter, &self.intent.backend))
            .await;

        let parent = self.intend(&active).await?;
        let (name, labels) = (&self.intent.backend, inherited(&self.intent.labels));
        let committed = self
            .backend
            .commit_onto(&self.ctx, name, &active, &parent, labels)
            .await;
        if let Err(error) = committed {
            if !self.was_committed().await? {
                self.withdraw().await?;
                return Err(error.context(format!("commit snapshot {}", self.key)));
            }
            tracing::warn!(%snapshotter, key = self.key, %error, "a snapshot was committed, though its snapshotter did not say so");
        }
        self.finish().await
    }

    /// Commits the intent, and says what the new parent, if it gets one, is called underneath. `AlreadyExists`, with the lease holding it,
    /// when the name is taken.
    async fn intend(&self, active: &str) -> Result<String> {
        let (caller, snapshotter, key) = (self.caller.clone(), Arc::clone(&self.snapshotter), self.key.clone());
        let (intent, active) = (self.intent.clone(), active.to_owned());
        let intended = self.shared.store.write(move |draft| {
            if draft.has(&Key::snapshot(caller.ns(), &snapshotter, &intent.name))? {
                caller.hold(draft, &snapshots(&snapshotter), &intent.name)?;
                return Ok(Err(Error::already_exists(format!(
                    "snapshot {:?}: already exists",
                    intent.name
                ))));
            }
            let mut intent = intent;
            caller.require_lease(draft)?;
            let place = Key::snapshot(caller.ns(), &snapshotter, &key);
            let mut record: SnapshotRecord = draft.load(&place)?.ok_or_else(|| snapshot_not_found(&key))?;
            if record.backend != active || record.committing.is_some() {
                return Err(Error::aborted(format!(
                    "snapshot {key} changed while it was to be committed: try again"
                )));
            }
            let mut onto = String::new();
            if intent.parent == record.parent {
                // It stands there already: nothing to take back later.
                intent.parent.clear();
            }
            if !intent.parent.is_empty() {
                onto = rebase(draft, caller.ns(), &snapshotter, &key, &mut record, &intent.parent)?;
            }
            record.committing = Some(intent);
            draft.put(place, &record);
            Ok(Ok(onto))
        });
        intended.await?
    }

    /// Whether the snapshotter underneath has committed. While it cannot say, the intent stays, to be settled later.
    async fn was_committed(&self) -> Result<bool> {
        match self.backend.stat(&self.ctx, &self.intent.backend).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => {
                self.shared.settled.forget(&self.snapshotter);
                Err(error.context(format!("snapshot {} may or may not have been committed", self.key)))
            }
        }
    }

    /// Takes the intent back: nothing has happened.
    async fn withdraw(&self) -> Result<()> {
        let place = Key::snapshot(self.caller.ns(), &self.snapshotter, &self.key);
        let backend = self.intent.backend.clone();
        let withdrawn = self.shared.store.write(move |draft| {
            let record = draft.load::<SnapshotRecord>(&place)?;
            let intended = |record: &SnapshotRecord| record.committing.as_ref().is_some_and(|i| i.backend == backend);
            if let Some(mut record) = record.filter(intended) {
                if let Some(intent) = record.committing.take()
                    && !intent.parent.is_empty()
                {
                    let [ns, snapshotter, key] = place.parts();
                    draft.delete(Key::child(ns, snapshotter, &intent.parent, key));
                    record.parent.clear();
                }
                draft.put(place, &record);
            }
            Ok(())
        });
        withdrawn
            .await
            .inspect_err(|_| self.shared.settled.forget(&self.snapshotter))
    }

    /// Commits the record of the name in place of the active one's.
    async fn finish(&self) -> Result<()> {
        let (caller, snapshotter) = (self.caller.clone(), Arc::clone(&self.snapshotter));
        let (key, intent) = (self.key.clone(), self.intent.clone());
        let finished = self
            .shared
            .store
            .write(move |draft| rename(draft, &caller, &snapshotter, &key, intent))
            .await;
        match finished {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                // What was committed underneath is nobody's.
                self.shared.dirty.snapshotter(&self.snapshotter);
                Err(error)
            }
            Err(error) => {
                self.shared.settled.forget(&self.snapshotter);
                Err(error)
            }
        }
    }
}

/// Puts the active `key`, which stands on nothing, on `parent`: its record as well as the parent's, which cannot go any more. Says what
/// the parent is called underneath.
fn rebase(
    draft: &mut Draft<'_>,
    ns: &str,
    snapshotter: &str,
    key: &str,
    record: &mut SnapshotRecord,
    parent: &str,
) -> Result<String> {
    if !record.parent.is_empty() {
        return Err(Error::invalid_argument(format!(
            "snapshot {key} cannot be committed onto {parent}: it stands on {}",
            record.parent
        )));
    }
    let below: SnapshotRecord = draft
        .load(&Key::snapshot(ns, snapshotter, parent))?
        .ok_or_else(|| Error::not_found(format!("parent snapshot {parent} does not exist")))?;
    draft.put_empty(Key::child(ns, snapshotter, parent, key));
    parent.clone_into(&mut record.parent);
    Ok(below.backend)
}

/// Replaces the record of the active snapshot `key` by that of the name it was committed to. The inner error is an outcome to commit.
fn rename(
    draft: &mut Draft<'_>,
    caller: &Caller,
    snapshotter: &str,
    key: &str,
    intent: CommitIntent,
) -> Result<Result<()>> {
    let (ns, kind) = (caller.ns(), snapshots(snapshotter));
    let record = draft.load::<SnapshotRecord>(&Key::snapshot(ns, snapshotter, key))?;
    let intended = |record: &SnapshotRecord| record.committing.as_ref().is_some_and(|i| i.backend == intent.backend);
    let Some(record) = record.filter(intended) else {
        return Ok(Err(snapshot_not_found(key)));
    };
    remove_record(draft, ns, snapshotter, key, &record);
    caller.release(draft, &kind, key);
    caller.hold_if_there(draft, &kind, &intent.name)?;
    let place = Key::snapshot(ns, snapshotter, &intent.name);
    if draft.has(&place)? {
        draft.leaves_garbage();
        return Ok(Err(Error::already_exists(format!(
            "snapshot {:?}: already exists",
            intent.name
        ))));
    }
    if !record.parent.is_empty() {
        draft.put_empty(Key::child(ns, snapshotter, &record.parent, &intent.name));
    }
    let now = record::now();
    let committed = SnapshotRecord {
        labels: intent.labels,
        backend: intent.backend,
        parent: record.parent,
        created: now,
        updated: now,
        committing: None,
    };
    draft.put(place, &committed);
    Ok(Ok(()))
}

/// Settles what a crash, or a snapshotter that did not answer, left of commits; does nothing when that was done before.
pub(super) async fn settle_all(shared: &Arc<Shared>, name: &str, backend: &Arc<dyn Snapshotter>) -> Result<()> {
    if shared.settled.is(name) {
        return Ok(());
    }
    let _turn = shared.settled.turn.lock().await;
    if shared.settled.is(name) {
        return Ok(());
    }
    // Said first: a commit that has to be settled from now on says so again.
    shared.settled.say(name);
    let settled = settle(shared, name, backend).await;
    settled.inspect_err(|_| shared.settled.forget(name))
}

async fn settle(shared: &Arc<Shared>, name: &str, backend: &Arc<dyn Snapshotter>) -> Result<()> {
    let snapshotter: Arc<str> = name.into();
    let wanted = Arc::clone(&snapshotter);
    let unsettled = shared.store.read(move |view| {
        let mut unsettled = Vec::new();
        view.scan(&Prefix::of(Kind::Snapshot, &[]), &mut |place, value| {
            let [ns, snapshotter, key] = place.parts();
            if snapshotter == &*wanted {
                let record: SnapshotRecord = decode(&place, value)?;
                if let Some(intent) = record.committing {
                    unsettled.push((Namespace::new(ns)?, key.to_owned(), record.backend, intent));
                }
            }
            Ok(())
        })?;
        Ok(unsettled)
    });
    for (ns, key, active, intent) in unsettled.await? {
        // One that is under way settles itself.
        let Some(_active) = shared.in_flight.try_claim(in_flight::commit(name, &active)) else {
            continue;
        };
        let commit = Commit {
            shared: Arc::clone(shared),
            backend: Arc::clone(backend),
            snapshotter: Arc::clone(&snapshotter),
            ctx: Ctx::new(ns.clone()),
            caller: Caller { ns, lease: None },
            key,
            intent,
        };
        if commit.was_committed().await? {
            tracing::info!(
                snapshotter = name,
                key = commit.key,
                name = commit.intent.name,
                "finishing a commit that was interrupted"
            );
            match commit.finish().await {
                // It was settled meanwhile, or the name is another's by now: nothing is left of it.
                Err(error) if error.is_not_found() || error.is_already_exists() => {}
                other => other?,
            }
        } else {
            commit.withdraw().await?;
        }
    }
    Ok(())
}

// === impl Settled ===

/// The snapshotters of which no commit is left to settle.
#[derive(Default)]
pub(crate) struct Settled {
    names: std::sync::Mutex<std::collections::BTreeSet<String>>,
    turn: tokio::sync::Mutex<()>,
}

impl Settled {
    fn is(&self, name: &str) -> bool {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn say(&self, name: &str) {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned());
    }

    fn forget(&self, name: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}
