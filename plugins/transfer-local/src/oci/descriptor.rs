//! The descriptor as documents write it: that of the contracts plus what only indexes need (platform, urls).

use std::collections::BTreeMap;

use orlop_plugin::contract::{self, Digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::{Platform, media_type};

/// What a document says of a blob. Fields are in the order in which containerd writes them, so that both make the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What `digest` names.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Its digest.
    #[serde(with = "digest_text")]
    pub digest: Digest,
    /// Its length, in bytes.
    pub size: u64,
    /// Where else it may be found: followed for foreign layers, and without credentials (CVE-2020-15157).
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free annotations.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// The content itself, base64, passed on as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The kind of an artifact.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
}

// === impl Descriptor ===

impl Descriptor {
    /// A descriptor that says no more than it must.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: String::new(),
        }
    }

    /// The same in the words of the contracts.
    pub fn to_contract(&self) -> contract::Descriptor {
        contract::Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: self.size,
            annotations: self.annotations.clone(),
        }
    }
}

impl From<contract::Descriptor> for Descriptor {
    fn from(descriptor: contract::Descriptor) -> Self {
        Self {
            annotations: descriptor.annotations,
            ..Self::new(&descriptor.media_type, descriptor.digest, descriptor.size)
        }
    }
}

/// The name of the ingest of a blob, as containerd chooses it (`remotes.MakeRefKey`).
pub fn reference_key(descriptor: &Descriptor) -> String {
    let kind = descriptor.media_type.as_str();
    let prefix = if media_type::is_manifest(kind) {
        "manifest"
    } else if media_type::is_index(kind) {
        "index"
    } else if media_type::is_layer(kind) {
        "layer"
    } else if media_type::is_known_config(kind) {
        "config"
    } else {
        "unknown"
    };
    format!("{prefix}-{}", descriptor.digest)
}

/// The canonical digest of `bytes`.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes))
}

/// Go writes an empty list or map as `null`.
pub(super) fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

mod digest_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(digest.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        Digest::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
