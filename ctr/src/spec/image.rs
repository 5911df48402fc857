//! The part of an image's configuration that a container takes over.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;

/// `config` of an OCI or Docker image configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// User, as `--user` has it.
    #[serde(deserialize_with = "null_default")]
    pub user: String,
    /// Environment.
    #[serde(deserialize_with = "null_default")]
    pub env: Vec<String>,
    /// Program and its first arguments.
    #[serde(deserialize_with = "null_default")]
    pub entrypoint: Vec<String>,
    /// Arguments that the command line replaces.
    #[serde(deserialize_with = "null_default")]
    pub cmd: Vec<String>,
    /// Working directory.
    #[serde(deserialize_with = "null_default")]
    pub working_dir: String,
    /// Labels, handed on to the container.
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the process to end, by name or number.
    #[serde(deserialize_with = "null_default")]
    pub stop_signal: String,
}

/// Docker writes `null` where the field is empty.
fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct Document {
    #[serde(default, deserialize_with = "null_default")]
    config: ImageConfig,
}

impl ImageConfig {
    /// Reads the configuration blob of an image.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let document: Document =
            serde_json::from_slice(bytes).context("the image's configuration is not valid JSON")?;
        Ok(document.config)
    }
}
