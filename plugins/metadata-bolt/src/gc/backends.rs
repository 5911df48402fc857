//! Cleaning the backends: blobs, ingests and snapshots that no namespace has a record of.
//!
//! A failure is no error of the collection: the records are right, and the backend stays dirty until the next one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::{join, join_all};
use futures_util::{StreamExt, stream};
use orlop_plugin::Result;
use orlop_plugin::contract::{Code, Ctx, Digest, SnapshotInfo, Snapshotter, collect};

use crate::in_flight::{self, InUse};
use crate::record::{BlobRecord, IngestRecord, SnapshotRecord};
use crate::recovery;
use crate::shared::Shared;
use crate::store::{Kind, Prefix, Reader, View, decode};

/// Blobs removed at a time: each waits for a thread that may block.
const DELETIONS: usize = 8;

/// Cleans what may have something to clean.
pub(super) async fn clean(shared: &Arc<Shared>) {
    let dirty = shared.dirty.take();
    let content = async {
        if dirty.content
            && let Err(error) = clean_content(shared).await
        {
            tracing::warn!(%error, "the content store could not be cleaned");
            shared.dirty.content();
        }
    };
    let snapshotters = async {
        if !dirty.all_snapshotters && dirty.snapshotters.is_empty() {
            return;
        }
        let running = match shared.snapshotters().await {
            Ok(running) => running,
            Err(error) => {
                tracing::warn!(%error, "the snapshotters could not be cleaned");
                shared.dirty.all_snapshotters();
                return;
            }
        };
        // One that does not run now is cleaned once it does.
        for name in dirty
            .snapshotters
            .iter()
            .filter(|name| !running.iter().any(|(running, _)| running == *name))
        {
            shared.dirty.snapshotter(name);
        }
        let wanted = running
            .iter()
            .filter(|(name, _)| dirty.all_snapshotters || dirty.snapshotters.contains(name));
        join_all(wanted.map(|(name, snapshotter)| async move {
            if let Err(error) = clean_snapshotter(shared, name, snapshotter).await {
                tracing::warn!(snapshotter = name, %error, "a snapshotter could not be cleaned");
                shared.dirty.snapshotter(name);
            }
        }))
        .await;
    };
    join(content, snapshotters).await;
}

/// What is claimed of a backend, by name; `missed` when something was in use.
struct Claims<T> {
    claimed: Vec<(T, InUse)>,
    missed: bool,
}

// === impl Claims ===

impl<T> Claims<T> {
    fn of(shared: &Shared, unknown: impl IntoIterator<Item = T>, name: impl Fn(&T) -> String) -> Self {
        let mut claims = Self {
            claimed: Vec::new(),
            missed: false,
        };
        for item in unknown {
            match shared.in_flight.try_claim(name(&item)) {
                Some(claim) => claims.claimed.push((item, claim)),
                None => claims.missed = true,
            }
        }
        claims
    }
}

/// What the records know of the content store.
#[derive(Default)]
struct KnownContent {
    digests: HashSet<String>,
    ingests: HashSet<String>,
}

impl KnownContent {
    fn read(view: &View) -> Result<Self> {
        let mut known = Self::default();
        view.scan(&Prefix::of(Kind::Blob, &[]), &mut |key, value| {
            decode::<BlobRecord>(&key, value)?;
            let [_, digest] = key.parts();
            known.digests.insert(digest.to_owned());
            Ok(())
        })?;
        view.scan(&Prefix::of(Kind::Ingest, &[]), &mut |key, value| {
            let record: IngestRecord = decode(&key, value)?;
            // It may be another namespace's blob, which that one has removed since.
            known.digests.insert(record.shares);
            known.ingests.insert(record.backend);
            Ok(())
        })?;
        Ok(known)
    }
}

