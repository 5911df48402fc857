//! `images pull` and `images push`, by the daemon's transfer service. This client speaks to no registry itself.

use super::platform::Platform;
use crate::cli::SnapshotterArgs;
use crate::client::Client;
use crate::transfer::registry::{Registry, RegistryFlags};
use crate::transfer::{self, any};
use anyhow::{Result, ensure};
use clap::Args;
use containerd_client::types::transfer::{ImageStore, UnpackConfiguration};

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
    /// Set the max concurrent downloads for each pull; the daemon's configuration decides
    #[arg(long, value_name = "NUMBER", hide = true)]
    max_concurrent_downloads: Option<u32>,
    /// Fetch content by this client rather than the transfer service, which it cannot
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide = true)]
    local: bool,
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
    /// Push content by this client rather than the transfer service, which it cannot
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide = true)]
    local: bool,
    /// Name to push under
    #[arg(value_name = "REMOTE")]
    remote: String,
    /// Image; the one of the same name unless given
    #[arg(value_name = "LOCAL")]
    source: Option<String>,
}

/// Pulls an image and unpacks it.
pub async fn pull(client: &Client, args: &PullArgs) -> Result<()> {
    ensure!(
        !args.local,
        "`images pull --local` is not supported: the daemon's transfer service pulls"
    );
    transfer::require(client, "`images pull`").await?;
    let mut platforms = parse(&args.platform)?;
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
    let registry = Registry::open(client, &args.name, &args.registry).await?;
    transfer::run(client, registry.message(), any(&store)).await?;
    if args.print_chainid {
        for platform in &platforms {
            let image = super::resolve(client, &args.name, Some(&platform.to_string())).await?;
            println!("image chain ID: {}", image.chain_id());
        }
    }
    Ok(())
}

/// Pushes an image.
pub async fn push(client: &Client, args: &PushArgs) -> Result<()> {
    ensure!(
        !args.local,
        "`images push --local` is not supported: the daemon's transfer service pushes"
    );
    transfer::require(client, "`images push`").await?;
    let store = ImageStore {
        name: args.source.clone().unwrap_or_else(|| args.remote.clone()),
        platforms: parse(&args.platform)?.iter().map(Platform::to_api).collect(),
        ..ImageStore::default()
    };
    let registry = Registry::open(client, &args.remote, &args.registry).await?;
    transfer::run(client, any(&store), registry.message()).await
}

fn parse(platforms: &[String]) -> Result<Vec<Platform>> {
    platforms.iter().map(|text| Platform::parse(text)).collect()
}
