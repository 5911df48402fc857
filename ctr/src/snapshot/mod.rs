//! `ctr snapshots`: the calls of a snapshotter as functions, and the commands that are little more than a call.
//! [`show`] prints lists and trees, [`diff`] compares snapshots.

pub mod diff;
pub mod show;

use crate::cli::SnapshotterArgs;
use crate::client::Client;
use crate::clock;
use crate::container::info::print_json;
use crate::digest;
use crate::image::platform::Matcher;
use crate::image::{list, resolve, unpack};
use crate::labels;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, Info, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
    StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest, UsageResponse, ViewSnapshotRequest,
};
use containerd_client::tonic::Status;
use containerd_client::types::Mount;
use std::collections::HashMap;
use std::io::{Write, stdout};

/// `ctr snapshots`.
#[derive(Debug, Args)]
pub struct SnapshotsArgs {
    #[command(flatten)]
    snapshotter: SnapshotterArgs,
    #[command(subcommand)]
    command: Command,
}

/// Commands of `ctr snapshots`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Commit an active snapshot into the provided name
    Commit(CommitArgs),
    /// Get the diff of two snapshots. the default second snapshot is the first snapshot's parent.
    Diff(diff::DiffArgs),
    /// Get info about a snapshot
    Info(KeyArg),
    /// List snapshots
    #[command(visible_alias = "ls")]
    List,
    /// Mount gets mount commands for the snapshots
    #[command(visible_aliases = ["m", "mount"])]
    Mounts(MountsArgs),
    /// Prepare a snapshot from a committed snapshot
    Prepare(PrepareArgs),
    /// Remove snapshots
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(KeysArg),
    /// Add labels to content
    Label(LabelArgs),
    /// Display tree view of snapshot branches
    Tree,
    /// Unpack applies layers from a manifest to a snapshot
    Unpack(UnpackArgs),
    /// Usage snapshots
    Usage(show::UsageArgs),
    /// Create a read-only snapshot from a committed snapshot
    View(PrepareArgs),
}

/// One snapshot.
#[derive(Debug, Args)]
pub struct KeyArg {
    /// Key
    #[arg(value_name = "KEY")]
    key: String,
}

/// Some snapshots.
#[derive(Debug, Args)]
pub struct KeysArg {
    /// Keys
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
}

/// `ctr snapshots commit`.
#[derive(Debug, Args)]
pub struct CommitArgs {
    /// Name of the committed snapshot
    #[arg(value_name = "KEY")]
    name: String,
    /// Active snapshot
    #[arg(value_name = "ACTIVE")]
    active: String,
}

/// `ctr snapshots mounts`.
#[derive(Debug, Args)]
pub struct MountsArgs {
    /// Directory
    #[arg(value_name = "TARGET")]
    target: String,
    /// Snapshot
    #[arg(value_name = "KEY")]
    key: String,
}

/// `ctr snapshots prepare` and `view`.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// Mount target path, will print mount, if provided
    #[arg(long, short = 't', value_name = "DIR")]
    target: Option<String>,
    /// Print out snapshot mounts as JSON
    #[arg(long)]
    mounts: bool,
    /// Key of the new snapshot
    #[arg(value_name = "KEY")]
    key: String,
    /// Committed snapshot under it
    #[arg(value_name = "PARENT", default_value = "", hide_default_value = true)]
    parent: String,
}

/// `ctr snapshots label`.
#[derive(Debug, Args)]
pub struct LabelArgs {
    /// Snapshot
    #[arg(value_name = "NAME")]
    key: String,
    /// Labels, KEY=VALUE; an empty value clears
    #[arg(value_name = "LABEL")]
    labels: Vec<String>,
}

/// `ctr snapshots unpack`.
#[derive(Debug, Args)]
pub struct UnpackArgs {
    /// Snapshotter name. Empty value stands for the default value.
    #[arg(long, value_name = "NAME")]
    snapshotter: Option<String>,
    /// Synchronize the underlying filesystem when unpacking
    #[arg(long)]
    sync_fs: bool,
    /// Digest of a manifest or index that an image points to
    #[arg(value_name = "DIGEST")]
    digest: String,
}

/// Runs a command.
pub async fn run(args: SnapshotsArgs, client: &Client) -> Result<()> {
    let snapshotter = client.snapshotter_name(&args.snapshotter.name).await?;
    match args.command {
        Command::Commit(args) => {
            let request = CommitSnapshotRequest {
                snapshotter,
                name: args.name,
                key: args.active,
                labels: rooted(),
            };
            client.snapshots().commit(client.request(request)).await?;
            Ok(())
        }
        Command::Diff(args) => diff::diff(client, &snapshotter, &args).await,
        Command::Info(args) => print_json(&show::record(stat(client, &snapshotter, &args.key).await?)),
        Command::List => show::list(client, &snapshotter).await,
        Command::Mounts(args) => {
            show::mount_commands(&args.target, &mounts(client, &snapshotter, &args.key).await?);
            Ok(())
        }
        Command::Prepare(args) => {
            let made = prepare(client, &snapshotter, &args.key, &args.parent, rooted()).await?;
            print_mounts(&args, &made)
        }
        Command::View(args) => {
            let made = view(client, &snapshotter, &args.key, &args.parent).await?;
            print_mounts(&args, &made)
        }
        Command::Delete(args) => {
            for key in &args.keys {
                remove(client, &snapshotter, key)
                    .await
                    .with_context(|| format!("failed to remove {key:?}"))?;
            }
            Ok(())
        }
        Command::Label(args) => label(client, &snapshotter, args).await,
        Command::Tree => show::tree(client, &snapshotter).await,
        Command::Unpack(args) => {
            let snapshotter = args
                .snapshotter
                .clone()
                .filter(|name| !name.is_empty())
                .unwrap_or(snapshotter);
            unpack(client, &snapshotter, &args).await
        }
        Command::Usage(args) => show::usage(client, &snapshotter, &args).await,
    }
}

