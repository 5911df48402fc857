//! From the stores to a registry: the blobs of an image first, several at a time, then its documents, children before parents, and the
//! tag with the last.

use std::collections::BTreeSet;
use std::sync::Arc;

use containerd_client::types::transfer::{ImageStore, OciRegistry};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use orlop_plugin::contract::{Ctx, Digest};
use orlop_plugin::{Error, Host, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::config::Config;
use crate::content::Content;
use crate::oci::{Descriptor, Document, Index, Platform, PlatformFilter, media_type, parse_document};
use crate::progress::{Jobs, Progress, TICK};
use crate::registry::{Network, Pushed, Registry};

/// What a push needs of the daemon.
pub struct Push<'a> {
    /// The daemon.
    pub host: &'a Host,
    /// The plugin's configuration.
    pub config: &'a Config,
    /// Limits the blobs that are sent at a time.
    pub uploads: &'a Arc<Semaphore>,
    /// How registries are reached.
    pub network: &'a Network,
    /// Where progress is told.
    pub progress: &'a Progress,
}

// === impl Push ===

impl Push<'_> {
    /// Pushes the image that `store` names to where `destination` says.
    pub async fn run(&self, ctx: &Ctx, store: &ImageStore, destination: &OciRegistry) -> Result<()> {
        let registry = Registry::open(self.host, ctx, destination, &self.config.config_path, self.network).await?;
        let registry = Arc::new(registry);
        let pushed = self.push(ctx, &registry, store).await;
        registry.close().await;
        pushed
    }

    async fn push(&self, ctx: &Ctx, registry: &Arc<Registry>, store: &ImageStore) -> Result<()> {
        let progress = self.progress;
        let image = self.host.images()?.get(ctx, &store.name).await;
        let image = image.map_err(|error| error.context(format!("look up the image {:?}", store.name)))?;
        let content = Content {
            store: self.host.content()?,
            ctx: ctx.clone(),
        };
        let platforms = PlatformFilter::new(store.platforms.iter().map(Platform::from).collect());
        let target = root_of(&content, image.target.into(), &platforms).await?;
        if let Some(digest) = &registry.reference.digest
            && *digest != target.digest
        {
            return Err(Error::invalid_argument(format!(
                "{} cannot be pushed as {}: it is {}",
                store.name, registry.reference.full, target.digest
            )));
        }
        progress.event(&format!("Pushing to {}", registry.describe()));
        progress.image("pushing content", &image.name, &target);

        let jobs = Arc::new(Jobs::new("uploading", &image.name));
        let mut parts = Parts {
            content: &content,
            platforms: &platforms,
            jobs: &jobs,
            seen: BTreeSet::new(),
            blobs: Vec::new(),
            documents: Vec::new(),
        };
        parts.collect(target.clone(), None).await?;
        let Parts { blobs, documents, .. } = parts;
        let sent = self.send(registry, &content, &jobs, blobs, documents, &target).await;
        progress.finish_jobs(&jobs).await;
        sent?;
        progress.image("pushed content", &image.name, &target);
        progress.event(&format!("Completed push to {}", registry.describe()));
        Ok(())
    }

    async fn send(
        &self,
        registry: &Arc<Registry>,
        content: &Content,
        jobs: &Arc<Jobs>,
        blobs: Vec<Descriptor>,
        documents: Vec<(Descriptor, Vec<u8>)>,
        target: &Descriptor,
    ) -> Result<()> {
        let mut uploads = JoinSet::new();
        for blob in blobs {
            let (registry, content, jobs) = (registry.clone(), content.clone(), jobs.clone());
            let limit = self.uploads.clone();
            uploads.spawn(async move {
                // The semaphore is never closed.
                let _permit = limit
                    .acquire()
                    .await
                    .map_err(|error| Error::internal(error.to_string()))?;
                let (moving, digest) = (jobs.clone(), blob.digest.clone());
                let on_sent = Arc::new(move |length| moving.moved_by(&digest, length));
                let pushed = registry.push_blob(&content, &blob, on_sent).await?;
                jobs.complete(&blob.digest, pushed == Pushed::Before);
                Ok::<_, Error>(())
            });
        }
        let mut ticks = interval(TICK);
        loop {
            tokio::select! {
                sent = uploads.join_next() => match sent {
                    Some(Ok(sent)) => sent?,
                    Some(Err(error)) => return Err(Error::internal(format!("a part of the push ended early: {error}"))),
                    None => break,
                },
                _ = ticks.tick() => {
                    self.progress.jobs(jobs);
                }
            }
        }
        for (document, bytes) in documents {
            let root = document.digest == target.digest;
            let pushed = registry.push_document(&document, bytes, root).await?;
            jobs.complete(&document.digest, pushed == Pushed::Before);
            self.progress.jobs(jobs);
        }
        Ok(())
    }
}

