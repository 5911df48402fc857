//! `images export`: an OCI layout as a tar stream, that `docker load` reads, too.

use super::model::{Descriptor, IMAGE_NAME, Index, Manifest, REF_NAME};
use super::platform::{Matcher, Platform};
use super::{reference, resolve, walk};
use crate::client::Client;
use crate::content::store;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sha2::{Digest, Sha256, Sha512};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Write, stdout};

/// `ctr images export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Do not add Docker compatible manifest.json to archive
    #[arg(long)]
    skip_manifest_json: bool,
    /// Do not add non-distributable blobs such as Windows layers to archive
    #[arg(long)]
    skip_non_distributable: bool,
    /// Export content of a specific platform
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<String>,
    /// Exports content from all platforms
    #[arg(long)]
    all_platforms: bool,
    /// Run export locally rather than through the transfer API; it always is
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true")]
    local: bool,
    /// File to write, `-` for standard output
    #[arg(value_name = "OUT")]
    out: String,
    /// Images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// A file of the archive. Paths sort as the archive does.
#[derive(Debug)]
enum Record {
    Directory,
    Document { bytes: Vec<u8>, mode: u32 },
    Blob(Box<Descriptor>),
}

/// What `manifest.json` says of one image.
#[derive(Debug)]
struct DockerImage {
    manifest: Descriptor,
    names: Vec<String>,
}

/// Writes the archive.
pub async fn export(client: &Client, args: &ExportArgs) -> Result<()> {
    let matcher = match &args.platform[..] {
        [] => Matcher::strict(&Platform::host()),
        platforms => {
            let parse = |text: &String| Platform::parse(text).map(|platform| platform.normal());
            Matcher::AnyOf(platforms.iter().map(parse).collect::<Result<_>>()?)
        }
    };
    let mut targets = Vec::new();
    for name in &args.images {
        let mut target = resolve::target(&resolve::record(client, name).await?)?;
        target.annotations.insert(IMAGE_NAME.to_owned(), name.clone());
        target
            .annotations
            .insert(REF_NAME.to_owned(), reference::object(name).to_owned());
        targets.push(target);
    }
    let records = records(client, &targets, &matcher, args).await?;
    let mut out: Box<dyn Write> = match args.out.as_str() {
        "-" => Box::new(stdout().lock()),
        path => Box::new(File::create(path).with_context(|| format!("cannot write {path}"))?),
    };
    for (path, record) in &records {
        write(client, &mut out, path, record).await?;
    }
    // Two empty blocks end an archive.
    out.write_all(&[0; 1024]).context("cannot write the archive")?;
    out.flush().context("cannot write the archive")
}

async fn records(
    client: &Client,
    targets: &[Descriptor],
    matcher: &Matcher,
    args: &ExportArgs,
) -> Result<BTreeMap<String, Record>> {
    let mut records = BTreeMap::new();
    let mut docker: Vec<DockerImage> = Vec::new();
    let document = |value: Vec<u8>, mode| Record::Document { bytes: value, mode };
    records.insert(
        "oci-layout".to_owned(),
        document(br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(), 0o444),
    );
    let index = Index {
        schema_version: 2,
        media_type: String::new(),
        manifests: targets.to_vec(),
        ..Index::default()
    };
    records.insert("index.json".to_owned(), document(serde_json::to_vec(&index)?, 0o644));
    for target in targets {
        let chosen = if target.is_manifest() {
            add_tree(client, &mut records, target, args.skip_non_distributable).await?;
            target.clone()
        } else if target.is_index() {
            add_index(client, &mut records, target, matcher, args).await?
        } else {
            bail!("only manifests may be exported: invalid argument");
        };
        let name = target.annotations[IMAGE_NAME].clone();
        match docker.iter_mut().find(|image| image.manifest.digest == chosen.digest) {
            Some(image) => image.names.push(name),
            None => docker.push(DockerImage {
                manifest: chosen,
                names: vec![name],
            }),
        }
    }
    if !args.skip_manifest_json {
        let bytes = manifest_json(client, &docker)
            .await
            .context("unable to create manifests file")?;
        records.insert("manifest.json".to_owned(), document(bytes, 0o644));
    }
    let directories: BTreeSet<String> = records
        .keys()
        .filter_map(|path| Some(format!("{}/", path.rsplit_once('/')?.0)))
        .collect();
    if !directories.is_empty() {
        records.insert("blobs/".to_owned(), Record::Directory);
        records.extend(directories.into_iter().map(|directory| (directory, Record::Directory)));
    }
    Ok(records)
}

