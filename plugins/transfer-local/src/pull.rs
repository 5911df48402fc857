//! From a registry into the stores: documents first, and the layers of each wanted image as soon as its manifest is known, fetched side
//! by side and unpacked as they come.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use containerd_client::types::transfer::{ImageStore, OciRegistry};
use futures_util::future::{BoxFuture, FusedFuture};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use orlop_plugin::contract::{Ctx, Digest, Labels};
use orlop_plugin::{Error, Host, Result};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::interval;

use crate::config::Config;
use crate::content::Content;
use crate::image_store;
use crate::lease::Leased;
use crate::oci::{
    Descriptor, Document, Index, Manifest, Platform, PlatformFilter, check_nesting, check_size, media_type,
    parse_document,
};
use crate::progress::{Jobs, Progress, TICK};
use crate::registry::{Fetched, Network, Registry, add_source};
use crate::unpack::{Arrivals, KeyedLocks, Unpacker, targets};
use crate::verify::verify;
use crate::walk::{Selection, label, wanted};

/// Documents of one index fetched at a time.
const DOCUMENTS_AT_ONCE: usize = 8;

/// Platforms that are told of an image which is not there for the wanted one.
const MAX_TOLD: usize = 20;

/// What a pull needs of the daemon.
pub struct Pull<'a> {
    /// The daemon.
    pub host: &'a Host,
    /// The plugin's configuration.
    pub config: &'a Config,
    /// The plugin's locks.
    pub locks: &'a Arc<KeyedLocks>,
    /// Limits the layers that are fetched at a time.
    pub downloads: &'a Arc<Semaphore>,
    /// How registries are reached.
    pub network: &'a Network,
    /// Where progress is told.
    pub progress: &'a Progress,
}

// === impl Pull ===

impl Pull<'_> {
    /// Pulls the image that `source` names and files it as `store` says.
    pub async fn run(&self, ctx: &Ctx, source: &OciRegistry, store: &ImageStore) -> Result<()> {
        let registry = Registry::open(self.host, ctx, source, &self.config.config_path, self.network).await?;
        let registry = Arc::new(registry);
        let pulled = self.leased(ctx, &registry, store).await;
        registry.close().await;
        pulled
    }

    async fn leased(&self, ctx: &Ctx, registry: &Arc<Registry>, store: &ImageStore) -> Result<()> {
        let leased = Leased::new(self.host, ctx).await?;
        let pulled = self.pull(leased.ctx(), registry, store).await;
        leased.release().await;
        pulled
    }

    async fn pull(&self, ctx: &Ctx, registry: &Arc<Registry>, store: &ImageStore) -> Result<()> {
        let (progress, name) = (self.progress, &registry.reference.full);
        progress.event(&format!("Resolving from {}", registry.describe()));
        let target = registry.resolve().await?;
        let mut names = image_store::names(store, &target);
        names.extend(image_store::names_from_annotations(store, &target));
        if names.is_empty() {
            return Err(Error::invalid_argument(
                "the transfer gives no name under which to store the image",
            ));
        }
        verify(self.host, ctx, name, &target).await?;
        progress.event(&format!("Pulling from {}", registry.describe()));
        progress.image("fetching image content", name, &target);

        let content = Content {
            store: self.host.content()?,
            ctx: ctx.clone(),
        };
        let unpacker = Unpacker {
            content: content.clone(),
            leases: self.host.leases()?,
            targets: Arc::new(targets(self.host, &self.config.unpack_config, &store.unpacks).await?),
            at_once: self.config.unpacks_at_once(),
            locks: self.locks.clone(),
        };
        let fetcher = Fetcher {
            registry: registry.clone(),
            content,
            limit: self.downloads.clone(),
            jobs: Arc::new(Jobs::new("downloading", name)),
        };
        let selection = Selection {
            platforms: PlatformFilter::new(store.platforms.iter().map(Platform::from).collect()),
            all_metadata: store.all_metadata,
            manifest_limit: store.manifest_limit as usize,
        };
        let fetched = self.fetch(&fetcher, unpacker, &target, &selection).await;
        progress.finish_jobs(&fetcher.jobs).await;
        fetched?;

        let images = self.host.images()?;
        for name in names {
            image_store::save(images.as_ref(), ctx, store, &name, &target).await?;
            progress.saved(&name, &target);
        }
        progress.event(&format!("Completed pull from {}", registry.describe()));
        Ok(())
    }

    /// Fetches and unpacks everything that is wanted of `target`.
    async fn fetch(
        &self,
        fetcher: &Fetcher,
        unpacker: Unpacker,
        target: &Descriptor,
        selection: &Selection,
    ) -> Result<()> {
        let (images, mut found) = mpsc::unbounded_channel();
        let descent = Descent {
            fetcher,
            selection,
            images,
            seen: Mutex::default(),
        };
        let mut work = Work {
            fetcher,
            unpacker,
            arrived: watch::Sender::default(),
            started: BTreeSet::new(),
            downloads: JoinSet::new(),
            unpacks: JoinSet::new(),
        };
        let mut ticks = interval(TICK);
        let done: Result<()> = async {
            let mut walk = descent.visit(target.clone(), None, Arc::default()).fuse();
            loop {
                tokio::select! {
                    biased;
                    walked = &mut walk, if !walk.is_terminated() => walked?,
                    Some(found) = found.recv() => work.begin(found),
                    Some(fetched) = work.downloads.join_next() => joined(fetched)?,
                    Some(unpacked) = work.unpacks.join_next() => joined(unpacked)?,
                    _ = ticks.tick() => {
                        self.progress.jobs(&fetcher.jobs);
                    }
                }
                if walk.is_terminated() && found.is_empty() && work.downloads.is_empty() && work.unpacks.is_empty() {
                    return Ok(());
                }
            }
        }
        .await;
        if done.is_err() {
            work.give_up().await;
        }
        done
    }
}

