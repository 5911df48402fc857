//! Reads an archive: every file of it becomes a blob, the layout says what the blobs are.
//!
//! The archive is read as it comes, standard input too, so blobs are written before it is known what they are for. What
//! nothing refers to in the end goes with the lease.

use super::docker::{self, DockerManifest};
use crate::client::Client;
use crate::content::store::{self, CHUNK, Expected, Writer};
use crate::image::model::{Descriptor, OCI_INDEX};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{ErrorKind, Read, stdin};
use std::path::{Component, Path, PathBuf};

/// Largest `manifest.json`.
const MAX_DOCUMENT: u64 = store::MAX_DOCUMENT as u64;

/// Version of the OCI layout that is read.
const LAYOUT_VERSION: &str = "1.0.0";

/// Opens an archive, `-` being standard input, and looks through gzip and zstd.
pub fn open(path: &str) -> Result<Box<dyn Read + Send>> {
    let source: Box<dyn Read + Send> = match path {
        "-" => Box::new(stdin()),
        path => Box::new(File::open(path).with_context(|| format!("open {path}"))?),
    };
    decompress(source).with_context(|| format!("read {path}"))
}

fn decompress(mut source: Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>> {
    let mut magic = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut magic)?;
    let kind = magic.clone();
    let whole = std::io::Cursor::new(magic).chain(source);
    Ok(match kind[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

/// What an archive held, all of it in the store.
#[derive(Debug, Default)]
pub struct Contents {
    /// Blobs by their path in the archive.
    pub blobs: BTreeMap<PathBuf, Descriptor>,
    /// Links between layers, as older `docker save` wrote them.
    links: BTreeMap<PathBuf, PathBuf>,
    /// Version of the OCI layout, if it is one.
    layout: Option<String>,
    /// Docker's description, if there is one.
    docker: Option<Vec<DockerManifest>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

/// Writes an archive's files into the store; answers the descriptor of its index, which is made for Docker's archives.
pub async fn import(client: &Client, source: Box<dyn Read + Send>, compress: bool) -> Result<Descriptor> {
    let contents = read(client, source).await?;
    match (contents.layout.as_deref(), contents.docker.as_ref()) {
        (Some(LAYOUT_VERSION), _) => {
            let index = contents.blobs.get(Path::new("index.json"));
            let index = index.with_context(|| format!("missing index.json in OCI layout {LAYOUT_VERSION}"))?;
            Ok(Descriptor {
                media_type: OCI_INDEX.to_owned(),
                ..index.clone()
            })
        }
        (Some(version), _) => bail!("unsupported OCI version {version}"),
        (None, Some(manifests)) => docker::index(client, &contents.with_links()?, manifests, compress).await,
        (None, None) => bail!("unrecognized image format: the archive has neither oci-layout nor manifest.json"),
    }
}

impl Contents {
    /// The blobs by all their paths, links followed.
    fn with_links(&self) -> Result<BTreeMap<PathBuf, Descriptor>> {
        let mut blobs = self.blobs.clone();
        for (name, target) in &self.links {
            let blob = blobs.get(target).cloned().with_context(|| {
                format!(
                    "no target for symlink layer from {:?} to {:?}",
                    name.display(),
                    target.display()
                )
            })?;
            blobs.insert(name.clone(), blob);
        }
        Ok(blobs)
    }
}

async fn read(client: &Client, source: Box<dyn Read + Send>) -> Result<Contents> {
    let mut contents = Contents::default();
    let mut archive = tar::Archive::new(source);
    for entry in archive.entries().context("cannot read the archive")? {
        let mut entry = entry.map_err(|error| match error.kind() {
            // The tar reader's message has the bytes in it that it could not read.
            ErrorKind::Other => anyhow::anyhow!("invalid tar header: this is no tar archive, or a broken one"),
            _ => anyhow::Error::new(error).context("cannot read the archive"),
        })?;
        let path = clean(&entry.path().context("a file of the archive has no name")?);
        let kind = entry.header().entry_type();
        if kind.is_symlink() {
            let target = entry
                .link_name()
                .context("a link of the archive has no target")?
                .unwrap_or_default();
            let parent = path.parent().unwrap_or(Path::new("")).to_owned();
            contents.links.insert(path, clean(&parent.join(target)));
            continue;
        }
        if !kind.is_file() {
            continue;
        }
        match path.to_str() {
            Some("oci-layout") => {
                let layout: Layout = document(&mut entry).context("untar oci layout")?;
                contents.layout = Some(layout.image_layout_version);
            }
            Some("manifest.json") => contents.docker = Some(document(&mut entry).context("untar manifest")?),
            _ => {
                let size = entry.size() as i64;
                let name = path.display().to_string();
                let blob = ingest(client, &mut entry, size, &name).await;
                contents
                    .blobs
                    .insert(path, blob.with_context(|| format!("failed to ingest {name:?}"))?);
            }
        }
    }
    Ok(contents)
}

fn document<T: serde::de::DeserializeOwned>(entry: &mut impl Read) -> Result<T> {
    let mut bytes = Vec::new();
    entry
        .take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .context("cannot read it")?;
    ensure!(bytes.len() as u64 <= MAX_DOCUMENT, "larger than {MAX_DOCUMENT} bytes");
    serde_json::from_slice(&bytes).context("it is not the JSON that was expected")
}

/// A path without `.`, `..` and a leading slash: blobs are only looked up by it.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

async fn ingest(client: &Client, source: &mut impl Read, size: i64, name: &str) -> Result<Descriptor> {
    // In an OCI layout the name is the digest: what the store has is then not sent again.
    let digest = name.strip_prefix("blobs/").map(|rest| rest.replacen('/', ":", 1));
    let digest = digest
        .filter(|digest| crate::digest::parse(digest).is_ok())
        .unwrap_or_default();
    let expected = Expected {
        size,
        digest: digest.clone(),
    };
    let Some(mut writer) = Writer::open(client, &format!("tar-{name}"), expected).await? else {
        return Ok(Descriptor {
            digest,
            size,
            ..Descriptor::default()
        });
    };
    let mut hash = Sha256::new();
    loop {
        let mut chunk = Vec::new();
        source
            .take(CHUNK as u64)
            .read_to_end(&mut chunk)
            .context("cannot read the archive")?;
        if chunk.is_empty() {
            break;
        }
        hash.update(&chunk);
        writer.write(chunk).await?;
    }
    ensure!(
        writer.offset() == size,
        "the archive ends early: {} bytes of {size}",
        writer.offset()
    );
    let own = format!("sha256:{}", hex::encode(hash.finalize()));
    let found = writer.commit(HashMap::new()).await?;
    let digest = if digest.is_empty() {
        found.filter(|found| !found.is_empty()).unwrap_or(own)
    } else {
        digest
    };
    Ok(Descriptor {
        digest,
        size,
        ..Descriptor::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn paths_stay_in_the_archive() {
        for (path, clean_path) in [
            ("./a/./b", "a/b"),
            ("/a", "a"),
            ("a/../../b", "b"),
            ("x/../y/l.tar", "y/l.tar"),
        ] {
            assert_eq!(clean(Path::new(path)), Path::new(clean_path));
        }
    }

    #[test]
    fn compressed_archives_are_looked_through() {
        let plain = b"not really a tar".to_vec();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        for bytes in [plain.clone(), gzip, zstd] {
            let mut text = Vec::new();
            decompress(Box::new(std::io::Cursor::new(bytes)))
                .unwrap()
                .read_to_end(&mut text)
                .unwrap();
            assert_eq!(text, plain);
        }
        let mut empty = Vec::new();
        decompress(Box::new(std::io::empty()))
            .unwrap()
            .read_to_end(&mut empty)
            .unwrap();
        assert!(empty.is_empty());
    }
}
