//! Unpacking: from the layers of an image to the chain of snapshots that a container starts on.
//!
//! A layer becomes the committed snapshot whose name is its chain id, so a layer that is there already, from whichever image, is never
//! unpacked twice. Where the snapshotter can commit a snapshot onto a parent that it was not prepared on (the capability `rebase`), layers are
//! unpacked side by side, each by itself, and committed from the bottom up; one that cannot be told without those below it waits for
//! them. Elsewhere layers go one after the other, each onto its parent.

mod ahead;
mod layer;
mod locks;
mod target;

pub use ahead::Ahead;
pub use layer::LABEL_UNCOMPRESSED;
pub use locks::KeyedLocks;
pub use target::{Target, targets};

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use orlop_plugin::contract::{Digest, Labels, Leases};
use orlop_plugin::{Error, Result};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use crate::content::Content;
use crate::oci::{Descriptor, ImageConfig, Manifest, media_type, parse_config};
use layer::{Job, Layer};

/// Unpacks images for their targets.
#[derive(Clone)]
pub struct Unpacker {
    /// Where the layers are.
    pub content: Content,
    /// Keeps snapshots that others have made.
    pub leases: Arc<dyn Leases>,
    /// Where to unpack what.
    pub targets: Arc<Vec<Arc<Target>>>,
    /// Layers of one image unpacked at a time, at least one.
    pub at_once: usize,
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
        let ids = &config.rootfs.diff_ids;
        // An artifact, whose layers are none of a file system, says so by its platform.
        let wanted = self.targets.iter().any(|target| target.serves(&config.platform));
        if !wanted || (layers.is_empty() && ids.is_empty()) {
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
        let stack: Vec<Layer> = layers
            .iter()
            .enumerate()
            .map(|(nth, layer)| Layer {
                descriptor: (*layer).clone(),
                diff_id: config.rootfs.diff_ids[nth].clone(),
                chain_id: chain[nth].clone(),
                parent: nth.checked_sub(1).map(|below| chain[below].clone()),
            })
            .collect();
        for target in self.targets.iter().filter(|target| target.serves(&config.platform)) {
            self.unpack_stack(target, &stack, arrived.as_ref()).await?;
            // The configuration holds the top snapshot for as long as the image lives.
            let key = format!("containerd.io/gc.ref.snapshot.{}", target.name);
            let top = chain.last().map(ToString::to_string).unwrap_or_default();
            self.content.label(image, Labels::from([(key, top)])).await?;
        }
        Ok(())
    }

    /// Unpacks layers, the lowest first, or side by side where the snapshotter can put them together afterwards.
    async fn unpack_stack(
        &self,
        target: &Arc<Target>,
        stack: &[Layer],
        arrived: Option<&watch::Receiver<Arrivals>>,
    ) -> Result<()> {
        let at_once = if target.rebase { self.at_once } else { 1 };
        let (failed, turns) = (watch::Sender::new(false), Arc::new(Semaphore::new(at_once)));
        // Aborted when this is dropped: a client that hung up must not have its image unpacked.
        let mut tasks = JoinSet::new();
        let mut begun = VecDeque::new();
        let mut waiting = stack.iter();
        let mut outcome = Ok(());
        for layer in stack {
            let ahead = if at_once == 1 { 1 } else { usize::MAX };
            while begun.len() < ahead
                && let Some(next) = waiting.next()
            {
                let job = Job {
                    unpacker: self.clone(),
                    target: Arc::clone(target),
                    layer: next.clone(),
                    alone: at_once > 1 && next.parent.is_some(),
                };
                let (result, here) = oneshot::channel();
                let (turns, failed, arrived) = (Arc::clone(&turns), failed.subscribe(), arrived.cloned());
                tasks.spawn(async move {
                    let _ = result.send((job.put_down(&turns, failed, arrived).await, job));
                });
                begun.push_back(here);
            }
            let Some(here) = begun.pop_front() else { break };
            let (put, job) = here.await.map_err(|_| {
                Error::internal(format!(
                    "the unpacking of layer {} ended early",
                    layer.descriptor.digest
                ))
            })?;
            let done = match put {
                // What was put down for nothing has to go, or it stays until garbage is collected.
                Ok(put) if outcome.is_err() => {
                    job.discard(put).await;
                    Ok(())
                }
                Ok(put) => job.finish(put).await,
                Err(error) => Err(error),
            };
            if let Err(error) = done
                && outcome.is_ok()
            {
                failed.send_replace(true);
                outcome = Err(error.context(format!(
                    "unpack the layer {} with snapshotter {:?}",
                    layer.descriptor.digest, target.name
                )));
                if at_once == 1 {
                    break;
                }
            }
        }
        outcome
    }
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