/// What was found on the way down: an image that is wanted.
struct Found {
    descriptor: Descriptor,
    manifest: Manifest,
}

/// The way from the root down to the images.
struct Descent<'a> {
    fetcher: &'a Fetcher,
    selection: &'a Selection,
    images: mpsc::UnboundedSender<Found>,
    seen: Mutex<BTreeSet<Digest>>,
}

// === impl Descent ===

impl Descent<'_> {
    /// Fetches a document and what is below it, but not the layers.
    fn visit(
        &self,
        descriptor: Descriptor,
        parent: Option<Descriptor>,
        ancestors: Arc<Vec<Digest>>,
    ) -> BoxFuture<'_, Result<()>> {
        async move {
            check_nesting(&descriptor.digest, &ancestors)?;
            let new = self
                .seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(descriptor.digest.clone());
            if !new {
                return Ok(());
            }
            let (fetcher, kind) = (self.fetcher, descriptor.media_type.as_str());
            fetcher.document(&descriptor, parent.as_ref()).await?;
            if !media_type::is_manifest(kind) && !media_type::is_index(kind) {
                return Ok(());
            }
            match parse_document(&descriptor, &fetcher.content.read_document(&descriptor).await?)? {
                Some(Document::Index(index)) => {
                    label(
                        &fetcher.content,
                        &descriptor,
                        &index.manifests.iter().collect::<Vec<_>>(),
                    )
                    .await?;
                    let children = self.children(&descriptor, index)?;
                    let mut path = ancestors.as_ref().clone();
                    path.push(descriptor.digest.clone());
                    let path = Arc::new(path);
                    stream::iter(children)
                        .map(|child| self.visit(child, Some(descriptor.clone()), path.clone()))
                        .buffer_unordered(DOCUMENTS_AT_ONCE)
                        .try_collect()
                        .await
                }
                Some(Document::Manifest(manifest)) => {
                    let children: Vec<&Descriptor> =
                        std::iter::once(&manifest.config).chain(&manifest.layers).collect();
                    label(&fetcher.content, &descriptor, &children).await?;
                    fetcher.document(&manifest.config, Some(&descriptor)).await?;
                    if self.selection.platforms.accepts(descriptor.platform.as_ref()) {
                        let _ = self.images.send(Found { descriptor, manifest });
                    }
                    Ok(())
                }
                None => Ok(()),
            }
        }
        .boxed()
    }

    /// The children of an index that are wanted. `NotFound` when no image is for a wanted platform.
    fn children(&self, descriptor: &Descriptor, index: Index) -> Result<Vec<Descriptor>> {
        let platforms = &self.selection.platforms;
        let all: Vec<String> = index
            .manifests
            .iter()
            .filter_map(|child| child.platform.as_ref())
            .take(MAX_TOLD)
            .map(ToString::to_string)
            .collect();
        let more = if index.manifests.len() > MAX_TOLD { ", …" } else { "" };
        let children = wanted(index, self.selection);
        if children.iter().any(|child| platforms.accepts(child.platform.as_ref())) {
            return Ok(children);
        }
        Err(Error::not_found(if all.is_empty() {
            format!("the index {} names no image", descriptor.digest)
        } else {
            format!(
                "the image is not there for {platforms}, but for {}{more}",
                all.join(", ")
            )
        }))
    }
}

