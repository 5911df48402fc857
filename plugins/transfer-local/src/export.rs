//! From the stores into an archive: an OCI image layout that Docker can load too.

use std::collections::BTreeMap;

use containerd_client::types::transfer::{ImageExportStream, ImageStore};
use orlop_plugin::contract::{Code, Ctx, Digest, Image};
use orlop_plugin::registration::host_platform;
use orlop_plugin::{Error, Host, Result};
use serde::Serialize;

use crate::archive::{Record, RecordBody, reference, write_archive};
use crate::content::Content;
use crate::image_store;
use crate::lease::Leased;
use crate::oci::{
    ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, Document, Index, Platform, PlatformFilter, media_type,
    parse_document, to_json,
};
use crate::progress::Progress;
use crate::stream::{Attached, ByteSink};

/// On a blob: where it came from. An archive passes it on.
const DISTRIBUTION_SOURCE: &str = "containerd.io/distribution.source";

/// An image of Docker's `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Exports what `store` names on the stream of `destination`.
pub async fn export(
    host: &Host,
    ctx: &Ctx,
    store: &ImageStore,
    destination: &ImageExportStream,
    progress: &Progress,
) -> Result<()> {
    let mut sink = ByteSink::new(Attached::join(host, ctx, &destination.stream).await?);
    let exported: Result<()> = async {
        let leased = Leased::new(host, ctx).await?;
        progress.event("Exporting");
        let content = Content {
            store: host.content()?,
            ctx: leased.ctx().clone(),
        };
        let written = async {
            let images = image_store::lookup(host.images()?.as_ref(), leased.ctx(), store).await?;
            let records = Plan::make(&content, destination, images).await?;
            write_archive(&content, &mut sink, records).await
        }
        .await;
        leased.release().await;
        written
    }
    .await;
    sink.close(exported.clone().err()).await;
    exported?;
    progress.event("Completed export");
    Ok(())
}

/// What goes into the archive.
struct Plan<'a> {
    content: &'a Content,
    platforms: PlatformFilter,
    all_platforms: bool,
    skip_non_distributable: bool,
    records: BTreeMap<String, Record>,
    /// What Docker loads: manifests with their names, in the order of the images.
    docker: Vec<(Descriptor, Vec<String>)>,
}

// === impl Plan ===