/// What to push of an image: of an index of which one manifest is wanted, that manifest, as the index without its others would be
/// refused.
async fn root_of(content: &Content, target: Descriptor, platforms: &PlatformFilter) -> Result<Descriptor> {
    if platforms.is_all() || !media_type::is_index(&target.media_type) {
        return Ok(target);
    }
    let Some(Document::Index(index)) = parse_document(&target, &content.read_document(&target).await?)? else {
        return Ok(target);
    };
    let count = index.manifests.len();
    let mut wanted = wanted(index, platforms);
    match wanted.len() {
        0 => Err(Error::not_found(format!(
            "the image has no manifest for {platforms}: name one of its platforms"
        ))),
        1 if count > 1 => {
            let mut only = wanted.remove(0);
            // What an index says of a manifest is no part of what it is.
            only.platform = None;
            Ok(only)
        }
        _ => Ok(target),
    }
}

fn wanted(index: Index, platforms: &PlatformFilter) -> Vec<Descriptor> {
    let mut manifests = index.manifests;
    manifests.retain(|manifest| platforms.accepts(manifest.platform.as_ref()));
    manifests
}

/// What belongs to an image, each once.
struct Parts<'a> {
    content: &'a Content,
    platforms: &'a PlatformFilter,
    jobs: &'a Jobs,
    seen: BTreeSet<Digest>,
    blobs: Vec<Descriptor>,
    /// Children before parents.
    documents: Vec<(Descriptor, Vec<u8>)>,
}

// === impl Parts ===

impl Parts<'_> {
    fn collect(&mut self, descriptor: Descriptor, parent: Option<Descriptor>) -> BoxFuture<'_, Result<()>> {
        async move {
            if !self.seen.insert(descriptor.digest.clone()) {
                return Ok(());
            }
            if media_type::is_non_distributable(&descriptor.media_type) {
                return Ok(());
            }
            self.jobs.add(&descriptor, parent.as_ref());
            let kind = &descriptor.media_type;
            if !media_type::is_manifest(kind) && !media_type::is_index(kind) {
                self.content.check(&descriptor).await.map_err(incomplete)?;
                self.blobs.push(descriptor);
                return Ok(());
            }
            let bytes = self.content.read_document(&descriptor).await.map_err(incomplete)?;
            let children = match parse_document(&descriptor, &bytes)? {
                Some(Document::Manifest(manifest)) => std::iter::once(manifest.config).chain(manifest.layers).collect(),
                Some(Document::Index(index)) => wanted(index, self.platforms),
                None => Vec::new(),
            };
            for child in children {
                self.collect(child, Some(descriptor.clone())).await?;
            }
            self.documents.push((descriptor, bytes));
            Ok(())
        }
        .boxed()
    }
}

fn incomplete(error: Error) -> Error {
    if error.is_not_found() {
        return error
            .context("the image is not complete here; pull it for all its platforms, or push one with --platform");
    }
    error
}