/// Adds an index with the manifests that are wanted of it; answers the best of them.
async fn add_index(
    client: &Client,
    records: &mut BTreeMap<String, Record>,
    target: &Descriptor,
    matcher: &Matcher,
    args: &ExportArgs,
) -> Result<Descriptor> {
    records.insert(blob_path(target)?, Record::Blob(Box::new(target.clone())));
    let manifests = walk::children(client, target).await?;
    let mut best: Option<(usize, Descriptor)> = None;
    for manifest in manifests {
        let rank = manifest
            .platform
            .as_ref()
            .map_or(Some(usize::MAX), |platform| matcher.rank(platform));
        if let Some(rank) = rank
            && best.as_ref().is_none_or(|(held, _)| rank < *held)
        {
            best = Some((rank, manifest.clone()));
        }
        if rank.is_some() || args.all_platforms {
            add_tree(client, records, &manifest, args.skip_non_distributable).await?;
        }
    }
    let (_, best) = best.context("no manifest found for platform: not found")?;
    Ok(best)
}

/// Adds a manifest and everything below it.
async fn add_tree(
    client: &Client,
    records: &mut BTreeMap<String, Record>,
    root: &Descriptor,
    skip_non_distributable: bool,
) -> Result<()> {
    let mut queue = vec![root.clone()];
    while let Some(descriptor) = queue.pop() {
        queue.extend(walk::children(client, &descriptor).await?);
        if !(skip_non_distributable && descriptor.is_non_distributable()) {
            records.insert(blob_path(&descriptor)?, Record::Blob(Box::new(descriptor)));
        }
    }
    Ok(())
}

fn blob_path(descriptor: &Descriptor) -> Result<String> {
    let (algorithm, value) = descriptor.digest_parts()?;
    Ok(format!("blobs/{algorithm}/{value}"))
}

async fn manifest_json(client: &Client, images: &[DockerImage]) -> Result<Vec<u8>> {
    /// Docker's own order of the fields.
    #[derive(serde::Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        config: String,
        repo_tags: Vec<String>,
        layers: Vec<String>,
    }
    let mut entries = Vec::new();
    for image in images {
        let bytes = store::read(client, &image.manifest.digest).await?;
        let manifest = Manifest::from_json(&bytes, &image.manifest)?;
        entries.push(Entry {
            config: blob_path(&manifest.config)?,
            repo_tags: image
                .names
                .iter()
                .map(|name| reference::familiar(name))
                .collect::<Result<_>>()?,
            layers: manifest.layers.iter().map(blob_path).collect::<Result<_>>()?,
        });
    }
    Ok(serde_json::to_vec(&entries)?)
}

async fn write(client: &Client, out: &mut dyn Write, path: &str, record: &Record) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header
        .set_path(path)
        .with_context(|| format!("{path} does not fit a tar header"))?;
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_device_major(0).context("tar header")?;
    header.set_device_minor(0).context("tar header")?;
    let (kind, mode, size) = match record {
        Record::Directory => (tar::EntryType::Directory, 0o755, 0),
        Record::Document { bytes, mode } => (tar::EntryType::Regular, *mode, bytes.len() as i64),
        Record::Blob(descriptor) => (tar::EntryType::Regular, 0o444, descriptor.size),
    };
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(u64::try_from(size).with_context(|| format!("invalid size {size} of {path}"))?);
    header.set_cksum();
    // Written as Go does, so that the archive is the same byte by byte.
    let checksum = format!("{:06o}\0 ", header.cksum().context("tar header")?);
    header.as_old_mut().cksum.copy_from_slice(checksum.as_bytes());
    let failed = || format!("cannot write {path} into the archive");
    out.write_all(header.as_bytes()).with_context(failed)?;
    match record {
        Record::Directory => {}
        Record::Document { bytes, .. } => out.write_all(bytes).with_context(failed)?,
        Record::Blob(descriptor) => copy_blob(client, out, descriptor).await.with_context(failed)?,
    }
    let padding = (512 - size % 512) % 512;
    out.write_all(&[0; 512][..padding as usize]).with_context(failed)
}

/// Copies a blob out and checks its digest on the way.
async fn copy_blob(client: &Client, out: &mut dyn Write, descriptor: &Descriptor) -> Result<()> {
    let mut sha256 = Sha256::new();
    let mut sha512 = Sha512::new();
    let (algorithm, value) = descriptor.digest_parts()?;
    let mut pieces = store::pieces(client, &descriptor.digest, 0, 0)
        .await
        .context("failed to get reader")?;
    let mut size = 0;
    while let Some(piece) = pieces.message().await.context("failed to copy to tar")? {
        size += piece.data.len() as i64;
        match algorithm {
            "sha512" => sha512.update(&piece.data),
            _ => sha256.update(&piece.data),
        }
        out.write_all(&piece.data).context("failed to copy to tar")?;
    }
    ensure!(
        size == descriptor.size,
        "unexpected copy size for {}: {size} bytes",
        descriptor.digest
    );
    let found = match algorithm {
        "sha256" => hex::encode(sha256.finalize()),
        "sha512" => hex::encode(sha512.finalize()),
        _ => return Ok(()),
    };
    ensure!(
        found == value,
        "unexpected digest {algorithm}:{found} copied for {}",
        descriptor.digest
    );
    Ok(())
}
