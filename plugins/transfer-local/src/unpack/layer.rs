//! One layer on its way to a snapshot.

use std::sync::Arc;

use orlop_plugin::contract::{ApplyOptions, Code, Digest, Labels, LeaseResource, Mount};
use orlop_plugin::{Error, Result};
use tokio::sync::{OwnedMutexGuard, Semaphore, watch};

use super::{Arrivals, Target, Unpacker};
use crate::content::unique;
use crate::oci::Descriptor;

/// On a compressed layer: the digest of what is in it.
pub const LABEL_UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// On a snapshot that is being unpacked: what it is going to be, so that a remote snapshotter can answer that it has it.
const LABEL_SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// Annotations of a layer with this prefix become labels of its snapshot.
const INHERITED: &str = "containerd.io/snapshot/";

/// A key may be taken by a snapshot that is just being removed.
const PREPARE_TRIES: usize = 3;

/// Tells our differ that an overlay's lower layers are not known, and that it shall say so when it needs them.
const ALONE: &str = "x-orlop.alone";

/// A layer in its place in an image.
#[derive(Clone)]
pub(super) struct Layer {
    pub(super) descriptor: Descriptor,
    /// Of the uncompressed layer.
    pub(super) diff_id: Digest,
    /// What its snapshot is called.
    pub(super) chain_id: Digest,
    /// What the snapshot below is called.
    pub(super) parent: Option<Digest>,
}

/// A layer to unpack for one target.
pub(super) struct Job {
    pub(super) unpacker: Unpacker,
    pub(super) target: Arc<Target>,
    pub(super) layer: Layer,
    /// Its parent is not there yet: it is put down by itself.
    pub(super) alone: bool,
}

/// How far a layer has come. The guard keeps other transfers from unpacking it too.
pub(super) enum Put {
    /// Its snapshot is there.
    There,
    /// It is in the active snapshot of this key.
    Down(String, OwnedMutexGuard<()>),
    /// It cannot be told by itself: its turn comes when its parent is there.
    InOrder(OwnedMutexGuard<()>),
}

// === impl Job ===

impl Job {
    /// Waits for the layer to arrive and unpacks it into a snapshot, when there are `turns` left. `Cancelled` once others have `failed`.
    pub(super) async fn put_down(
        &self,
        turns: &Semaphore,
        mut failed: watch::Receiver<bool>,
        arrived: Option<watch::Receiver<Arrivals>>,
    ) -> Result<Put> {
        let (descriptor, chain_id) = (&self.layer.descriptor, &self.layer.chain_id);
        if self.is_unpacked().await? {
            return Ok(Put::There);
        }
        let given_up = || Error::cancelled("another layer could not be unpacked");
        if let Some(mut arrived) = arrived {
            let ready = |arrived: &Arrivals| arrived.given_up || arrived.blobs.contains(&descriptor.digest);
            let arrival = async { arrived.wait_for(ready).await.map(|arrived| arrived.given_up) };
            let failure = async { failed.wait_for(|failed| *failed).await.map(drop) };
            tokio::select! {
                given_up = arrival => match given_up {
                    Ok(false) => {}
                    Ok(true) => return Err(Error::cancelled("not all of it could be read")),
                    Err(_) => return Err(Error::not_found(format!("the blob {} never came", descriptor.digest))),
                },
                _ = failure => return Err(given_up()),
            }
        }
        let ns = self.unpacker.content.ctx.namespace()?;
        let lock = format!("{ns}/{}/{chain_id}", self.target.name);
        let only = self.unpacker.locks.lock(lock).await;
        let _turn = turns.acquire().await.map_err(|_| given_up())?;
        if *failed.borrow() {
            return Err(given_up());
        }
        let parent = if self.alone { None } else { self.layer.parent.as_ref() };
        let Some((key, mut mounts)) = self.prepare(parent).await? else {
            return Ok(Put::There);
        };
        if self.alone && !stand_alone(&mut mounts) {
            self.remove(&key).await;
            return Ok(Put::InOrder(only));
        }
        match self.apply(mounts).await {
            Ok(()) => Ok(Put::Down(key, only)),
            Err(error) => {
                self.remove(&key).await;
                // Whatever else is wrong with it shows again with its parents.
                if self.alone && error.code == Code::FailedPrecondition {
                    tracing::debug!(layer = %descriptor.digest, %error, "a layer waits for those below it");
                    return Ok(Put::InOrder(only));
                }
                Err(error)
            }
        }
    }

