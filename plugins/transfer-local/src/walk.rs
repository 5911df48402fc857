//! From a descriptor down to configurations and layers: which of them are wanted, are they all there, and the labels that keep them.

use std::collections::BTreeSet;
use std::sync::Arc;

use orlop_plugin::contract::Digest;
use orlop_plugin::{Error, Result};

use crate::content::Content;
use crate::gc_labels::child_labels;
use crate::oci::{Descriptor, Document, Index, Manifest, PlatformFilter, check_nesting, media_type, parse_document};

/// What of an image is wanted.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// For these platforms.
    pub platforms: PlatformFilter,
    /// Of other platforms, manifests and configurations nevertheless.
    pub all_metadata: bool,
    /// At most so many manifests of each index, the best first; 0 for all.
    pub manifest_limit: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Walked {
    /// The wanted children of the root, in its order.
    pub roots: Vec<Descriptor>,
    /// Every manifest whose image is wanted.
    pub images: Vec<Manifest>,
}

struct Step {
    descriptor: Descriptor,
    ancestors: Arc<Vec<Digest>>,
}

/// Walks down from the index `root`, labels what has children, and checks that every wanted blob is there in its full length.
///
/// `NotFound` for a blob that is missing or when nothing is wanted; `InvalidArgument` for documents that are not what they are said
/// to be, or that contain themselves.
pub async fn walk(content: &Content, root: &Descriptor, selection: &Selection) -> Result<Walked> {
    let walked = descend(content, root, selection).await.map_err(|error| {
        if error.is_not_found() {
            error.context("the archive is not complete")
        } else {
            error
        }
    })?;
    if walked.roots.is_empty() {
        return Err(Error::not_found(if selection.platforms.is_all() {
            "the archive's index names no image".to_owned()
        } else {
            format!(
                "the archive has no image for {}: name its platform, or ask for all platforms",
                selection.platforms
            )
        }));
    }
    Ok(walked)
}

async fn descend(content: &Content, root: &Descriptor, selection: &Selection) -> Result<Walked> {
    let mut walked = Walked::default();
    let mut seen = BTreeSet::new();
    let mut steps = vec![Step {
        descriptor: root.clone(),
        ancestors: Arc::default(),
    }];
    while let Some(Step { descriptor, ancestors }) = steps.pop() {
        check_nesting(&descriptor.digest, &ancestors)?;
        if !seen.insert((descriptor.digest.clone(), descriptor.media_type.clone())) {
            continue;
        }
        let document =
            if media_type::is_manifest(&descriptor.media_type) || media_type::is_index(&descriptor.media_type) {
                parse_document(&descriptor, &content.read_document(&descriptor).await?)?
            } else {
                None
            };
        match document {
            Some(Document::Index(index)) => {
                label(content, &descriptor, &index.manifests.iter().collect::<Vec<_>>()).await?;
                let children = wanted(index, selection);
                if ancestors.is_empty() {
                    walked.roots.clone_from(&children);
                }
                let mut path = ancestors.as_ref().clone();
                path.push(descriptor.digest);
                let path = Arc::new(path);
                steps.extend(children.into_iter().rev().map(|descriptor| Step {
                    descriptor,
                    ancestors: path.clone(),
                }));
            }
            Some(Document::Manifest(manifest)) => {
                let children: Vec<&Descriptor> = std::iter::once(&manifest.config).chain(&manifest.layers).collect();
                label(content, &descriptor, &children).await?;
                let of = |error: Error| error.context(format!("the manifest {}", descriptor.digest));
                content.check(&manifest.config).await.map_err(of)?;
                if selection.platforms.accepts(descriptor.platform.as_ref()) {
                    check_layers(content, &manifest.layers).await.map_err(of)?;
                    walked.images.push(manifest);
                }
            }
            None => {
                content.check(&descriptor).await?;
            }
        }
    }
    Ok(walked)
}

/// The children of an index that are wanted.
pub fn wanted(index: Index, selection: &Selection) -> Vec<Descriptor> {
    let mut children = index.manifests;
    if !selection.all_metadata {
        children.retain(|child| selection.platforms.accepts(child.platform.as_ref()));
    }
    if selection.manifest_limit > 0 {
        children.sort_by_key(|child| selection.platforms.rank(child.platform.as_ref()));
        children.truncate(selection.manifest_limit);
    }
    children
}

async fn check_layers(content: &Content, layers: &[Descriptor]) -> Result<()> {
    for layer in layers {
        match content.check(layer).await {
            Err(error) if error.is_not_found() && media_type::is_non_distributable(&layer.media_type) => {}
            checked => {
                checked?;
            }
        }
    }
    Ok(())
}

/// Labels a document so that garbage collection finds its children.
pub async fn label(content: &Content, descriptor: &Descriptor, children: &[&Descriptor]) -> Result<()> {
    match child_labels(children) {
        labels if labels.is_empty() => Ok(()),
        labels => content.label(&descriptor.digest, labels).await,
    }
}
