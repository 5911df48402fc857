//! `snapshots diff`: what one snapshot has over another, as a layer on standard output.

use super::{mounts, remove, stat, view};
use crate::client::{Client, unique_part};
use crate::clock;
use crate::content::print_blob;
use crate::labels;
use anyhow::{Context, Result};
use clap::Args;
use containerd_client::services::v1::DiffRequest;
use containerd_client::services::v1::snapshots::Kind;
use containerd_client::types::Mount;

/// `ctr snapshots diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Media type to use for creating diff
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "application/vnd.oci.image.layer.v1.tar+gzip"
    )]
    media_type: String,
    /// Content upload reference to use
    #[arg(long = "ref", value_name = "REF", default_value = "", hide_default_value = true)]
    reference: String,
    /// Keep diff content. up to creator to delete it.
    #[arg(long)]
    keep: bool,
    /// Labels to attach to the content
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Snapshot, the upper one when it stands alone
    #[arg(value_name = "A")]
    a: String,
    /// Second snapshot: the diff leads from the first to it
    #[arg(value_name = "B")]
    b: Option<String>,
}

/// The mounts of a snapshot, by a view of it where it cannot be mounted itself.
struct Seen {
    mounts: Vec<Mount>,
    view: Option<String>,
}

/// Prints the layer.
pub async fn diff(client: &Client, snapshotter: &str, args: &DiffArgs) -> Result<()> {
    let lease = client.lease().await?;
    let done = diff_leased(lease.client(), snapshotter, args).await;
    lease.release().await;
    done
}

async fn diff_leased(client: &Client, snapshotter: &str, args: &DiffArgs) -> Result<()> {
    let (left, right) = if let Some(b) = &args.b {
        (
            see(client, snapshotter, &args.a).await?,
            see(client, snapshotter, b).await,
        )
    } else {
        let parent = stat(client, snapshotter, &args.a).await?.parent;
        (
            see_parent(client, snapshotter, &parent).await?,
            see(client, snapshotter, &args.a).await,
        )
    };
    let compared = match &right {
        Ok(right) => compare(client, args, &left, right).await,
        Err(_) => Ok(String::new()),
    };
    for seen in [Some(&left), right.as_ref().ok()].into_iter().flatten() {
        if let Some(key) = &seen.view
            && let Err(status) = remove(client, snapshotter, key).await
        {
            eprintln!("ctr: view {key} stays: {}", status.message());
        }
    }
    right?;
    print_blob(client, &compared?).await
}

async fn see(client: &Client, snapshotter: &str, key: &str) -> Result<Seen> {
    let info = stat(client, snapshotter, key).await?;
    if info.kind() == Kind::Committed {
        return see_parent(client, snapshotter, key).await;
    }
    Ok(Seen {
        mounts: mounts(client, snapshotter, key).await?,
        view: None,
    })
}

/// A view on a committed snapshot; on nothing when `key` is empty.
async fn see_parent(client: &Client, snapshotter: &str, key: &str) -> Result<Seen> {
    let name = format!("{key}-view-{}", unique_part());
    let mounts = view(client, snapshotter, &name, key).await?;
    Ok(Seen {
        mounts,
        view: Some(name),
    })
}

/// Has the daemon compare; answers the layer's digest.
async fn compare(client: &Client, args: &DiffArgs, left: &Seen, right: &Seen) -> Result<String> {
    let (mut labels, _) = labels::update(&args.label);
    if args.keep {
        labels.insert(
            "containerd.io/gc.root".to_owned(),
            clock::rfc3339_seconds(&clock::now()),
        );
    }
    let request = DiffRequest {
        left: left.mounts.clone(),
        right: right.mounts.clone(),
        media_type: args.media_type.clone(),
        r#ref: args.reference.clone(),
        labels,
        ..DiffRequest::default()
    };
    let answer = client.diff().diff(client.request(request)).await?.into_inner();
    Ok(answer.diff.context("the daemon answered no layer")?.digest)
}
