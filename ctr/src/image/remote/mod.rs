//! `images pull` and `images push`.
//!
//! Two ways, chosen by `--local`: the daemon's transfer service does the work ([`crate::transfer`]), or this client speaks to
//! the registry ([`fetch`], [`push`]) and has the daemon unpack. The second works with every daemon, and is taken where the
//! first is not there or cannot do what the flags say.

pub mod fetch;
pub mod push;

use super::model::{Descriptor, OCI_MANIFEST};
use super::platform::{Matcher, Platform};
use super::{list, resolve, unpack, walk};
use crate::cli::SnapshotterArgs;
use crate::client::Client;
use crate::content::store;
use crate::digest;
use crate::progress::Teller;
use crate::registry::{Registry, RegistryFlags};
use crate::transfer::registry::Registry as TransferEnd;
use crate::transfer::{self, any};
use anyhow::{Context, Result, bail};
use clap::Args;
use containerd_client::types::transfer::{ImageStore, UnpackConfiguration};
use push::Push;
use std::time::Instant;

/// `ctr images pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    #[command(flatten)]
    registry: RegistryFlags,
    #[command(flatten)]
    snapshotter: SnapshotterArgs,
    /// Labels to attach to the image
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Pull content from a specific platform
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    platform: Vec<String>,
    /// Pull content and metadata from all platforms; nothing is unpacked
    #[arg(long)]
    all_platforms: bool,
    /// Pull metadata for all platforms, which is done anyway
    #[arg(long, hide = true)]
    all_metadata: bool,
    /// Skips metadata for unused platforms (Image may be unable to be pushed without metadata)
    #[arg(long)]
    skip_metadata: bool,
    /// Print the resulting image's chain ID
    #[arg(long)]
    print_chainid: bool,
    /// Set the max concurrent downloads for each pull
    #[arg(long, value_name = "NUMBER")]
    max_concurrent_downloads: Option<usize>,
    /// Fetch content by this client rather than by the transfer service, which is used where the daemon has it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    local: Option<bool>,
    /// Synchronize the underlying filesystem containing files when unpack images
    #[arg(long)]
    sync_fs: bool,
    /// Image, by its whole name
    #[arg(value_name = "REF")]
    name: String,
}

/// `ctr images push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    #[command(flatten)]
    registry: RegistryFlags,
    /// Push content from a specific platform
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<String>,
    /// Digest of manifest
    #[arg(long, value_name = "DIGEST", conflicts_with_all = ["source", "platform"])]
    manifest: Option<String>,
    /// Media type of manifest digest
    #[arg(long, value_name = "TYPE", default_value = OCI_MANIFEST)]
    manifest_type: String,
    /// Set the max concurrent uploaded layers for each push
    #[arg(long, value_name = "NUMBER")]
    max_concurrent_uploaded_layers: Option<usize>,
    /// Allow pushing blobs that are marked as non-distributable
    #[arg(long)]
    allow_non_distributable_blobs: bool,
    /// Push content by this client rather than by the transfer service, which is used where the daemon has it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    local: Option<bool>,
    /// Name to push under
    #[arg(value_name = "REMOTE")]
    remote: String,
    /// Image; the one of the same name unless given
    #[arg(value_name = "LOCAL")]
    source: Option<String>,
}

/// Whether this client does it: by the flag, by what only it can heed, or because the daemon cannot.
async fn is_local(client: &Client, flag: Option<bool>, local_only: Option<&'static str>) -> Result<bool> {
    match (flag, local_only) {
        (Some(true), _) | (None, Some(_)) => Ok(true),
        (Some(false), Some(only)) => bail!("\"--{only}\" requires \"--local\" flag"),
        (Some(false), None) => transfer::require(client, "--local=false").await.map(|()| false),
        (None, None) => Ok(!transfer::is_offered(client).await?),
    }
}

/// Pulls an image and unpacks it.
pub async fn pull(client: &Client, args: &PullArgs) -> Result<()> {
    let local_only = args
        .registry
        .local_only()
        .or(args.max_concurrent_downloads.map(|_| "max-concurrent-downloads"))
        .or(args.sync_fs.then_some("sync-fs"));
    let mut platforms = parse(&args.platform)?;
    if is_local(client, args.local, local_only).await? {
        let lease = client.lease().await?;
        let done = pull_local(lease.client(), args, &platforms).await;
        lease.release().await;
        return done;
    }
    if platforms.is_empty() && !args.all_platforms {
        platforms.push(Platform::host());
    }
    let unpack = |platform: &Platform| UnpackConfiguration {
        platform: Some(platform.to_api()),
        snapshotter: args.snapshotter.name.clone(),
    };
    let store = ImageStore {
        name: args.name.clone(),
        labels: crate::spec::parse::labels(&args.label).into_iter().collect(),
        platforms: platforms.iter().map(Platform::to_api).collect(),
        all_metadata: !args.skip_metadata,
        unpacks: platforms.iter().map(unpack).collect(),
        ..ImageStore::default()
    };
    let registry = TransferEnd::open(client, &args.name, &args.registry).await?;
    transfer::run(client, registry.message(), any(&store)).await?;
    if args.print_chainid {
        for platform in &platforms {
            let image = super::resolve(client, &args.name, Some(&platform.to_string())).await?;
            println!("image chain ID: {}", image.chain_id());
        }
    }
    Ok(())
}