impl<'a> Plan<'a> {
    async fn make(
        content: &'a Content,
        destination: &ImageExportStream,
        images: Vec<Image>,
    ) -> Result<BTreeMap<String, Record>> {
        let mut platforms: Vec<Platform> = destination.platforms.iter().map(Platform::from).collect();
        if platforms.is_empty() {
            platforms.push(host_platform().parse()?);
        }
        let mut plan = Self {
            content,
            platforms: PlatformFilter::new(platforms),
            all_platforms: destination.all_platforms,
            skip_non_distributable: destination.skip_non_distributable,
            records: BTreeMap::new(),
            docker: Vec::new(),
        };
        let mut index = Index {
            schema_version: 2,
            media_type: media_type::INDEX.to_owned(),
            ..Index::default()
        };
        for image in images {
            index.manifests.push(plan.add_image(image).await?);
        }
        plan.add_file("oci-layout", 0o444, br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        plan.add_file("index.json", 0o644, to_json(&index)?);
        if !destination.skip_compatibility_manifest && !plan.docker.is_empty() {
            let manifest = plan.docker_manifest().await?;
            plan.add_file("manifest.json", 0o644, manifest);
        }
        Ok(plan.records)
    }

    /// Adds an image with all that belongs to it; returns what the index says of it.
    async fn add_image(&mut self, image: Image) -> Result<Descriptor> {
        let name = image.name;
        let mut target = Descriptor::from(image.target);
        let info = self
            .content
            .check(&target)
            .await
            .map_err(|error| error.context(format!("export {name:?}")))?;
        let sources = info
            .labels
            .into_iter()
            .filter(|(key, _)| key.starts_with(DISTRIBUTION_SOURCE));
        target.annotations.extend(sources);
        target
            .annotations
            .insert(ANNOTATION_REF_NAME.to_owned(), reference::object_of(&name).to_owned());
        target
            .annotations
            .insert(ANNOTATION_IMAGE_NAME.to_owned(), name.clone());
        let doing = |error: Error| error.context(format!("export {name:?}"));
        let for_docker = if media_type::is_manifest(&target.media_type) {
            self.add_tree(target.clone()).await.map_err(doing)?;
            Some(target.clone())
        } else if media_type::is_index(&target.media_type) {
            self.add_index(&target).await.map_err(doing)?
        } else {
            return Err(Error::invalid_argument(format!(
                "{name:?} is neither a manifest nor an index but {:?}: only images can be exported",
                target.media_type
            )));
        };
        if let Some(manifest) = for_docker {
            match self
                .docker
                .iter_mut()
                .find(|(known, _)| known.digest == manifest.digest)
            {
                Some((_, names)) => names.push(name),
                None => self.docker.push((manifest, vec![name])),
            }
        }
        Ok(target)
    }

    /// Adds an index with the manifests that are wanted; returns the best of them.
    async fn add_index(&mut self, descriptor: &Descriptor) -> Result<Option<Descriptor>> {
        let bytes = self.content.read_document(descriptor).await?;
        self.add_blob(descriptor);
        let Some(Document::Index(index)) = parse_document(descriptor, &bytes)? else {
            return Ok(None);
        };
        let mut matching = Vec::new();
        for child in index.manifests {
            let matches = self.platforms.accepts(child.platform.as_ref());
            if matches {
                matching.push(child.clone());
            }
            if matches || self.all_platforms {
                self.add_tree(child).await?;
            }
        }
        if matching.is_empty() {
            return Err(Error::not_found(format!(
                "it has no manifest for {}: name one of its platforms",
                self.platforms
            )));
        }
        matching.retain(|child| media_type::is_manifest(&child.media_type));
        matching.sort_by_key(|child| self.platforms.rank(child.platform.as_ref()));
        Ok(matching.into_iter().next())
    }

    /// Adds a blob and all that it leads to, which must be there.
    async fn add_tree(&mut self, root: Descriptor) -> Result<()> {
        let mut rest = vec![root];
        while let Some(descriptor) = rest.pop() {
            let skipped = self.skip_non_distributable && media_type::is_non_distributable(&descriptor.media_type);
            if skipped || self.records.contains_key(&path_of(&descriptor.digest)) {
                continue;
            }
            let checked = self.content.check(&descriptor).await;
            checked.map_err(|error| match error.code {
                Code::NotFound => {
                    error.context("the image is not complete here; pull it for all its platforms, or export fewer")
                }
                _ => error,
            })?;
            if media_type::is_manifest(&descriptor.media_type) || media_type::is_index(&descriptor.media_type) {
                let bytes = self.content.read_document(&descriptor).await?;
                match parse_document(&descriptor, &bytes)? {
                    Some(Document::Manifest(manifest)) => {
                        rest.push(manifest.config);
                        rest.extend(manifest.layers);
                    }
                    Some(Document::Index(index)) => rest.extend(index.manifests),
                    None => {}
                }
            }
            self.add_blob(&descriptor);
        }
        Ok(())
    }

    fn add_blob(&mut self, descriptor: &Descriptor) {
        let directories = ["blobs/".to_owned(), format!("blobs/{}/", descriptor.digest.algorithm())];
        for directory in directories {
            self.records.entry(directory).or_insert(Record {
                mode: 0o755,
                body: RecordBody::Directory,
            });
        }
        let record = Record {
            mode: 0o444,
            body: RecordBody::Blob(descriptor.clone()),
        };
        self.records.insert(path_of(&descriptor.digest), record);
    }

    fn add_file(&mut self, name: &str, mode: u32, bytes: Vec<u8>) {
        let record = Record {
            mode,
            body: RecordBody::Bytes(bytes),
        };
        self.records.insert(name.to_owned(), record);
    }

    async fn docker_manifest(&self) -> Result<Vec<u8>> {
        let mut images = Vec::new();
        for (descriptor, names) in &self.docker {
            let bytes = self.content.read_document(descriptor).await?;
            let Some(Document::Manifest(manifest)) = parse_document(descriptor, &bytes)? else {
                continue;
            };
            // Docker knows no other names than these; an image without one is loaded by its id.
            let tags: Vec<String> = names
                .iter()
                .filter_map(|name| reference::familiarize(name).ok())
                .collect();
            images.push(DockerImage {
                config: path_of(&manifest.config.digest),
                repo_tags: Some(tags).filter(|tags| !tags.is_empty()),
                layers: manifest.layers.iter().map(|layer| path_of(&layer.digest)).collect(),
            });
        }
        to_json(&images)
    }
}

fn path_of(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}
