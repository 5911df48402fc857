//! `images import`: an OCI or Docker archive into the daemon.
//!
//! Two ways, chosen by `--local`: the daemon's transfer service reads the archive itself ([`crate::transfer`]), or this
//! client writes the blobs ([`archive`], [`docker`]), labels them, names the images ([`names`]) and has them unpacked.
//! The second works with every daemon.

mod archive;
mod docker;
mod names;

use super::model::{Descriptor, Index, gc_labels};
use super::platform::{Matcher, Platform};
use super::{record, resolve, unpack, walk};
use crate::cli::SnapshotterArgs;
use crate::client::Client;
use crate::content::store;
use crate::{clock, transfer};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use containerd_client::services::v1::Image as Record;
use names::Naming;
use std::io::{Write, stdout};

/// `ctr images import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Base image name for added images, when provided only images with this name prefix are imported
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub base_name: String,
    /// Whether to create digest images
    #[arg(long)]
    pub digests: bool,
    /// Skip applying --digests option to images named in the importing tar (use it in conjunction with --digests)
    #[arg(long, requires = "digests")]
    pub skip_digest_for_named: bool,
    /// Image name to keep index as, by default index is discarded
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub index_name: String,
    /// Imports content for all platforms, false by default
    #[arg(long)]
    pub all_platforms: bool,
    /// Imports content for specific platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Skip unpacking the images, cannot be used with --discard-unpacked-layers
    #[arg(long)]
    pub no_unpack: bool,
    /// Run import locally rather than through the transfer API, which is used where the daemon has it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub local: Option<bool>,
    /// Compress uncompressed blobs when creating manifest (Docker format only)
    #[arg(long)]
    pub compress_blobs: bool,
    /// Allow the garbage collector to clean layers up from the content store after unpacking
    #[arg(long, conflicts_with = "no_unpack")]
    pub discard_unpacked_layers: bool,
    /// Synchronize the underlying filesystem containing files when unpack images
    #[arg(long)]
    pub sync_fs: bool,
    #[command(flatten)]
    pub snapshotter: SnapshotterArgs,
    /// Labels to attach to the images
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Archive, `-` for standard input; may be compressed with gzip or zstd
    #[arg(value_name = "IN")]
    pub source: String,
}

impl ImportArgs {
    /// The name that goes before tags, and whether it was given.
    pub fn base(&self) -> (String, bool) {
        match self.base_name.as_str() {
            "" => (format!("import-{}", clock::today()), false),
            base => (base.to_owned(), true),
        }
    }
}

/// Imports an archive.
pub async fn import(client: &Client, args: &ImportArgs) -> Result<()> {
    let local_only = args.discard_unpacked_layers || args.sync_fs;
    let by_transfer = match args.local {
        Some(true) => false,
        Some(false) if local_only => bail!("--discard-unpacked-layers and --sync-fs require --local"),
        Some(false) => true,
        None => !local_only && transfer::is_offered(client).await?,
    };
    if by_transfer {
        return transfer::import(client, args, archive::open(&args.source)?).await;
    }
    let lease = client.lease().await?;
    let done = local(lease.client(), args).await;
    lease.release().await;
    done
}

async fn local(client: &Client, args: &ImportArgs) -> Result<()> {
    let platform = args.platform.as_deref().map(Platform::parse).transpose()?;
    let wanted = match &platform {
        _ if args.all_platforms => Matcher::All,
        Some(platform) => Matcher::strict(platform),
        None => Matcher::host(),
    };
    let index = archive::import(client, archive::open(&args.source)?, args.compress_blobs).await?;
    let images = records(client, args, &index, &wanted).await?;
    if args.no_unpack {
        return Ok(());
    }
    let to_unpack = platform.as_ref().map_or_else(Matcher::host, Matcher::strict);
    let snapshotter = client.snapshotter_name(&args.snapshotter.name).await?;
    for image in images {
        let target = resolve::target(&image)?;
        print!("unpacking {} ({})...", image.name, target.digest);
        // A reader of a pipe sees which image is being unpacked.
        stdout().flush().context("cannot write to standard output")?;
        let image = resolve::of_record(client, &image, &to_unpack).await?;
        unpack::unpack(client, &image, &snapshotter, args.sync_fs).await?;
        println!("done");
    }
    Ok(())
}

/// Labels the content below an index so that it stays, and makes the image records.
async fn records(client: &Client, args: &ImportArgs, index: &Descriptor, wanted: &Matcher) -> Result<Vec<Record>> {
    let bytes = store::read(client, &index.digest).await?;
    let manifests = Index::from_json(&bytes, index)?.manifests;
    let (base, filter) = args.base();
    let naming = Naming {
        base,
        filter,
        digests: args.digests,
        skip_digest_for_named: args.skip_digest_for_named,
    };
    let mut named = naming.records(&manifests);
    if !args.index_name.is_empty() {
        named.insert(0, (args.index_name.clone(), index.clone()));
    }
    let chosen = walk::matching(manifests, wanted);
    ensure!(
        !chosen.is_empty(),
        "no image for this platform in the archive: image might be filtered out"
    );
    label_tree(client, index, chosen, wanted, args.discard_unpacked_layers).await?;
    let labels = crate::spec::parse::labels(&args.label);
    let mut images = Vec::new();
    for (name, target) in named {
        let image = Record {
            name,
            labels: labels.clone().into_iter().collect(),
            target: Some(target.to_api()),
            ..Record::default()
        };
        images.push(record::put(client, image).await?);
    }
    Ok(images)
}

async fn label_tree(
    client: &Client,
    index: &Descriptor,
    chosen: Vec<Descriptor>,
    wanted: &Matcher,
    without_layers: bool,
) -> Result<()> {
    let mut queue = vec![(index.clone(), chosen)];
    while let Some((parent, children)) = queue.pop() {
        let labels = gc_labels(&children, without_layers);
        if !labels.is_empty() {
            let labelled = store::set_labels(client, &parent.digest, labels).await;
            labelled.with_context(|| format!("cannot label {}", parent.digest))?;
        }
        for child in children {
            let below = walk::matching(walk::children(client, &child).await?, wanted);
            if !below.is_empty() {
                queue.push((child, below));
            }
        }
    }
    Ok(())
}