async fn pull_local(client: &Client, args: &PullArgs, platforms: &[Platform]) -> Result<()> {
    let wanted = fetch::Wanted {
        platforms: wanted(platforms, args.all_platforms),
        all_metadata: !args.skip_metadata,
        metadata_only: false,
        at_a_time: args.max_concurrent_downloads.unwrap_or(fetch::AT_A_TIME),
    };
    let registry = Registry::open(&args.name, &args.registry, false)?;
    let labels = crate::spec::parse::labels(&args.label);
    let image = Teller::watched(async |teller| fetch::fetch(client, &registry, &wanted, &labels, teller).await).await?;
    let target = resolve::target(&image)?;
    let start = Instant::now();
    let platforms = match platforms {
        [] if args.all_platforms => {
            let found = list::platforms(client, &target).await?;
            found.iter().map(|text| Platform::parse(text)).collect::<Result<_>>()?
        }
        [] => vec![Platform::host()],
        given => given.to_vec(),
    };
    let snapshotter = client.snapshotter_name(&args.snapshotter.name).await?;
    for platform in platforms {
        println!("unpacking {platform} {}...", target.digest);
        let image = resolve::of_record(client, &image, &Matcher::only(&platform)).await?;
        unpack::unpack(client, &image, &snapshotter, args.sync_fs).await?;
        if args.print_chainid {
            println!("image chain ID: {}", image.chain_id());
        }
    }
    println!("done: {:?}\t", start.elapsed());
    Ok(())
}

/// The platforms that are meant: this machine's unless told.
pub fn wanted(platforms: &[Platform], all: bool) -> Matcher {
    match platforms {
        _ if all => Matcher::All,
        [] => Matcher::strict(&Platform::host()),
        given => Matcher::AnyOf(given.iter().map(Platform::normal).collect()),
    }
}

/// Pushes an image.
pub async fn push(client: &Client, args: &PushArgs) -> Result<()> {
    let local_only = args
        .registry
        .local_only()
        .or(args.manifest.as_ref().map(|_| "manifest"))
        .or(args
            .max_concurrent_uploaded_layers
            .map(|_| "max-concurrent-uploaded-layers"))
        .or(args
            .allow_non_distributable_blobs
            .then_some("allow-non-distributable-blobs"));
    let platforms = parse(&args.platform)?;
    if is_local(client, args.local, local_only).await? {
        return push_local(client, args, &platforms).await;
    }
    let store = ImageStore {
        name: args.source.clone().unwrap_or_else(|| args.remote.clone()),
        platforms: platforms.iter().map(Platform::to_api).collect(),
        ..ImageStore::default()
    };
    let registry = TransferEnd::open(client, &args.remote, &args.registry).await?;
    transfer::run(client, any(&store), registry.message()).await
}

async fn push_local(client: &Client, args: &PushArgs, platforms: &[Platform]) -> Result<()> {
    let mut root = if let Some(manifest) = &args.manifest {
        let info = store::info(client, digest::parse(manifest).context("invalid manifest digest")?).await?;
        Descriptor {
            media_type: args.manifest_type.clone(),
            digest: info.digest,
            size: info.size,
            ..Descriptor::default()
        }
    } else {
        let name = args.source.as_ref().unwrap_or(&args.remote);
        let record = resolve::record(client, name).await;
        resolve::target(&record.context("unable to resolve image to manifest")?)?
    };
    if !platforms.is_empty() && root.is_index() {
        let children = walk::children(client, &root).await?;
        let matching = walk::matching(children, &wanted(platforms, false));
        root = match <[Descriptor; 1]>::try_from(matching) {
            Ok([manifest]) => manifest,
            Err(found) => bail!(
                "{} manifests of {} are for the platforms that were named, and one is pushed under one name",
                found.len(),
                root.digest
            ),
        };
    }
    let registry = Registry::open(&args.remote, &args.registry, true)?;
    Teller::watched(async |teller| {
        let push = Push {
            client,
            registry: &registry,
            at_a_time: args.max_concurrent_uploaded_layers.unwrap_or(push::AT_A_TIME),
            non_distributable: args.allow_non_distributable_blobs,
            teller,
        };
        push.run(&root).await
    })
    .await
}

/// Platforms as they were written.
pub fn parse(platforms: &[String]) -> Result<Vec<Platform>> {
    platforms.iter().map(|text| Platform::parse(text)).collect()
}