/// What runs beside the way down.
struct Work<'a> {
    fetcher: &'a Fetcher,
    unpacker: Unpacker,
    arrived: watch::Sender<Arrivals>,
    started: BTreeSet<Digest>,
    downloads: JoinSet<Result<()>>,
    unpacks: JoinSet<Result<()>>,
}

// === impl Work ===

impl Work<'_> {
    fn begin(&mut self, Found { descriptor, manifest }: Found) {
        for layer in &manifest.layers {
            if !self.started.insert(layer.digest.clone()) {
                continue;
            }
            self.fetcher.jobs.add(layer, Some(&descriptor));
            let (fetcher, layer, arrived) = (self.fetcher.clone(), layer.clone(), self.arrived.clone());
            self.downloads.spawn(async move {
                fetcher.layer(&layer).await?;
                arrived.send_modify(|arrived| {
                    arrived.blobs.insert(layer.digest);
                });
                Ok(())
            });
        }
        let (unpacker, arrived) = (self.unpacker.clone(), self.arrived.subscribe());
        self.unpacks
            .spawn(async move { unpacker.unpack_arriving(&manifest, Some(arrived)).await });
    }

    /// Ends the downloads, waits for the layers that are being unpacked, and leaves it at that: nothing may go on writing when the lease
    /// is given back.
    async fn give_up(mut self) {
        self.arrived.send_modify(|arrived| arrived.given_up = true);
        self.downloads.shutdown().await;
        while self.unpacks.join_next().await.is_some() {}
    }
}

/// Fetches the blobs of one image.
#[derive(Clone)]
struct Fetcher {
    registry: Arc<Registry>,
    content: Content,
    limit: Arc<Semaphore>,
    jobs: Arc<Jobs>,
}

// === impl Fetcher ===

impl Fetcher {
    async fn document(&self, descriptor: &Descriptor, parent: Option<&Descriptor>) -> Result<()> {
        let kind = &descriptor.media_type;
        if media_type::is_manifest(kind) || media_type::is_index(kind) || media_type::is_config(kind) {
            check_size(descriptor)?;
        }
        self.jobs.add(descriptor, parent);
        self.blob(descriptor).await
    }

    async fn layer(&self, descriptor: &Descriptor) -> Result<()> {
        // The semaphore is never closed.
        let _permit = self
            .limit
            .acquire()
            .await
            .map_err(|error| Error::internal(error.to_string()))?;
        match self.blob(descriptor).await {
            Err(error) if error.is_not_found() && media_type::is_non_distributable(&descriptor.media_type) => Ok(()),
            fetched => fetched,
        }
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<()> {
        let (key, repository) = (
            self.registry.reference.source_label(),
            &self.registry.reference.repository,
        );
        let labels = Labels::from([(key.clone(), repository.clone())]);
        let (jobs, digest) = (self.jobs.clone(), descriptor.digest.clone());
        let on_offset = Arc::new(move |offset| jobs.moved(&digest, offset));
        let fetched = self
            .registry
            .fetch(&self.content, descriptor, labels, on_offset)
            .await?;
        if fetched == Fetched::Before {
            let info = self.content.check(descriptor).await?;
            let present = info.labels.get(&key).map_or("", String::as_str);
            if let Some(value) = add_source(&key, present, repository) {
                self.content
                    .label(&descriptor.digest, Labels::from([(key, value)]))
                    .await?;
            }
        }
        self.jobs.complete(&descriptor.digest, fetched == Fetched::Before);
        Ok(())
    }
}

fn joined(done: Result<Result<()>, JoinError>) -> Result<()> {
    done.unwrap_or_else(|error| Err(Error::internal(format!("a part of the pull ended early: {error}"))))
}
