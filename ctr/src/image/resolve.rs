//! An image record, followed to one platform's manifest and configuration.

use super::model::{Config, Descriptor};
use super::platform::{Matcher, Platform};
use super::walk;
use crate::client::Client;
use crate::content::store;
use anyhow::{Context, Result};
use containerd_client::services::v1::{GetImageRequest, Image as Record};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// One platform's image, with what making a container of it needs.
#[derive(Debug, Clone)]
pub struct Image {
    /// Name of the record.
    pub name: String,
    /// Labels of the record.
    pub labels: BTreeMap<String, String>,
    /// Descriptor of the configuration.
    pub config_descriptor: Descriptor,
    /// The configuration's bytes.
    pub config: Vec<u8>,
    /// Layers, the lowest first, as they are stored.
    pub layers: Vec<Descriptor>,
    /// Digests of the layers, not compressed; as many as there are layers.
    pub diff_ids: Vec<String>,
}

impl Image {
    /// Key of the snapshot that has all layers; empty for an image without any.
    pub fn chain_id(&self) -> String {
        chain_ids(&self.diff_ids).pop().unwrap_or_default()
    }
}

/// Keys of the snapshots of the first layer, the first two, and so on.
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(parent) => format!("sha256:{}", hex::encode(Sha256::digest(format!("{parent} {diff_id}")))),
        };
        chain.push(next);
    }
    chain
}

/// The record `name`.
pub async fn record(client: &Client, name: &str) -> Result<Record> {
    let request = GetImageRequest { name: name.to_owned() };
    let answer = client.images().get(client.request(request)).await?.into_inner();
    answer
        .image
        .with_context(|| format!("the daemon answered no image for {name}"))
}

/// The descriptor that a record points to.
pub fn target(record: &Record) -> Result<Descriptor> {
    let target = record
        .target
        .clone()
        .with_context(|| format!("image {} has no target", record.name))?;
    Ok(target.into())
}

/// The image `name` for a platform, this machine's unless given.
pub async fn resolve(client: &Client, name: &str, platform: Option<&str>) -> Result<Image> {
    let matcher = match platform.filter(|platform| !platform.is_empty()) {
        Some(platform) => Matcher::only(&Platform::parse(platform)?),
        None => Matcher::host(),
    };
    of_record(client, &record(client, name).await?, &matcher).await
}

/// A record's image for a platform.
pub async fn of_record(client: &Client, record: &Record, matcher: &Matcher) -> Result<Image> {
    let (_, manifest) = walk::manifest(client, &target(record)?, matcher).await?;
    let config = store::read(client, &manifest.config.digest).await?;
    let document: Config = serde_json::from_slice(&config)
        .with_context(|| format!("image configuration {} of {}", manifest.config.digest, record.name))?;
    let diff_ids = document.rootfs.diff_ids;
    anyhow::ensure!(
        diff_ids.len() == manifest.layers.len(),
        "mismatched image rootfs and manifest layers: {} diff ids, {} layers in {}",
        diff_ids.len(),
        manifest.layers.len(),
        record.name
    );
    for diff_id in &diff_ids {
        crate::digest::parse(diff_id).with_context(|| format!("diff id of {}", record.name))?;
    }
    Ok(Image {
        name: record.name.clone(),
        labels: record.labels.clone().into_iter().collect(),
        config_descriptor: manifest.config,
        config,
        layers: manifest.layers,
        diff_ids,
    })
}

#[cfg(test)]
mod tests {
    use super::chain_ids;

    #[test]
    fn a_chain_id_covers_all_layers_below() {
        assert!(chain_ids(&[]).is_empty());
        // Computed with sha256sum: printf 'sha256:a sha256:b'.
        let chain = chain_ids(&["sha256:a".into(), "sha256:b".into()]);
        assert_eq!(chain[0], "sha256:a");
        assert_eq!(chain[1], crate::content::store::sha256(b"sha256:a sha256:b"));
    }
}