    /// Makes a layer, all below which are snapshots by now, one too.
    pub(super) async fn finish(&self, put: Put) -> Result<()> {
        let (key, _only) = match put {
            Put::There => return Ok(()),
            Put::Down(key, only) => (key, only),
            Put::InOrder(only) => {
                let Some((key, mounts)) = self.prepare(self.layer.parent.as_ref()).await? else {
                    return Ok(());
                };
                if let Err(error) = self.apply(mounts).await {
                    self.remove(&key).await;
                    return Err(error);
                }
                (key, only)
            }
        };
        let (content, layer) = (&self.unpacker.content, &self.layer);
        let (labels, snapshotter) = (snapshot_labels(layer), &self.target.snapshotter);
        let name = layer.chain_id.as_str();
        let committed = match &layer.parent {
            Some(parent) if self.target.rebase => {
                snapshotter
                    .commit_onto(&content.ctx, name, &key, parent.as_str(), labels)
                    .await
            }
            _ => snapshotter.commit(&content.ctx, name, &key, labels).await,
        };
        if let Err(error) = committed {
            self.remove(&key).await;
            if !error.is_already_exists() {
                return Err(error);
            }
        }
        let labels = Labels::from([(LABEL_UNCOMPRESSED.to_owned(), layer.diff_id.to_string())]);
        content.label(&layer.descriptor.digest, labels).await
    }

    /// Removes what was put down.
    pub(super) async fn discard(&self, put: Put) {
        if let Put::Down(key, _only) = put {
            self.remove(&key).await;
        }
    }

    async fn remove(&self, key: &str) {
        let removed = self.target.snapshotter.remove(&self.unpacker.content.ctx, key).await;
        if let Err(error) = removed
            && !error.is_not_found()
        {
            tracing::warn!(key, %error, "a half-unpacked snapshot is left to garbage collection");
        }
    }

    /// Whether the snapshot is there; if so, our lease holds it from now on.
    async fn is_unpacked(&self) -> Result<bool> {
        let (ctx, target, chain_id) = (&self.unpacker.content.ctx, &self.target, &self.layer.chain_id);
        let there = || async {
            match target.snapshotter.stat(ctx, chain_id.as_str()).await {
                Ok(_) => Ok(true),
                Err(error) if error.is_not_found() => Ok(false),
                Err(error) => Err(error.context(format!("look for the snapshot {chain_id}"))),
            }
        };
        if !there().await? {
            return Ok(false);
        }
        if let Some(lease) = &ctx.lease {
            let resource = LeaseResource {
                id: chain_id.to_string(),
                kind: format!("snapshots/{}", target.name),
            };
            self.unpacker.leases.add_resource(ctx, lease, resource).await?;
        }
        // A collection may have come between the look and the lease.
        there().await
    }

    /// A snapshot to unpack into; `None` when the layer turns out to be there.
    async fn prepare(&self, parent: Option<&Digest>) -> Result<Option<(String, Vec<Mount>)>> {
        let ctx = &self.unpacker.content.ctx;
        let parent = parent.map_or("", Digest::as_str);
        let mut last = None;
        for _ in 0..PREPARE_TRIES {
            // Another transfer had the lock until now, or a remote snapshotter has the layer.
            if self.is_unpacked().await? {
                return Ok(None);
            }
            let key = format!("extract-{} {}", unique(), self.layer.chain_id);
            let labels = snapshot_labels(&self.layer);
            match self.target.snapshotter.prepare(ctx, &key, parent, labels).await {
                Ok(mounts) => return Ok(Some((key, mounts))),
                Err(error) if error.is_already_exists() => last = Some(error),
                Err(error) => return Err(error.context("prepare a snapshot for it")),
            }
        }
        if self.is_unpacked().await? {
            return Ok(None);
        }
        Err(last
            .unwrap_or_else(|| Error::internal("no snapshot was prepared"))
            .context("prepare a snapshot for it"))
    }

    async fn apply(&self, mounts: Vec<Mount>) -> Result<()> {
        let (options, diff_id) = (ApplyOptions::default(), &self.layer.diff_id);
        let (ctx, layer) = (&self.unpacker.content.ctx, self.layer.descriptor.to_contract());
        let applied = self.target.applier.apply(ctx, layer, mounts, options).await?;
        if applied.digest == *diff_id {
            return Ok(());
        }
        Err(Error::failed_precondition(format!(
            "its content has the digest {}, but the image's configuration says {diff_id}: the image is inconsistent",
            applied.digest
        )))
    }
}

fn snapshot_labels(
    Layer {
        descriptor, chain_id, ..
    }: &Layer,
) -> Labels {
    let inherited = descriptor
        .annotations
        .iter()
        .filter(|(key, _)| key.starts_with(INHERITED));
    let mut labels: Labels = inherited.map(|(key, value)| (key.clone(), value.clone())).collect();
    labels.insert(LABEL_SNAPSHOT_REF.to_owned(), chain_id.to_string());
    labels
}

/// Makes of an overlay snapshot's mount, which without parents is a bind of its upper directory, one that whiteouts can be put into.
/// Whether it was such a mount.
fn stand_alone(mounts: &mut [Mount]) -> bool {
    let [mount] = mounts else { return false };
    if mount.kind != "bind" {
        return false;
    }
    let upper = format!("upperdir={}", mount.source);
    *mount = Mount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options: vec![ALONE.to_owned(), upper],
    };
    true
}
