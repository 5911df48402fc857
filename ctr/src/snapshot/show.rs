//! How snapshots are printed: `list`, `info`, `tree`, `usage`, and mounts as commands or JSON.

use crate::client::Client;
use crate::clock;
use crate::human::binary_size;
use crate::table::Table;
use anyhow::Result;
use clap::Args;
use containerd_client::services::v1::snapshots::{Info, Kind};
use containerd_client::types::Mount;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// `ctr snapshots usage`.
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// Display size in bytes
    #[arg(short = 'b')]
    bytes: bool,
    /// Keys; all without any
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
}

/// A record, in the form of containerd's own structure.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Record {
    kind: &'static str,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    parent: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    created: String,
    updated: String,
}

/// A mount, in the form of containerd's own structure.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MountRecord {
    r#type: String,
    source: String,
    target: String,
    options: Vec<String>,
}

/// The kind in words.
pub fn kind(info: &Info) -> &'static str {
    match info.kind() {
        Kind::View => "View",
        Kind::Active => "Active",
        Kind::Committed => "Committed",
        Kind::Unknown => "Unknown",
    }
}

/// A record to print as JSON.
pub fn record(info: Info) -> Record {
    Record {
        kind: kind(&info),
        name: info.name,
        parent: info.parent,
        labels: info.labels.into_iter().collect(),
        created: clock::rfc3339(&info.created_at.unwrap_or_default()),
        updated: clock::rfc3339(&info.updated_at.unwrap_or_default()),
    }
}

/// Mounts to print as JSON.
pub fn mounts_json(mounts: &[Mount]) -> Vec<MountRecord> {
    let record = |mount: &Mount| MountRecord {
        r#type: mount.r#type.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    };
    mounts.iter().map(record).collect()
}

/// Prints the commands that mount a snapshot.
pub fn mount_commands(target: &str, mounts: &[Mount]) {
    for mount in mounts {
        let target = Path::new(target).join(mount.target.trim_start_matches('/'));
        let target = target.components().collect::<std::path::PathBuf>();
        println!(
            "mount -t {} {} {} -o {}",
            mount.r#type,
            mount.source,
            target.display(),
            mount.options.join(",")
        );
    }
}

/// `snapshots list`.
pub async fn list(client: &Client, snapshotter: &str) -> Result<()> {
    let mut table = Table::dense(&["KEY", "PARENT", "KIND", ""]);
    for info in super::records(client, snapshotter).await? {
        table.row([&info.name, &info.parent, kind(&info), ""]);
    }
    table.print();
    Ok(())
}

/// `snapshots usage`.
pub async fn usage(client: &Client, snapshotter: &str, args: &UsageArgs) -> Result<()> {
    let keys = if args.keys.is_empty() {
        super::records(client, snapshotter)
            .await?
            .into_iter()
            .map(|info| info.name)
            .collect()
    } else {
        args.keys.clone()
    };
    let mut table = Table::dense(&["KEY", "SIZE", "INODES", ""]);
    for key in &keys {
        let usage = super::usage(client, snapshotter, key).await?;
        let size = if args.bytes {
            usage.size.to_string()
        } else {
            binary_size(usage.size)
        };
        table.row([key, &size, &usage.inodes.to_string(), ""]);
    }
    table.print();
    Ok(())
}

/// `snapshots tree`.
pub async fn tree(client: &Client, snapshotter: &str) -> Result<()> {
    print!("{}", tree_text(&super::records(client, snapshotter).await?));
    Ok(())
}

/// Each snapshot under its parent. A parent that is not listed stands for a root of its own.
fn tree_text(infos: &[Info]) -> String {
    let mut children: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    let listed = |name: &str| infos.iter().find(|info| info.name == name);
    for info in infos {
        if !order.contains(&info.name.as_str()) {
            order.push(&info.name);
        }
        if !info.parent.is_empty() {
            if !order.contains(&info.parent.as_str()) {
                order.push(&info.parent);
            }
            children.entry(&info.parent).or_default().push(&info.name);
        }
    }
    let mut text = String::new();
    let roots = order
        .into_iter()
        .filter(|name| listed(name).is_none_or(|info| info.parent.is_empty()));
    let mut stack: Vec<(&str, usize)> = roots.map(|name| (name, 0)).collect();
    stack.reverse();
    while let Some((name, level)) = stack.pop() {
        let branch = if level > 0 { "\\_" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}{branch} {name}", "  ".repeat(level));
        let below = children.get(name).map(Vec::as_slice).unwrap_or_default();
        stack.extend(below.iter().rev().map(|&child| (child, level + 1)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_stand_under_their_parents() {
        let info = |name: &str, parent: &str| Info {
            name: name.to_owned(),
            parent: parent.to_owned(),
            ..Info::default()
        };
        let infos = [
            info("container", "top"),
            info("base", ""),
            info("top", "base"),
            info("other", "base"),
        ];
        assert_eq!(tree_text(&infos), " base\n  \\_ top\n    \\_ container\n  \\_ other\n");
    }
}
