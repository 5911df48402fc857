//! Manifests, indexes and image configurations, read with suspicion.
//!
//! One blob must never pass as a manifest here and as an index there (CVE-2021-41190): the media type of the descriptor decides what
//! it is, and a document that carries the parts of the other kind, or names the other media type, is refused.

use std::collections::BTreeMap;

use orlop_plugin::contract::Digest;
use orlop_plugin::{Error, Result};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use super::descriptor::null_is_empty;
use super::{Descriptor, MAX_DOCUMENT, MAX_NESTING, Platform, media_type};

/// A manifest: the configuration and the layers of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own media type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub layers: Vec<Descriptor>,
}

/// An index: manifests for several platforms, or of several images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Its own media type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The manifests, or further indexes.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub manifests: Vec<Descriptor>,
    /// Free annotations.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// What of an image configuration matters for unpacking it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ImageConfig {
    /// What it runs on.
    #[serde(flatten)]
    pub platform: Platform,
    /// Its file system.
    #[serde(default)]
    pub rootfs: RootFs,
}

/// The file system of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RootFs {
    /// The digests of the uncompressed layers, lowest first.
    #[serde(default, deserialize_with = "diff_ids")]
    pub diff_ids: Vec<Digest>,
}

/// A document with children.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub enum Document {
    /// A manifest.
    Manifest(Manifest),
    /// An index.
    Index(Index),
}

/// The parts by which one kind is told from another.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    media_type: String,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// Reads `bytes` as what `descriptor` says they are; `None` for blobs that have no children. `InvalidArgument` for what is no
/// such document.
pub fn parse_document(descriptor: &Descriptor, bytes: &[u8]) -> Result<Option<Document>> {
    let kind = descriptor.media_type.as_str();
    if !media_type::is_manifest(kind) && !media_type::is_index(kind) {
        return Ok(None);
    }
    let invalid = |why: String| Error::invalid_argument(format!("{kind} {}: {why}", descriptor.digest));
    let json = |error: serde_json::Error| invalid(format!("it is not valid JSON of its kind: {error}"));
    let shape: Shape = serde_json::from_slice(bytes).map_err(json)?;
    if shape.fs_layers.is_some() {
        return Err(invalid(
            "Docker's schema 1 is no longer supported; push the image anew".to_owned(),
        ));
    }
    if media_type::is_manifest(kind) {
        if shape.manifests.is_some() || media_type::is_index(&shape.media_type) {
            return Err(invalid(
                "it must be a manifest but has the parts of an index".to_owned(),
            ));
        }
        serde_json::from_slice(bytes)
            .map(|manifest| Some(Document::Manifest(manifest)))
            .map_err(json)
    } else {
        if shape.config.is_some() || shape.layers.is_some() || media_type::is_manifest(&shape.media_type) {
            return Err(invalid(
                "it must be an index but has the parts of a manifest".to_owned(),
            ));
        }
        serde_json::from_slice(bytes)
            .map(|index| Some(Document::Index(index)))
            .map_err(json)
    }
}

/// Refuses an index or a manifest below too many indexes, or below itself; `ancestors` are the indexes above it.
pub fn check_nesting(digest: &Digest, ancestors: &[Digest]) -> Result<()> {
    if ancestors.contains(digest) {
        return Err(Error::invalid_argument(format!(
            "the index {digest} contains itself: such an image cannot be stored"
        )));
    }
    if ancestors.len() > MAX_NESTING {
        return Err(Error::invalid_argument(format!(
            "more than {MAX_NESTING} indexes stand one in the other, down to {digest}: no image needs that"
        )));
    }
    Ok(())
}

/// Refuses a document of an image that says it is larger than one may be.
pub fn check_size(descriptor: &Descriptor) -> Result<()> {
    if descriptor.size > MAX_DOCUMENT {
        return Err(Error::invalid_argument(format!(
            "the {} {} has {} bytes: a document of an image may have {MAX_DOCUMENT}",
            descriptor.media_type, descriptor.digest, descriptor.size
        )));
    }
    Ok(())
}

/// Reads an image configuration.
pub fn parse_config(digest: &Digest, bytes: &[u8]) -> Result<ImageConfig> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::invalid_argument(format!("image configuration {digest}: not valid: {error}")))
}

/// The bytes of a document of ours.
pub fn to_json<T: Serialize>(document: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|error| Error::internal(format!("write a document of an image: {error}")))
}

fn diff_ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Digest>, D::Error> {
    let ids: Vec<String> = null_is_empty(deserializer)?;
    ids.into_iter()
        .map(|id| Digest::new(id).map_err(serde::de::Error::custom))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest_of;

    fn parse(kind: &str, json: &str) -> Result<Option<Document>> {
        parse_document(
            &Descriptor::new(kind, digest_of(json.as_bytes()), json.len() as u64),
            json.as_bytes(),
        )
    }

    #[track_caller]
    fn refused(kind: &str, json: &str, why: &str) {
        let error = parse(kind, json).expect_err("must be refused");
        assert_eq!(error.code, orlop_plugin::contract::Code::InvalidArgument);
        assert!(error.message.contains(why), "{error}");
    }

    #[test]
    fn a_document_is_one_thing_only() {
        let blob = digest_of(b"x");
        let manifest =
            format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{blob}","size":1}},"layers":null}}"#);
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(
            parse(media_type::MANIFEST, &manifest),
            Ok(Some(Document::Manifest(_)))
        ));
        assert!(matches!(
            parse(media_type::DOCKER_INDEX, index),
            Ok(Some(Document::Index(_)))
        ));
        assert!(matches!(parse("application/octet-stream", "anything"), Ok(None)));

        refused(media_type::INDEX, &manifest, "parts of a manifest");
        refused(media_type::MANIFEST, index, "parts of an index");
        let both = format!(
            r#"{{"schemaVersion":2,"manifests":[],"config":{{"mediaType":"c","digest":"{blob}","size":1}},"layers":[]}}"#
        );
        refused(media_type::MANIFEST, &both, "parts of an index");
        refused(media_type::INDEX, &both, "parts of a manifest");
        let named = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#,
            media_type::MANIFEST
        );
        refused(media_type::INDEX, &named, "parts of a manifest");
        refused(media_type::MANIFEST, r#"{"fsLayers":[]}"#, "schema 1");
        refused(media_type::MANIFEST, "{", "not valid JSON");
        refused(
            media_type::MANIFEST,
            r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#,
            "duplicate",
        );
    }

    #[test]
    fn descriptors_with_nonsense_are_refused() {
        for entry in [r#"{"digest":"sha256:00","size":1}"#, r#"{"digest":"../../x","size":1}"#] {
            refused(
                media_type::INDEX,
                &format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#),
                "digest",
            );
        }
        let negative = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":-1}}]}}"#,
            digest_of(b"")
        );
        refused(media_type::INDEX, &negative, "-1");
    }

    #[test]
    fn configurations_tell_platform_and_layers() {
        let id = digest_of(b"layer");
        let json = format!(
            r#"{{"os":"linux","architecture":"arm64","variant":"v8","rootfs":{{"type":"layers","diff_ids":["{id}"]}}}}"#
        );
        let config = parse_config(&digest_of(json.as_bytes()), json.as_bytes()).expect("valid");
        assert_eq!(config.platform.normalized().to_string(), "linux/arm64");
        assert_eq!(config.rootfs.diff_ids, [id]);
    }
}
