//! Unpacking: from the layers of an image to the chain of snapshots that a container starts on.
//!
//! A layer becomes the committed snapshot whose name is its chain id, so a layer that is there already, from whichever image, is never
//! unpacked twice. Layers go one after the other, each onto its parent.

mod ahead;
mod locks;
mod target;

pub use ahead::Ahead;
pub use locks::KeyedLocks;
pub use target::{Target, targets};

use std::collections::BTreeSet;
use std::sync::Arc;

use orlop_plugin::contract::{ApplyOptions, Digest, Labels, LeaseResource, Leases, Mount};
use orlop_plugin::{Error, Result};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::content::{Content, unique};
use crate::oci::{Descriptor, ImageConfig, Manifest, media_type, parse_config};

/// On a compressed layer: the digest of what is in it.
pub const LABEL_UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// On a snapshot that is being unpacked: what it is going to be, so that a remote snapshotter can answer that it has it.
const LABEL_SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// Annotations of a layer with this prefix become labels of its snapshot.
const INHERITED: &str = "containerd.io/snapshot/";

/// A key may be taken by a snapshot that is just being removed.
const PREPARE_TRIES: usize = 3;

/// Unpacks images for their targets.
#[derive(Clone)]
pub struct Unpacker {
    /// Where the layers are.
    pub content: Content,
    /// Keeps snapshots that others have made.
    pub leases: Arc<dyn Leases>,
    /// Where to unpack what.
    pub targets: Arc<Vec<Target>>,
    /// One layer is unpacked once, however many transfers need it at the same time.
    pub locks: Arc<KeyedLocks>,
}

/// What has arrived of an archive or an image, while more may come.
#[derive(Default)]
pub struct Arrivals {
    /// The blobs that are stored.
    pub blobs: BTreeSet<Digest>,
    /// It turned out to be no good: nothing further needs to be unpacked.
    pub given_up: bool,
}

/// The chain ids of a file system: those of each layer with all layers below it.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(parent) => Digest::from_sha256(Sha256::digest(format!("{parent} {diff_id}"))),
        });
    }
    chain
}

// === impl Unpacker ===

impl Unpacker {
    /// Unpacks the image of `manifest` for every target of its platform; nothing for what is no image, or has none.
    pub async fn unpack(&self, manifest: &Manifest) -> Result<()> {
        self.unpack_arriving(manifest, None).await
    }

    /// The same while its layers still arrive; its configuration must be there.
    pub async fn unpack_arriving(&self, manifest: &Manifest, arrived: Option<watch::Receiver<Arrivals>>) -> Result<()> {
        if self.targets.is_empty() || !media_type::is_config(&manifest.config.media_type) {
            return Ok(());
        }
        let config = self.content.read_document(&manifest.config).await?;
        let config = parse_config(&manifest.config.digest, &config)?;
        self.unpack_image(manifest, &config, arrived).await
    }

    async fn unpack_image(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
        arrived: Option<watch::Receiver<Arrivals>>,
    ) -> Result<()> {
        let layers: Vec<&Descriptor> = manifest
            .layers
            .iter()
            .filter(|layer| media_type::is_layer(&layer.media_type))
            .collect();
        if layers.is_empty() {
            return Ok(());
        }
        let image = &manifest.config.digest;
        if layers.len() != config.rootfs.diff_ids.len() {
            return Err(Error::invalid_argument(format!(
                "the image {image} has {} layers, but its configuration has {} diff ids",
                layers.len(),
                config.rootfs.diff_ids.len()
            )));
        }
        let chain = chain_ids(&config.rootfs.diff_ids);
        for target in self.targets.iter().filter(|target| target.serves(&config.platform)) {
            let mut parent = None;
            for (nth, layer) in layers.iter().enumerate() {
                let (diff_id, chain_id) = (&config.rootfs.diff_ids[nth], &chain[nth]);
                let unpacked = self
                    .unpack_layer(target, layer, diff_id, chain_id, parent, arrived.clone())
                    .await;
                unpacked.map_err(|error| {
                    error.context(format!(
                        "unpack the layer {} with snapshotter {:?}",
                        layer.digest, target.name
                    ))
                })?;
                parent = Some(chain_id);
            }
            // The configuration holds the top snapshot for as long as the image lives.
            let key = format!("containerd.io/gc.ref.snapshot.{}", target.name);
            let top = parent.map(ToString::to_string).unwrap_or_default();
            self.content.label(image, Labels::from([(key, top)])).await?;
        }
        Ok(())
    }

