//! From an archive into the stores: blobs as they arrive, then the index's images, unpacked and named.

use std::sync::Arc;

use bytes::Bytes;
use containerd_client::types::transfer::{ImageImportStream, ImageStore};
use orlop_plugin::contract::{BoxStream, Ctx};
use orlop_plugin::{Error, Host, Result};

use crate::archive::{Layout, convert_docker, read_archive};
use crate::config::Config;
use crate::content::Content;
use crate::image_store;
use crate::lease::Leased;
use crate::oci::{Descriptor, Platform, PlatformFilter};
use crate::progress::Progress;
use crate::stream::{Attached, receive};
use crate::unpack::{Ahead, KeyedLocks, Unpacker, targets};
use crate::walk::{Selection, Walked, walk};

/// What an import needs of the daemon.
pub struct Import<'a> {
    /// The daemon.
    pub host: &'a Host,
    /// The plugin's configuration.
    pub config: &'a Config,
    /// The plugin's locks.
    pub locks: &'a Arc<KeyedLocks>,
    /// Where progress is told.
    pub progress: &'a Progress,
}

// === impl Import ===

impl Import<'_> {
    /// Imports what arrives on the stream of `source` and files it as `store` says.
    pub async fn run(&self, ctx: &Ctx, source: &ImageImportStream, store: &ImageStore) -> Result<()> {
        let stream = receive(Attached::join(self.host, ctx, &source.stream).await?);
        let leased = Leased::new(self.host, ctx).await?;
        self.progress.event("Importing");
        let imported = self.import(leased.ctx(), stream, source.force_compress, store).await;
        leased.release().await;
        imported?;
        self.progress.event("Completed import");
        Ok(())
    }

    async fn import(&self, ctx: &Ctx, stream: BoxStream<Bytes>, compress: bool, store: &ImageStore) -> Result<()> {
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
        let mut ahead = Ahead::start(unpacker.clone());
        let read = self.read(&content, stream, compress, store, &mut ahead).await;
        // Nothing may go on writing when the lease is given back.
        match &read {
            Ok(_) => ahead.finish().await,
            Err(_) => ahead.give_up().await,
        }
        let (index, walked) = read?;
        for manifest in &walked.images {
            unpacker.unpack(manifest).await?;
        }
        self.file(ctx, store, &index, walked.roots).await
    }

    async fn read(
        &self,
        content: &Content,
        stream: BoxStream<Bytes>,
        compress: bool,
        store: &ImageStore,
        ahead: &mut Ahead,
    ) -> Result<(Descriptor, Walked)> {
        let archive = read_archive(content, stream, ahead).await?;
        let index = match archive.layout {
            Layout::Oci(index) => index,
            Layout::Docker(images) => convert_docker(content, &archive.blobs, images, compress).await?,
        };
        let selection = Selection {
            platforms: PlatformFilter::new(store.platforms.iter().map(Platform::from).collect()),
            all_metadata: store.all_metadata,
            manifest_limit: store.manifest_limit as usize,
        };
        let walked = walk(content, &index, &selection).await?;
        Ok((index, walked))
    }

    /// Names the images: the index as a whole, if asked for, and what it leads to, by their annotations.
    async fn file(&self, ctx: &Ctx, store: &ImageStore, index: &Descriptor, roots: Vec<Descriptor>) -> Result<()> {
        let images = self.host.images()?;
        let mut named: Vec<(String, &Descriptor)> = image_store::names(store, index)
            .into_iter()
            .map(|name| (name, index))
            .collect();
        for root in &roots {
            let names = image_store::names_from_annotations(store, root);
            named.extend(names.into_iter().map(|name| (name, root)));
        }
        if named.is_empty() {
            tracing::info!(index = %index.digest, "imported an archive that names no image, under no name");
        }
        for (name, target) in named {
            image_store::save(images.as_ref(), ctx, store, &name, target).await?;
            self.progress.saved(&name, target);
        }
        Ok(())
    }
}

/// Sends back what arrives: a client's test of its streams.
pub async fn echo(host: &Host, ctx: &Ctx, from: &str, to: &str) -> Result<()> {
    use futures_util::StreamExt;
    let mut source = receive(Attached::join(host, ctx, from).await?);
    let mut sink = crate::stream::ByteSink::new(Attached::join(host, ctx, to).await?);
    let copied: Result<(), Error> = async {
        while let Some(bytes) = source.next().await {
            sink.write(bytes?).await?;
        }
        Ok(())
    }
    .await;
    sink.close(copied.clone().err()).await;
    copied
}
