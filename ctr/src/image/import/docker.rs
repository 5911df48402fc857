//! `docker save`'s archives: `manifest.json` names configurations, layers and tags; manifests and an index are made of it.

use crate::client::Client;
use crate::content::store;
use crate::image::model::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, Descriptor, IMAGE_NAME, Index, Manifest,
    OCI_INDEX, REF_NAME, null_default,
};
use crate::image::recode::{self, Recoder};
use crate::image::unpack::UNCOMPRESSED;
use crate::image::{reference, walk};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// One image of `manifest.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DockerManifest {
    /// Path of the configuration.
    pub config: String,
    /// Names, in Docker's short form.
    #[serde(deserialize_with = "null_default")]
    pub repo_tags: Vec<String>,
    /// Paths of the layers, the lowest first.
    #[serde(deserialize_with = "null_default")]
    pub layers: Vec<String>,
}

/// Writes the manifests and the index of the images; answers the index.
pub async fn index(
    client: &Client,
    blobs: &BTreeMap<PathBuf, Descriptor>,
    images: &[DockerManifest],
    compress: bool,
) -> Result<Descriptor> {
    let mut manifests = Vec::new();
    for image in images {
        let config = blobs.get(Path::new(&image.config));
        let config = config.with_context(|| format!("image config {:?} not found", image.config))?;
        let config = Descriptor {
            media_type: DOCKER_CONFIG.to_owned(),
            ..config.clone()
        };
        let layers = layers(client, blobs, &image.layers, compress)
            .await
            .context("failed to resolve layers")?;
        let platform = walk::config_platform(client, &config)
            .await
            .context("unable to resolve platform")?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: DOCKER_MANIFEST.to_owned(),
            config,
            layers,
            ..Manifest::default()
        };
        let mut descriptor = write(client, &manifest, DOCKER_MANIFEST)
            .await
            .context("write docker manifest")?;
        descriptor.platform = (!platform.os.is_empty()).then_some(platform);
        if image.repo_tags.is_empty() {
            manifests.push(descriptor.clone());
        }
        for tag in &image.repo_tags {
            let name = reference::normalize(tag)?;
            let mut tagged = descriptor.clone();
            tagged
                .annotations
                .insert(REF_NAME.to_owned(), reference::object(&name).to_owned());
            tagged.annotations.insert(IMAGE_NAME.to_owned(), name);
            manifests.push(tagged);
        }
    }
    write(
        client,
        &Index {
            schema_version: 2,
            media_type: String::new(),
            manifests,
            ..Index::default()
        },
        OCI_INDEX,
    )
    .await
}

async fn write(client: &Client, document: &impl serde::Serialize, media_type: &str) -> Result<Descriptor> {
    let bytes = serde_json::to_vec(document).context("cannot write JSON")?;
    let digest = store::sha256(&bytes);
    let size = bytes.len() as i64;
    store::write_document(client, &format!("manifest-{digest}"), &digest, bytes, HashMap::new()).await?;
    Ok(Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        ..Descriptor::default()
    })
}

async fn layers(
    client: &Client,
    blobs: &BTreeMap<PathBuf, Descriptor>,
    paths: &[String],
    compress: bool,
) -> Result<Vec<Descriptor>> {
    let mut layers = Vec::new();
    for path in paths {
        let blob = blobs
            .get(Path::new(path))
            .with_context(|| format!("layer {path:?} not found"))?;
        // The same layer, compressed by an earlier pull: its manifest's digest is better known.
        let filter = format!("labels.\"{UNCOMPRESSED}\"=={}", blob.digest);
        let compressed = store::list(client, vec![filter])
            .await
            .context("failure checking for compressed blobs")?;
        let mut layer = blob.clone();
        if let Some(found) = compressed.into_iter().find(|found| found.digest != blob.digest) {
            layer = Descriptor {
                digest: found.digest,
                size: found.size,
                ..layer
            };
        }
        layer.media_type = media_type(client, &layer.digest).await?.to_owned();
        if compress && layer.media_type == DOCKER_LAYER {
            layer = compressed_copy(client, &layer).await?;
        }
        layers.push(layer);
    }
    Ok(layers)
}

/// Docker's media type of a layer, by the blob's first bytes.
async fn media_type(client: &Client, digest: &str) -> Result<&'static str> {
    let plain = Recoder::to_plain(client, digest).await?.is_none();
    Ok(if plain { DOCKER_LAYER } else { DOCKER_LAYER_GZIP })
}

async fn compressed_copy(client: &Client, layer: &Descriptor) -> Result<Descriptor> {
    let name = format!("compress-blob-{}", layer.digest.replacen(':', "-", 1));
    let labels = HashMap::from([(UNCOMPRESSED.to_owned(), layer.digest.clone())]);
    recode::copy(client, layer, &name, Recoder::gzip(), labels, DOCKER_LAYER_GZIP).await
}
