//! Unpacking while the archive still arrives.
//!
//! An archive's index may come last, so what a blob is for is not known when it comes. But a manifest can be told by its looks, and its
//! layers may be unpacked as soon as they and the configuration are there. That is a guess without risk: a blob is checked before
//! it is a blob, a layer's snapshot is the same whichever image needs it, and what no image of the index needs is garbage when the
//! lease ends. Whatever fails here is done again, and reported, once the archive is known.

use std::collections::BTreeMap;

use orlop_plugin::Result;
use orlop_plugin::contract::Digest;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{Arrivals, Unpacker};
use crate::archive::Observer;
use crate::oci::{Descriptor, Document, ImageConfig, Manifest, media_type, parse_config, parse_document};

/// Manifests and configurations held, at most; an archive with more is unpacked when it is complete.
const MAX_HELD: usize = 256;

/// Unpacks what it can while blobs arrive.
pub struct Ahead {
    arrived: watch::Sender<Arrivals>,
    jobs: mpsc::UnboundedSender<(Manifest, ImageConfig)>,
    worker: Worker,
    /// Manifests whose configuration has not come, by its digest.
    manifests: BTreeMap<Digest, Manifest>,
    /// Configurations whose manifest has not come.
    configs: BTreeMap<Digest, ImageConfig>,
}

/// Ends with its owner: a client that hung up must not have its image unpacked.
struct Worker(JoinHandle<()>);

// === impl Ahead ===

impl Ahead {
    /// Begins; with no targets, nothing is ever unpacked.
    pub fn start(unpacker: Unpacker) -> Self {
        let arrived = watch::Sender::new(Arrivals::default());
        let (jobs, queue) = mpsc::unbounded_channel();
        let worker = Worker(tokio::spawn(work(unpacker, queue, arrived.subscribe())));
        Self {
            arrived,
            jobs,
            worker,
            manifests: BTreeMap::new(),
            configs: BTreeMap::new(),
        }
    }

    /// Waits for what is being unpacked. What still waits for a layer is given up.
    pub async fn finish(self) {
        let Self {
            arrived,
            jobs,
            mut worker,
            ..
        } = self;
        drop((arrived, jobs));
        if let Err(error) = (&mut worker.0).await {
            tracing::warn!(%error, "unpacking ahead of the archive stopped");
        }
    }

    /// Waits for the layer that is being unpacked, and leaves it at that.
    pub async fn give_up(self) {
        self.arrived.send_modify(|arrived| arrived.given_up = true);
        self.finish().await;
    }

    fn look_at(&mut self, digest: &Digest, document: &[u8]) {
        if let Some(manifest) = as_manifest(digest, document) {
            let config = manifest.config.digest.clone();
            if let Some(found) = self.configs.get(&config) {
                let _ = self.jobs.send((manifest, found.clone()));
            } else if self.manifests.len() < MAX_HELD {
                self.manifests.insert(config, manifest);
            }
        } else if let Ok(config) = parse_config(digest, document)
            && !config.rootfs.diff_ids.is_empty()
        {
            if let Some(manifest) = self.manifests.remove(digest) {
                let _ = self.jobs.send((manifest, config.clone()));
            }
            if self.configs.len() < MAX_HELD {
                self.configs.insert(digest.clone(), config);
            }
        }
    }
}

impl Observer for Ahead {
    fn stored(&mut self, digest: &Digest, document: Option<&[u8]>) {
        if let Some(document) = document {
            self.look_at(digest, document);
        }
        self.arrived.send_modify(|arrived| {
            arrived.blobs.insert(digest.clone());
        });
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn work(
    unpacker: Unpacker,
    mut queue: mpsc::UnboundedReceiver<(Manifest, ImageConfig)>,
    arrived: watch::Receiver<Arrivals>,
) {
    while let Some((manifest, config)) = queue.recv().await {
        let unpacked: Result<()> = unpacker.unpack_image(&manifest, &config, Some(arrived.clone())).await;
        if let Err(error) = unpacked {
            tracing::debug!(config = %manifest.config.digest, %error, "an image was not unpacked ahead of its archive");
        }
    }
}

/// The manifest of an image, if the blob looks like one.
fn as_manifest(digest: &Digest, document: &[u8]) -> Option<Manifest> {
    let descriptor = Descriptor::new(media_type::MANIFEST, digest.clone(), document.len() as u64);
    match parse_document(&descriptor, document) {
        Ok(Some(Document::Manifest(manifest))) if media_type::is_config(&manifest.config.media_type) => Some(manifest),
        _ => None,
    }
}
