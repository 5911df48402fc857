//! Descriptors, manifests and indexes, of OCI and Docker, as far as this client reads and writes them.

use super::platform::Platform;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's index.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// OCI layer, not compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer that may not be handed on, not compressed.
const OCI_FOREIGN_LAYER: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// Docker's layer, not compressed.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker's layer, compressed.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Annotation with the whole name of an image in an archive.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// Annotation with the tag of an image in an archive.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A blob, as others refer to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:…`
    pub digest: String,
    /// Bytes.
    pub size: i64,
    /// Where else it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free-form metadata.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_default"
    )]
    pub annotations: BTreeMap<String, String>,
    /// The content itself, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub data: String,
    /// For which platform it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What an artifact's manifest is of.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
}

impl Descriptor {
    /// Whether it is an index of manifests.
    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_INDEX)
    }

    /// Whether it is a manifest.
    pub fn is_manifest(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether it is an image configuration.
    pub fn is_config(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG)
    }

    /// Whether it is a layer.
    pub fn is_layer(&self) -> bool {
        let base = self.media_type.split('+').next().unwrap_or_default();
        self.media_type.starts_with("application/vnd.oci.image.layer.")
            || base.starts_with("application/vnd.docker.image.rootfs.")
    }

    /// Whether it is a layer that may not be handed on.
    pub fn is_non_distributable(&self) -> bool {
        self.media_type
            .starts_with("application/vnd.oci.image.layer.nondistributable.")
            || self
                .media_type
                .starts_with("application/vnd.docker.image.rootfs.foreign.")
    }

    /// Algorithm and value of the digest, checked.
    pub fn digest_parts(&self) -> Result<(&str, &str)> {
        let digest = crate::digest::parse(&self.digest)?;
        digest.split_once(':').context("digest without algorithm")
    }

    /// As the API carries it.
    pub fn to_api(&self) -> containerd_client::types::Descriptor {
        containerd_client::types::Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: self.size,
            annotations: self.annotations.clone().into_iter().collect(),
        }
    }
}

impl From<containerd_client::types::Descriptor> for Descriptor {
    fn from(found: containerd_client::types::Descriptor) -> Self {
        Self {
            media_type: found.media_type,
            digest: found.digest,
            size: found.size,
            annotations: found.annotations.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// Docker and Go write `null` where a list or map is empty.
pub fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// OCI's name of a media type of Docker's; others are themselves.
pub fn docker_to_oci(media_type: &str) -> &str {
    match media_type {
        DOCKER_INDEX => OCI_INDEX,
        DOCKER_MANIFEST => OCI_MANIFEST,
        DOCKER_CONFIG => OCI_CONFIG,
        DOCKER_LAYER => OCI_LAYER,
        DOCKER_LAYER_GZIP => "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar" => OCI_FOREIGN_LAYER,
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        }
        other => other,
    }
}

/// Whether a media type is Docker's.
pub fn is_docker(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.")
}

/// The media type of a layer once it is not compressed any more.
pub fn uncompressed(media_type: &str) -> &str {
    match media_type {
        DOCKER_LAYER_GZIP => DOCKER_LAYER,
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
            "application/vnd.docker.image.rootfs.foreign.diff.tar"
        }
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.oci.image.layer.v1.tar+zstd" => OCI_LAYER,
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd" => OCI_FOREIGN_LAYER,
        other => other,
    }
}

/// containerd's name for the ingest of a blob, and for the blob in progress: `layer-sha256:…`.
pub fn reference_key(descriptor: &Descriptor) -> String {
    let kind = if descriptor.is_manifest() {
        "manifest"
    } else if descriptor.is_index() {
        "index"
    } else if descriptor.is_layer() {
        "layer"
    } else if descriptor.is_config() {
        "config"
    } else {
        "unknown"
    };
    format!("{kind}-{}", descriptor.digest)
}

/// A manifest: one image of one platform.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2
    pub schema_version: i32,
    /// Its own media type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What it is an artifact of.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    /// The image's configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form metadata.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// An index: manifests, mostly one a platform.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2
    pub schema_version: i32,
    /// Its own media type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What it is an artifact of.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    /// The manifests.
    #[serde(default, deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form metadata.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_default"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// The part of a configuration that says what it is for and what its layers are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Architecture.
    pub architecture: String,
    /// Operating system.
    pub os: String,
    /// Variant.
    pub variant: String,
    /// Layers.
    pub rootfs: RootFs,
}

