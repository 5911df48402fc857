//! `docker save`'s archives: `manifest.json` names configurations, layers and tags; manifests and an index are made of it.

use crate::client::Client;
use crate::content::store::{self, CHUNK, Expected, Writer};
use crate::image::model::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, Descriptor, IMAGE_NAME, Index, Manifest,
    OCI_INDEX, REF_NAME, null_default,
};
use crate::image::unpack::UNCOMPRESSED;
use crate::image::{reference, walk};
use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
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
    let mut head = Vec::new();
    if store::info(client, digest).await?.size > 0 {
        let mut pieces = store::pieces(client, digest, 0, 10)
            .await
            .context("cannot look at the layer")?;
        while let Some(piece) = pieces.message().await? {
            head.extend(piece.data);
        }
    }
    let compressed = head.starts_with(&[0x1f, 0x8b, 0x08]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    Ok(if compressed { DOCKER_LAYER_GZIP } else { DOCKER_LAYER })
}

async fn compressed_copy(client: &Client, layer: &Descriptor) -> Result<Descriptor> {
    let name = format!("compress-blob-{}", layer.digest.replacen(':', "-", 1));
    let opened = Writer::open(client, &name, Expected::default()).await?;
    let mut writer = opened.with_context(|| format!("the daemon took ingest {name} for a blob"))?;
    let mut encoder = GzEncoder::new(Vec::with_capacity(CHUNK), Compression::default());
    let mut hash = <sha2::Sha256 as sha2::Digest>::new();
    let mut pieces = store::pieces(client, &layer.digest, 0, 0).await?;
    while let Some(piece) = pieces.message().await? {
        encoder.write_all(&piece.data).context("gzip")?;
        if encoder.get_ref().len() >= CHUNK {
            let full = std::mem::take(encoder.get_mut());
            sha2::Digest::update(&mut hash, &full);
            writer.write(full).await?;
        }
    }
    let rest = encoder.finish().context("gzip")?;
    sha2::Digest::update(&mut hash, &rest);
    writer.write(rest).await?;
    let digest = format!("sha256:{}", hex::encode(sha2::Digest::finalize(hash)));
    let size = writer.offset();
    writer
        .commit(HashMap::from([(UNCOMPRESSED.to_owned(), layer.digest.clone())]))
        .await?;
    Ok(Descriptor {
        media_type: DOCKER_LAYER_GZIP.to_owned(),
        digest,
        size,
        ..layer.clone()
    })
}