/// The label that makes a snapshot stay until it is removed by name.
fn rooted() -> HashMap<String, String> {
    HashMap::from([(
        "containerd.io/gc.root".to_owned(),
        clock::rfc3339_seconds(&clock::now()),
    )])
}

fn print_mounts(args: &PrepareArgs, mounts: &[Mount]) -> Result<()> {
    if let Some(target) = args.target.as_ref().filter(|target| !target.is_empty()) {
        show::mount_commands(target, mounts);
    }
    if args.mounts {
        print_json(&show::mounts_json(mounts))?;
    }
    Ok(())
}

async fn label(client: &Client, snapshotter: &str, args: LabelArgs) -> Result<()> {
    let (labels, paths) = labels::update(&args.labels);
    let info = if paths.is_empty() {
        stat(client, snapshotter, &args.key).await?
    } else {
        let labels = labels.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let request = UpdateSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            info: Some(Info {
                name: args.key,
                labels,
                ..Info::default()
            }),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let answer = client.snapshots().update(client.request(request)).await?.into_inner();
        answer.info.context("the daemon answered no snapshot")?
    };
    println!("{}", labels::list(&info.labels));
    Ok(())
}

async fn unpack(client: &Client, snapshotter: &str, args: &UnpackArgs) -> Result<()> {
    let digest = digest::parse(&args.digest)?;
    let images = list::records(client, Vec::new()).await?;
    let found = images
        .iter()
        .find(|image| image.target.as_ref().is_some_and(|target| target.digest == digest));
    let record = found.with_context(|| format!("manifest not found: no image points to {digest}"))?;
    print!("unpacking {digest} ({})...", resolve::target(record)?.media_type);
    stdout().flush().context("cannot write to standard output")?;
    let done = async {
        let image = resolve::of_record(client, record, &Matcher::host()).await?;
        unpack::unpack(client, &image, snapshotter, args.sync_fs).await
    };
    let done = done.await;
    println!("{}", if done.is_ok() { "done" } else { "" });
    done
}

/// A snapshot's record.
pub async fn stat(client: &Client, snapshotter: &str, key: &str) -> Result<Info, Status> {
    let request = StatSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
    };
    let answer = client.snapshots().stat(client.request(request)).await?.into_inner();
    answer
        .info
        .ok_or_else(|| Status::internal(format!("the daemon answered no record of snapshot {key}")))
}

/// All records of a snapshotter.
pub async fn records(client: &Client, snapshotter: &str) -> Result<Vec<Info>, Status> {
    let request = ListSnapshotsRequest {
        snapshotter: snapshotter.to_owned(),
        ..ListSnapshotsRequest::default()
    };
    let mut answers = client.snapshots().list(client.request(request)).await?.into_inner();
    let mut found = Vec::new();
    while let Some(answer) = answers.message().await? {
        found.extend(answer.info);
    }
    Ok(found)
}

/// What a snapshot takes, without its parents.
pub async fn usage(client: &Client, snapshotter: &str, key: &str) -> Result<UsageResponse, Status> {
    let request = UsageRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
    };
    Ok(client.snapshots().usage(client.request(request)).await?.into_inner())
}

/// Makes a snapshot that can be written to.
pub async fn prepare(
    client: &Client,
    snapshotter: &str,
    key: &str,
    parent: &str,
    labels: HashMap<String, String>,
) -> Result<Vec<Mount>, Status> {
    let (snapshotter, key, parent) = (snapshotter.to_owned(), key.to_owned(), parent.to_owned());
    let request = PrepareSnapshotRequest {
        snapshotter,
        key,
        parent,
        labels,
    };
    Ok(client
        .snapshots()
        .prepare(client.request(request))
        .await?
        .into_inner()
        .mounts)
}

/// Makes a snapshot that can be read.
pub async fn view(client: &Client, snapshotter: &str, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
    let (snapshotter, key, parent) = (snapshotter.to_owned(), key.to_owned(), parent.to_owned());
    let request = ViewSnapshotRequest {
        snapshotter,
        key,
        parent,
        ..ViewSnapshotRequest::default()
    };
    Ok(client
        .snapshots()
        .view(client.request(request))
        .await?
        .into_inner()
        .mounts)
}

/// The mounts of an active snapshot or a view.
pub async fn mounts(client: &Client, snapshotter: &str, key: &str) -> Result<Vec<Mount>, Status> {
    let request = MountsRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
    };
    Ok(client
        .snapshots()
        .mounts(client.request(request))
        .await?
        .into_inner()
        .mounts)
}

/// Removes a snapshot.
pub async fn remove(client: &Client, snapshotter: &str, key: &str) -> Result<(), Status> {
    let request = RemoveSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
    };
    client.snapshots().remove(client.request(request)).await.map(drop)
}
