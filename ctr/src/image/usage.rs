//! `images usage`: what each layer takes in a snapshotter.

use super::platform::Matcher;
use super::{resolve, unpack};
use crate::cli::SnapshotterArgs;
use crate::client::{Client, DEFAULT_SNAPSHOTTER};
use crate::human::binary_size;
use crate::snapshot;
use crate::table::Table;
use anyhow::{Context, Result, ensure};
use clap::Args;

/// `ctr images usage`.
#[derive(Debug, Args)]
pub struct UsageArgs {
    #[command(flatten)]
    snapshotter: SnapshotterArgs,
    /// Image
    #[arg(value_name = "REF")]
    name: String,
}

/// Prints the usage, the topmost layer first.
pub async fn usage(client: &Client, args: &UsageArgs) -> Result<()> {
    let name = &args.name;
    let snapshotter = if args.snapshotter.name.is_empty() {
        DEFAULT_SNAPSHOTTER
    } else {
        &args.snapshotter.name
    };
    let record = resolve::record(client, name).await;
    let record = record.with_context(|| format!("failed to ensure if image {name} exists"))?;
    let image = resolve::of_record(client, &record, &Matcher::host()).await?;
    let unpacked = unpack::is_unpacked(client, &image, snapshotter).await;
    let unpacked = unpacked
        .with_context(|| format!("failed to ensure if image {name} has been unpacked in snapshotter {snapshotter}"))?;
    ensure!(unpacked, "image {name} isn't unpacked in snapshotter {snapshotter}");
    let mut table = Table::dense(&["KEY", "SIZE", "INODES", ""]);
    let mut key = image.chain_id();
    while !key.is_empty() {
        let usage = snapshot::usage(client, snapshotter, &key).await;
        let usage = usage.with_context(|| format!("failed to get usage for snapshot {key}"))?;
        table.row([&key, &binary_size(usage.size), &usage.inodes.to_string(), ""]);
        let info = snapshot::stat(client, snapshotter, &key).await;
        key = info
            .with_context(|| format!("failed to ensure if snapshot {key} has parent or not"))?
            .parent;
    }
    table.print();
    Ok(())
}