    async fn unpack_layer(
        &self,
        target: &Target,
        layer: &Descriptor,
        diff_id: &Digest,
        chain_id: &Digest,
        parent: Option<&Digest>,
        arrived: Option<watch::Receiver<Arrivals>>,
    ) -> Result<()> {
        if self.is_unpacked(target, chain_id).await? {
            return Ok(());
        }
        if let Some(mut arrived) = arrived {
            let ready = |arrived: &Arrivals| arrived.given_up || arrived.blobs.contains(&layer.digest);
            match arrived.wait_for(ready).await.map(|arrived| arrived.given_up) {
                Ok(false) => {}
                Ok(true) => return Err(Error::cancelled("not all of it could be read")),
                Err(_) => return Err(Error::not_found(format!("the blob {} never came", layer.digest))),
            }
        }
        let ns = self.content.ctx.namespace()?;
        let _only = self.locks.lock(format!("{ns}/{}/{chain_id}", target.name)).await;
        let Some((key, mounts)) = self.prepare(target, layer, chain_id, parent).await? else {
            return Ok(());
        };
        let ctx = &self.content.ctx;
        let committed = match self.apply(target, layer, diff_id, mounts).await {
            Ok(()) => {
                let labels = snapshot_labels(layer, chain_id);
                target.snapshotter.commit(ctx, chain_id.as_str(), &key, labels).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = committed {
            if let Err(left) = target.snapshotter.remove(ctx, &key).await
                && !left.is_not_found()
            {
                tracing::warn!(key, error = %left, "a half-unpacked snapshot is left to garbage collection");
            }
            if !error.is_already_exists() {
                return Err(error);
            }
        }
        let labels = Labels::from([(LABEL_UNCOMPRESSED.to_owned(), diff_id.to_string())]);
        self.content.label(&layer.digest, labels).await
    }

    /// Whether the snapshot is there; if so, our lease holds it from now on.
    async fn is_unpacked(&self, target: &Target, chain_id: &Digest) -> Result<bool> {
        let ctx = &self.content.ctx;
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
            self.leases.add_resource(ctx, lease, resource).await?;
        }
        // A collection may have come between the look and the lease.
        there().await
    }

    /// A snapshot to unpack into; `None` when the layer turns out to be there.
    async fn prepare(
        &self,
        target: &Target,
        layer: &Descriptor,
        chain_id: &Digest,
        parent: Option<&Digest>,
    ) -> Result<Option<(String, Vec<Mount>)>> {
        let parent = parent.map_or("", Digest::as_str);
        let mut last = None;
        for _ in 0..PREPARE_TRIES {
            // Another transfer had the lock until now, or a remote snapshotter has the layer.
            if self.is_unpacked(target, chain_id).await? {
                return Ok(None);
            }
            let key = format!("extract-{} {chain_id}", unique());
            let labels = snapshot_labels(layer, chain_id);
            match target
                .snapshotter
                .prepare(&self.content.ctx, &key, parent, labels)
                .await
            {
                Ok(mounts) => return Ok(Some((key, mounts))),
                Err(error) if error.is_already_exists() => last = Some(error),
                Err(error) => return Err(error.context("prepare a snapshot for it")),
            }
        }
        if self.is_unpacked(target, chain_id).await? {
            return Ok(None);
        }
        Err(last
            .unwrap_or_else(|| Error::internal("no snapshot was prepared"))
            .context("prepare a snapshot for it"))
    }

    async fn apply(&self, target: &Target, layer: &Descriptor, diff_id: &Digest, mounts: Vec<Mount>) -> Result<()> {
        let options = ApplyOptions::default();
        let applied = target
            .applier
            .apply(&self.content.ctx, layer.to_contract(), mounts, options)
            .await?;
        if applied.digest == *diff_id {
            return Ok(());
        }
        Err(Error::failed_precondition(format!(
            "its content has the digest {}, but the image's configuration says {diff_id}: the image is inconsistent",
            applied.digest
        )))
    }
}

fn snapshot_labels(layer: &Descriptor, chain_id: &Digest) -> Labels {
    let inherited = layer.annotations.iter().filter(|(key, _)| key.starts_with(INHERITED));
    let mut labels: Labels = inherited.map(|(key, value)| (key.clone(), value.clone())).collect();
    labels.insert(LABEL_SNAPSHOT_REF.to_owned(), chain_id.to_string());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest_of;

    #[test]
    fn chain_ids_follow_the_image_spec() {
        let ids = [digest_of(b"a"), digest_of(b"b"), digest_of(b"c")];
        let chain = chain_ids(&ids);
        assert_eq!(chain[0], ids[0]);
        assert_eq!(chain[1], digest_of(format!("{} {}", ids[0], ids[1]).as_bytes()));
        assert_eq!(chain[2], digest_of(format!("{} {}", chain[1], ids[2]).as_bytes()));
        assert!(chain_ids(&[]).is_empty());
    }
}