/// Digests of the layers, not compressed, the lowest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// The digests.
    #[serde(deserialize_with = "null_default")]
    pub diff_ids: Vec<String>,
}

impl Config {
    /// What the image runs on.
    pub fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, &self.variant)
    }
}

/// What a document must not be, whatever its descriptor says: one that reads as manifest *and* index means different
/// images to different readers (CVE-2021-41190).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

fn shape(bytes: &[u8], descriptor: &Descriptor) -> Result<Shape> {
    let shape: Shape =
        serde_json::from_slice(bytes).with_context(|| format!("{} is no manifest or index", descriptor.digest))?;
    ensure!(
        shape.fs_layers.is_none(),
        "{} is a schema 1 manifest, which is not supported",
        descriptor.digest
    );
    if let Some(own) = shape.media_type.as_deref().filter(|own| !own.is_empty()) {
        let own = Descriptor {
            media_type: own.to_owned(),
            ..Descriptor::default()
        };
        ensure!(
            own.is_index() == descriptor.is_index() || !(own.is_index() || own.is_manifest()),
            "{} is called {} and calls itself {}",
            descriptor.digest,
            descriptor.media_type,
            own.media_type
        );
    }
    Ok(shape)
}

impl Manifest {
    /// Reads the blob of a manifest.
    pub fn from_json(bytes: &[u8], descriptor: &Descriptor) -> Result<Self> {
        ensure!(
            shape(bytes, descriptor)?.manifests.is_none(),
            "{} is manifest and index at once",
            descriptor.digest
        );
        serde_json::from_slice(bytes).with_context(|| format!("manifest {}", descriptor.digest))
    }
}

impl Index {
    /// Reads the blob of an index.
    pub fn from_json(bytes: &[u8], descriptor: &Descriptor) -> Result<Self> {
        let shape = shape(bytes, descriptor)?;
        ensure!(
            shape.config.is_none() && shape.layers.is_none(),
            "{} is index and manifest at once",
            descriptor.digest
        );
        serde_json::from_slice(bytes).with_context(|| format!("index {}", descriptor.digest))
    }
}

/// Names of the labels by which `children` are kept as long as what refers to them (`containerd.io/gc.ref.content.…`).
/// Layers are left out on request: they may then go once they are unpacked.
pub fn gc_labels(children: &[Descriptor], without_layers: bool) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for child in children {
        let kind = if child.is_config() {
            "config"
        } else if child.is_manifest() {
            "m."
        } else if child.is_layer() {
            if without_layers {
                continue;
            }
            "l."
        } else {
            ""
        };
        let count = counts.entry(kind).or_default();
        let number = if *count > 0 || !kind.starts_with("config") {
            count.to_string()
        } else {
            String::new()
        };
        labels.insert(
            format!("containerd.io/gc.ref.content.{kind}{number}"),
            child.digest.clone(),
        );
        *count += 1;
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(media_type: &str, digest: &str) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.to_owned(),
            ..Descriptor::default()
        }
    }

    #[test]
    fn children_are_labelled_by_kind_and_number() {
        let children = [
            of(OCI_CONFIG, "c"),
            of(DOCKER_LAYER_GZIP, "l0"),
            of(DOCKER_LAYER, "l1"),
            of("x", "o"),
        ];
        let labels = gc_labels(&children, false);
        let expected = [("config", "c"), ("l.0", "l0"), ("l.1", "l1"), ("0", "o")];
        for (suffix, digest) in expected {
            assert_eq!(labels[&format!("containerd.io/gc.ref.content.{suffix}")], digest);
        }
        assert_eq!(labels.len(), 4);
        assert_eq!(gc_labels(&children, true).len(), 2);
    }

    #[test]
    fn a_document_is_one_thing_only() {
        let both = br#"{"schemaVersion":2,"config":{"digest":"d","size":1},"layers":[],"manifests":[]}"#;
        assert!(Manifest::from_json(both, &of(OCI_MANIFEST, "d")).is_err());
        assert!(Index::from_json(both, &of(OCI_INDEX, "d")).is_err());
        let other = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":null}"#;
        assert!(Manifest::from_json(other, &of(OCI_MANIFEST, "d")).is_err());
        assert!(
            Index::from_json(other, &of(OCI_INDEX, "d"))
                .unwrap()
                .manifests
                .is_empty()
        );
    }
}
