//! Reading an archive: every blob goes to the content store as it arrives, and what the archive is is known at its end, because
//! its index may come last.

use std::collections::BTreeMap;

use bytes::Bytes;
use orlop_plugin::contract::{BoxStream, Digest};
use orlop_plugin::{Error, Result};
use serde::Deserialize;

use super::Compression;
use super::docker::DockerImage;
use super::intake::Intake;
use super::tar::{EntryKind, TarReader};
use crate::content::Content;
use crate::oci::{Descriptor, MAX_DOCUMENT, media_type};

/// Entries of an archive, at most: each becomes a blob, and the largest images have a few hundred.
const MAX_ENTRIES: usize = 65_536;

/// A file of the archive that is a blob now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its length, in bytes.
    pub size: u64,
    /// How it is compressed.
    pub compression: Compression,
}

/// What an archive turned out to be.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it for an archive")]
pub enum Layout {
    /// An OCI image layout, with its index.
    Oci(Descriptor),
    /// What `docker save` wrote before it knew of OCI.
    Docker(Vec<DockerImage>),
}

/// An archive that was read.
#[derive(Debug)]
pub struct Archive {
    /// Its files, by their names; links lead to what they point to.
    pub blobs: BTreeMap<String, StoredBlob>,
    /// What it is.
    pub layout: Layout,
}

/// Is told of every blob as soon as it is stored.
pub trait Observer: Send {
    /// `digest` is stored. `document` has its bytes if it looks like JSON and is small.
    fn stored(&mut self, digest: &Digest, document: Option<&[u8]>);
}

#[derive(Deserialize)]
struct OciLayout {
    #[serde(rename = "imageLayoutVersion", default)]
    version: String,
}

/// What is found in an archive beside its blobs.
#[derive(Default)]
struct Found {
    oci: Option<OciLayout>,
    docker: Option<Vec<DockerImage>>,
    /// Links, and where they lead.
    links: BTreeMap<String, String>,
}

/// Reads an archive, compressed or not, into the content store.
pub async fn read_archive(content: &Content, stream: BoxStream<Bytes>, observer: &mut dyn Observer) -> Result<Archive> {
    let mut intake = Intake::new(content, observer);
    let found = read_entries(&mut intake, stream).await;
    // Also after a failure: what is being stored must not outlive the lease.
    let blobs = intake.finish().await;
    let (found, mut blobs) = (found?, blobs?);
    let layout = match (found.oci, found.docker) {
        (Some(layout), _) if !layout.version.is_empty() => oci_layout(&layout, &blobs)?,
        (_, Some(images)) => Layout::Docker(images),
        _ => {
            return Err(Error::invalid_argument(
                "this is no archive of an image: it has neither `oci-layout` (OCI) nor `manifest.json` (Docker); make one with \
                 `ctr images export`, `docker save` or `skopeo copy … oci-archive:…`",
            ));
        }
    };
    for (name, target) in found.links {
        let blob = blobs.get(&target).cloned().ok_or_else(|| {
            Error::invalid_argument(format!(
                "the archive's link {name:?} points to {target:?}, which is no file of it"
            ))
        })?;
        blobs.insert(name, blob);
    }
    Ok(Archive { blobs, layout })
}

async fn read_entries(intake: &mut Intake<'_>, stream: BoxStream<Bytes>) -> Result<Found> {
    let mut tar = TarReader::new(super::decompressed(stream).await?);
    let mut found = Found::default();
    let mut entries = 0;
    while let Some(entry) = tar.next().await? {
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(Error::invalid_argument(format!(
                "the archive has more than {MAX_ENTRIES} entries"
            )));
        }
        let name = clean(&entry.name)?;
        match entry.kind {
            EntryKind::Symlink(target) => {
                let target = resolve(&name, &target)?;
                found.links.insert(name, target);
            }
            EntryKind::Other => {}
            EntryKind::File => match name.as_str() {
                "oci-layout" => found.oci = Some(json(&mut tar, &name).await?),
                "manifest.json" => found.docker = Some(json(&mut tar, &name).await?),
                name if is_superseded(name) => {}
                _ => intake.take(&mut tar, name, entry.size).await?,
            },
        }
    }
    tar.finish().await?;
    Ok(found)
}

fn oci_layout(layout: &OciLayout, blobs: &BTreeMap<String, StoredBlob>) -> Result<Layout> {
    if layout.version != "1.0.0" {
        let message = format!(
            "the archive has version {} of the OCI image layout; only 1.0.0 is known",
            layout.version
        );
        return Err(Error::invalid_argument(message));
    }
    match blobs.get("index.json") {
        Some(index) => Ok(Layout::Oci(Descriptor::new(
            media_type::INDEX,
            index.digest.clone(),
            index.size,
        ))),
        None => Err(Error::invalid_argument(
            "the archive is an OCI image layout without `index.json`",
        )),
    }
}

async fn json<T: for<'de> Deserialize<'de>>(tar: &mut TarReader, name: &str) -> Result<T> {
    let bytes = tar
        .read_all(MAX_DOCUMENT)
        .await
        .map_err(|error| error.context(format!("import {name:?}")))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid_argument(format!("the archive's {name:?} is not valid: {error}")))
}

/// What Docker's first layout had and `manifest.json` made superfluous.
fn is_superseded(name: &str) -> bool {
    name == "repositories" || name.ends_with("/VERSION") || name.ends_with("/json")
}

/// The one spelling of an entry's name.
fn clean(name: &str) -> Result<String> {
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(Error::invalid_argument(format!(
            "the archive's entry {name:?} leads out of its directory with `..`: no image archive needs that"
        )));
    }
    Ok(parts.join("/"))
}

/// Where a link called `name` leads, inside the archive.
pub(super) fn resolve(name: &str, target: &str) -> Result<String> {
    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(|| {
                    Error::invalid_argument(format!(
                        "the archive's link {name:?} leads out of the archive, to {target:?}"
                    ))
                })?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling_and_stay_inside() {
        assert_eq!(clean("./blobs//sha256/x").expect("valid"), "blobs/sha256/x");
        assert_eq!(clean("/index.json").expect("valid"), "index.json");
        for bad in ["../etc/passwd", "a/../../b", "a/.."] {
            assert!(clean(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn links_stay_inside() {
        assert_eq!(resolve("b/layer.tar", "../a/layer.tar").expect("valid"), "a/layer.tar");
        assert_eq!(resolve("layer.tar", "a/./layer.tar").expect("valid"), "a/layer.tar");
        for (name, bad) in [("layer.tar", "../x"), ("a/layer.tar", "../../x")] {
            assert!(resolve(name, bad).is_err(), "{bad}");
        }
    }
}