async fn clean_content(shared: &Arc<Shared>) -> Result<()> {
    recovery::before_cleaning_content(shared).await?;
    let (content, ctx) = (shared.content().await?, Ctx::daemon());
    let known = shared.store.read(KnownContent::read).await?;
    let mut unknown: Vec<Digest> = Vec::new();
    let mut blobs = content.list(&ctx, &[]).await?;
    while let Some(info) = blobs.next().await {
        let digest = info?.digest;
        if !known.digests.contains(digest.as_str()) {
            unknown.push(digest);
        }
    }
    let ingests = content
        .statuses(&ctx, &[])
        .await?
        .into_iter()
        .map(|status| status.reference);
    let ingests: Vec<String> = ingests.filter(|reference| !known.ingests.contains(reference)).collect();
    drop(known);
    if unknown.is_empty() && ingests.is_empty() {
        return Ok(());
    }
    let blobs = Claims::of(shared, unknown, |digest| in_flight::blob(digest.as_str()));
    let ingests = Claims::of(shared, ingests, |reference| in_flight::ingest(reference));
    if blobs.missed || ingests.missed {
        shared.dirty.content();
    }
    let known = shared.store.read(KnownContent::read).await?;
    let unknown = blobs
        .claimed
        .into_iter()
        .filter(|(digest, _)| !known.digests.contains(digest.as_str()));
    let (content, ctx) = (&content, &ctx);
    stream::iter(unknown)
        .for_each_concurrent(DELETIONS, |(digest, _claim)| async move {
            removed(shared, "blob", digest.as_str(), content.delete(ctx, &digest).await);
        })
        .await;
    for (reference, _claim) in ingests
        .claimed
        .into_iter()
        .filter(|(reference, _)| !known.ingests.contains(reference))
    {
        removed(shared, "ingest", &reference, content.abort(ctx, &reference).await);
    }
    Ok(())
}

fn removed(shared: &Shared, what: &str, name: &str, outcome: Result<()>) {
    match outcome {
        Ok(()) => tracing::debug!(what, name, "removed from the content store"),
        Err(error) if error.is_not_found() => {}
        Err(error) => {
            tracing::warn!(what, name, %error, "could not be removed from the content store");
            shared.dirty.content();
        }
    }
}

/// What the records know of a snapshotter.
fn known_snapshots(view: &View, snapshotter: &str) -> Result<HashSet<String>> {
    let mut known = HashSet::new();
    view.scan(&Prefix::of(Kind::Snapshot, &[]), &mut |key, value| {
        let [_, name, _] = key.parts();
        if name == snapshotter {
            let record: SnapshotRecord = decode(&key, value)?;
            known.insert(record.backend);
            known.extend(record.committing.map(|intent| intent.backend));
        }
        Ok(())
    })?;
    Ok(known)
}

async fn clean_snapshotter(shared: &Arc<Shared>, name: &str, snapshotter: &Arc<dyn Snapshotter>) -> Result<()> {
    recovery::before_cleaning_snapshots(shared, name, snapshotter).await?;
    let ctx = Ctx::daemon();
    let look = |snapshotter: String| shared.store.read(move |view| known_snapshots(view, &snapshotter));
    let known = look(name.to_owned()).await?;
    let all = collect(snapshotter.list(&ctx, &[]).await?).await?;
    let unknown = all.into_iter().filter(|info| !known.contains(&info.name)).collect();
    let claims = Claims::of(shared, children_first(unknown), |info| {
        in_flight::snapshot(name, &info.name)
    });
    if claims.missed {
        shared.dirty.snapshotter(name);
    }
    if !claims.claimed.is_empty() {
        let known = look(name.to_owned()).await?;
        for (info, _claim) in claims
            .claimed
            .into_iter()
            .filter(|(info, _)| !known.contains(&info.name))
        {
            match snapshotter.remove(&ctx, &info.name).await {
                Ok(()) => tracing::debug!(snapshotter = name, snapshot = info.name, "removed"),
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    tracing::warn!(snapshotter = name, snapshot = info.name, %error, "could not be removed");
                    shared.dirty.snapshotter(name);
                }
            }
        }
    }
    match snapshotter.cleanup(&ctx).await {
        Err(error) if error.code != Code::Unimplemented => Err(error),
        _ => Ok(()),
    }
}

/// Orders snapshots so that each comes before its parent.
fn children_first(mut infos: Vec<SnapshotInfo>) -> Vec<SnapshotInfo> {
    let depths: HashMap<String, usize> = {
        let parents: HashMap<&str, &str> = infos
            .iter()
            .map(|info| (info.name.as_str(), info.parent.as_str()))
            .collect();
        let depth = |info: &SnapshotInfo| {
            let mut above = std::iter::successors(parents.get(info.parent.as_str()), |parent| parents.get(**parent));
            // A ring, which no snapshotter should have, ends here too.
            above.by_ref().take(parents.len()).count()
        };
        infos.iter().map(|info| (info.name.clone(), depth(info))).collect()
    };
    infos.sort_by_key(|info| std::cmp::Reverse(depths[&info.name]));
    infos
}
