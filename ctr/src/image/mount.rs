//! `images mount` and `unmount`: an image's root file system on a directory of this machine.
//!
//! The snapshot and a lease on it are named after the directory, so that `unmount --rm` finds them.

use super::platform::{Matcher, Platform};
use super::{resolve, unpack};
use crate::cli::SnapshotterArgs;
use crate::client::{Client, DEFAULT_SNAPSHOTTER};
use crate::mounting;
use crate::snapshot;
use anyhow::{Context, Result};
use clap::Args;
use containerd_client::services::v1::DeleteRequest;
use containerd_client::tonic::Code;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// `ctr images mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    #[command(flatten)]
    snapshotter: SnapshotterArgs,
    /// Enable write support on the mount
    #[arg(long)]
    rw: bool,
    /// Mount the image for the specified platform
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Expiration of the lease that keeps the snapshot
    #[arg(long, short = 'x', value_name = "DURATION", value_parser = crate::human::parse_duration, default_value = "24h")]
    expiration: Duration,
    /// Image
    #[arg(value_name = "REF")]
    name: String,
    /// Directory
    #[arg(value_name = "TARGET")]
    target: String,
}

/// `ctr images unmount`.
#[derive(Debug, Args)]
pub struct UnmountArgs {
    #[command(flatten)]
    snapshotter: SnapshotterArgs,
    /// Remove the snapshot after a successful unmount
    #[arg(long)]
    rm: bool,
    /// Directory
    #[arg(value_name = "TARGET")]
    target: String,
}

/// Mounts an image.
pub async fn mount(client: &Client, args: &MountArgs) -> Result<()> {
    let snapshotter = if args.snapshotter.name.is_empty() {
        DEFAULT_SNAPSHOTTER
    } else {
        &args.snapshotter.name
    };
    let label = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
    let labels = HashMap::from([(label, args.target.clone())]);
    let lease = match client.new_lease(args.target.clone(), args.expiration, labels).await {
        Ok(lease) => Some(lease),
        // Of an earlier mount, which it still keeps.
        Err(status) if status.code() == Code::AlreadyExists => None,
        Err(status) => return Err(status.into()),
    };
    let mounted = mount_leased(lease.as_ref().map_or(client, |lease| lease.client()), args, snapshotter).await;
    if let (Err(_), Some(lease)) = (&mounted, lease) {
        lease.release().await;
    }
    mounted
}

async fn mount_leased(client: &Client, args: &MountArgs, snapshotter: &str) -> Result<()> {
    let matcher = match &args.platform {
        Some(platform) => Matcher::only(&Platform::parse(platform)?),
        None => Matcher::host(),
    };
    let record = resolve::record(client, &args.name).await?;
    let image = resolve::of_record(client, &record, &matcher).await?;
    unpack::ensure_unpacked(client, &image, snapshotter)
        .await
        .context("error unpacking image")?;
    let chain_id = image.chain_id();
    println!("{chain_id}");
    let made = if args.rw {
        snapshot::prepare(client, snapshotter, &args.target, &chain_id, HashMap::new()).await
    } else {
        snapshot::view(client, snapshotter, &args.target, &chain_id).await
    };
    let mounts = match made {
        Ok(mounts) => mounts,
        Err(status) if status.code() == Code::AlreadyExists => {
            snapshot::mounts(client, snapshotter, &args.target).await?
        }
        Err(status) => return Err(status.into()),
    };
    if let Err(error) = mounting::mount_all(&mounts, Path::new(&args.target)) {
        if let Err(status) = snapshot::remove(client, snapshotter, &args.target).await {
            eprintln!(
                "ctr: error cleaning up snapshot after mount error: {}",
                status.message()
            );
        }
        return Err(error);
    }
    println!("{}", args.target);
    Ok(())
}

/// Takes a mount down.
pub async fn unmount(client: &Client, args: &UnmountArgs) -> Result<()> {
    mounting::unmount_all(Path::new(&args.target))?;
    if args.rm {
        let gone = |done: Result<(), containerd_client::tonic::Status>| match done {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        };
        let request = DeleteRequest {
            id: args.target.clone(),
            sync: false,
        };
        gone(client.leases().delete(client.request(request)).await.map(drop)).context("error deleting lease")?;
        let snapshotter = client.snapshotter_name(&args.snapshotter.name).await?;
        gone(snapshot::remove(client, &snapshotter, &args.target).await).context("error removing snapshot")?;
    }
    println!("{}", args.target);
    Ok(())
}
