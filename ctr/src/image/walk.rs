//! From an image's target to its manifests, configurations and layers, as the content store has them.

use super::model::{Config, Descriptor, Index, Manifest};
use super::platform::{Matcher, Platform};
use crate::client::Client;
use crate::content::store;
use anyhow::{Result, anyhow};
use containerd_client::tonic::{Code, Status};

/// How deep indexes may stand in indexes.
const MAX_DEPTH: usize = 8;

/// What a descriptor's document refers to: an index's manifests; a manifest's configuration, then its layers.
pub async fn children(client: &Client, descriptor: &Descriptor) -> Result<Vec<Descriptor>> {
    if descriptor.is_index() {
        let bytes = store::read(client, &descriptor.digest).await?;
        Ok(Index::from_json(&bytes, descriptor)?.manifests)
    } else if descriptor.is_manifest() {
        let bytes = store::read(client, &descriptor.digest).await?;
        let manifest = Manifest::from_json(&bytes, descriptor)?;
        Ok(std::iter::once(manifest.config).chain(manifest.layers).collect())
    } else {
        Ok(Vec::new())
    }
}

/// Those of `children` that match; what names no platform is for all.
pub fn matching(children: Vec<Descriptor>, matcher: &Matcher) -> Vec<Descriptor> {
    let matches = |child: &Descriptor| {
        child
            .platform
            .as_ref()
            .is_none_or(|found| matcher.rank(found).is_some())
    };
    children.into_iter().filter(matches).collect()
}

/// Of an index's children, the best for the platform; a manifest's children are all kept.
pub fn best(descriptor: &Descriptor, children: Vec<Descriptor>, matcher: &Matcher) -> Result<Vec<Descriptor>> {
    let mut children = matching(children, matcher);
    if descriptor.is_index() {
        children.sort_by_key(|child| {
            child
                .platform
                .as_ref()
                .map_or(usize::MAX, |p| matcher.rank(p).unwrap_or(usize::MAX))
        });
        if children.is_empty() {
            return Err(Status::not_found("no match for platform in manifest").into());
        }
        children.truncate(1);
    }
    Ok(children)
}

/// The manifest of `target` for the platform, with its descriptor. The best one of an index is taken.
pub async fn manifest(client: &Client, target: &Descriptor, matcher: &Matcher) -> Result<(Descriptor, Manifest)> {
    let mut found: Vec<(usize, Descriptor, Manifest)> = Vec::new();
    let mut level = vec![target.clone()];
    let mut missing = None;
    for _ in 0..MAX_DEPTH {
        let mut next = Vec::new();
        for descriptor in level {
            if let Some(platform) = &descriptor.platform
                && matcher.rank(platform).is_none()
            {
                continue;
            }
            match look(client, &descriptor, target, matcher).await {
                Ok(Look::Index(manifests)) => next.extend(manifests),
                Ok(Look::Manifest(rank, manifest)) => found.push((rank, descriptor, *manifest)),
                Ok(Look::Other) => {}
                // Of an index, the content of other platforms is mostly not there.
                Err(error) if is_not_found(&error) && descriptor.digest != target.digest => missing = Some(error),
                Err(error) => return Err(error),
            }
        }
        level = next;
    }
    found.sort_by_key(|(rank, ..)| *rank);
    match (found.into_iter().next(), missing) {
        (Some((_, descriptor, manifest)), _) => Ok((descriptor, manifest)),
        (None, Some(error)) => Err(error),
        (None, None) => Err(Status::not_found(format!("no match for platform in manifest {}", target.digest)).into()),
    }
}

enum Look {
    Index(Vec<Descriptor>),
    Manifest(usize, Box<Manifest>),
    Other,
}

async fn look(client: &Client, descriptor: &Descriptor, target: &Descriptor, matcher: &Matcher) -> Result<Look> {
    if descriptor.is_index() {
        return Ok(Look::Index(children(client, descriptor).await?));
    }
    if !descriptor.is_manifest() {
        if descriptor.digest == target.digest {
            let message = format!(
                "unexpected media type {} for {}",
                descriptor.media_type, descriptor.digest
            );
            return Err(Status::not_found(message).into());
        }
        return Ok(Look::Other);
    }
    let bytes = store::read(client, &descriptor.digest).await?;
    let manifest = Manifest::from_json(&bytes, descriptor)?;
    let rank = match &descriptor.platform {
        Some(platform) => matcher.rank(platform),
        // An image that is not in an index is taken for whatever it is.
        None if descriptor.digest == target.digest => Some(0),
        None => matcher.rank(&config_platform(client, &manifest.config).await?),
    };
    Ok(rank.map_or(Look::Other, |rank| Look::Manifest(rank, Box::new(manifest))))
}

/// The platform that a configuration says it is for.
pub async fn config_platform(client: &Client, config: &Descriptor) -> Result<Platform> {
    Ok(self::config(client, config).await?.platform())
}

/// A configuration, read.
pub async fn config(client: &Client, descriptor: &Descriptor) -> Result<Config> {
    let bytes = store::read(client, &descriptor.digest).await?;
    serde_json::from_slice(&bytes).map_err(|error| anyhow!("image configuration {}: {error}", descriptor.digest))
}

/// Whether an error is the daemon's "not found".
pub fn is_not_found(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<Status>()
            .is_some_and(|status| status.code() == Code::NotFound)
    })
}
