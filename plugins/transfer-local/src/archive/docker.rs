//! Docker's own layout (`docker save` before version 25): `manifest.json` names configurations, layers and tags. It becomes the
//! manifests and the index that it lacks.

use std::collections::BTreeMap;
use std::io::Write;

use bytes::Bytes;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use orlop_plugin::contract::{Digest, Labels, collect};
use orlop_plugin::{Error, Result};
use serde::Deserialize;

use super::{Compression, StoredBlob, reference};
use crate::content::Content;
use crate::oci::{
    ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, Index, Manifest, Platform, media_type, parse_config,
    to_json,
};
use crate::unpack::LABEL_UNCOMPRESSED;

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// Writes manifests for `images` and an index over them; returns the index. With `compress`, layers are compressed on the way.
pub async fn convert(
    content: &Content,
    blobs: &BTreeMap<String, StoredBlob>,
    images: Vec<DockerImage>,
    compress: bool,
) -> Result<Descriptor> {
    let mut index = Index {
        schema_version: 2,
        ..Index::default()
    };
    for image in images {
        let manifest = write_manifest(content, blobs, &image, compress).await?;
        let tags = image.repo_tags.unwrap_or_default();
        if tags.is_empty() {
            index.manifests.push(manifest.clone());
        }
        for tag in tags {
            let name = reference::normalize(&tag)?;
            let mut tagged = manifest.clone();
            let object = reference::object_of(&name).to_owned();
            tagged.annotations.insert(ANNOTATION_REF_NAME.to_owned(), object);
            tagged.annotations.insert(ANNOTATION_IMAGE_NAME.to_owned(), name);
            index.manifests.push(tagged);
        }
    }
    write_document(content, media_type::INDEX, to_json(&index)?).await
}

async fn write_manifest(
    content: &Content,
    blobs: &BTreeMap<String, StoredBlob>,
    image: &DockerImage,
    compress: bool,
) -> Result<Descriptor> {
    let find = |what: &str, name: &str| {
        blobs.get(name).ok_or_else(|| {
            Error::invalid_argument(format!(
                "manifest.json names the {what} {name:?}, which the archive does not have"
            ))
        })
    };
    let config = find("configuration", &image.config)?;
    let config = Descriptor::new(media_type::DOCKER_CONFIG, config.digest.clone(), config.size);
    let mut layers = Vec::new();
    for name in image.layers.iter().flatten() {
        layers.push(layer(content, find("layer", name)?, compress).await?);
    }
    let bytes = content.read_document(&config).await?;
    let platform = parse_config(&config.digest, &bytes)?.platform;
    let manifest = to_json(&Manifest {
        schema_version: 2,
        media_type: media_type::DOCKER_MANIFEST.to_owned(),
        config,
        layers,
    })?;
    let mut descriptor = write_document(content, media_type::DOCKER_MANIFEST, manifest).await?;
    // As containerd: os and architecture only.
    descriptor.platform = Some(
        Platform {
            os: platform.os,
            architecture: platform.architecture,
            ..Platform::default()
        }
        .normalized(),
    );
    Ok(descriptor)
}

/// The descriptor of a layer; of its compressed form, if the store has that already.
async fn layer(content: &Content, blob: &StoredBlob, compress: bool) -> Result<Descriptor> {
    if blob.compression != Compression::None {
        return Ok(descriptor(blob.compression, blob.digest.clone(), blob.size));
    }
    let filter = format!("labels.{LABEL_UNCOMPRESSED:?}=={}", blob.digest);
    if let Some(compressed) = collect(content.store.list(&content.ctx, &[filter]).await?)
        .await?
        .into_iter()
        .next()
    {
        let mut pieces = content.read(&compressed.digest).await?;
        let head = pieces.next().await.transpose()?.unwrap_or_default();
        return Ok(descriptor(
            Compression::detect(&head),
            compressed.digest,
            compressed.size,
        ));
    }
    if compress {
        return compressed(content, &blob.digest).await;
    }
    Ok(descriptor(Compression::None, blob.digest.clone(), blob.size))
}

fn descriptor(compression: Compression, digest: Digest, size: u64) -> Descriptor {
    let media_type = match compression {
        Compression::None => media_type::DOCKER_LAYER,
        Compression::Gzip => media_type::DOCKER_LAYER_GZIP,
        // Docker has no name for it.
        Compression::Zstd => media_type::LAYER_ZSTD,
    };
    Descriptor::new(media_type, digest, size)
}

/// Compresses the layer `plain` into a blob of its own.
async fn compressed(content: &Content, plain: &Digest) -> Result<Descriptor> {
    let doing = |error: std::io::Error| Error::io(format!("compress the layer {plain}"), &error);
    let mut pieces = content.read(plain).await?;
    let mut ingest = content.create(&format!("compressed-{}", plain.hex()), 0, None).await?;
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut size = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        // Deflating takes a while: the caller's worker polls us, so each piece goes to the blocking pool.
        let (back, bytes) = orlop_plugin::blocking(move || {
            let written = encoder.write_all(&piece).map(|()| std::mem::take(encoder.get_mut()));
            Ok((encoder, written))
        })
        .await?;
        encoder = back;
        let bytes = bytes.map_err(doing)?;
        size += bytes.len() as u64;
        ingest.write(Bytes::from(bytes)).await?;
    }
    let rest = encoder.finish().map_err(doing)?;
    size += rest.len() as u64;
    ingest.write(Bytes::from(rest)).await?;
    let digest = ingest.commit(size, Labels::new()).await?;
    content
        .label(
            &digest,
            Labels::from([(LABEL_UNCOMPRESSED.to_owned(), plain.to_string())]),
        )
        .await?;
    Ok(descriptor(Compression::Gzip, digest, size))
}

async fn write_document(content: &Content, media_type: &str, bytes: Vec<u8>) -> Result<Descriptor> {
    let size = bytes.len() as u64;
    let digest = content.write("document", bytes).await?;
    Ok(Descriptor::new(media_type, digest, size))
}
