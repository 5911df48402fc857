//! `images tag`, `label`, `delete` and `prune`: the records alone.

use super::{list, resolve};
use crate::client::{Client, describe_status};
use crate::labels;
use anyhow::{Context, Result};
use clap::Args;
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, Image as Record, ListContainersRequest, UpdateImageRequest,
};
use containerd_client::tonic::Code;
use std::collections::BTreeSet;

/// `ctr images tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// Force target_ref to be created, regardless if it already exists
    #[arg(long)]
    force: bool,
    /// Run tag locally rather than through the transfer API; both come to the same here
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true")]
    local: bool,
    /// Image
    #[arg(value_name = "SOURCE")]
    source: String,
    /// New names
    #[arg(value_name = "TARGET", required = true)]
    targets: Vec<String>,
}

/// `ctr images label`.
#[derive(Debug, Args)]
pub struct LabelArgs {
    /// Replace all labels
    #[arg(long, short = 'r')]
    replace_all: bool,
    /// Image
    #[arg(value_name = "NAME")]
    name: String,
    /// Labels, KEY=VALUE; an empty value clears
    #[arg(value_name = "LABEL")]
    labels: Vec<String>,
}

/// `ctr images delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Synchronously remove image and all associated resources
    #[arg(long)]
    sync: bool,
    /// Names
    #[arg(value_name = "REF")]
    names: Vec<String>,
}

/// `ctr images prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Remove all unused images, not just dangling ones (if all is not specified no images will be pruned)
    #[arg(long)]
    all: bool,
}

/// Gives an image more names.
pub async fn tag(client: &Client, args: &TagArgs) -> Result<()> {
    let lease = client.lease().await?;
    let tagged = async {
        let client = lease.client();
        let image = resolve::record(client, &args.source).await?;
        for name in &args.targets {
            let new = Record {
                name: name.clone(),
                ..image.clone()
            };
            match create(client, new.clone()).await {
                Err(status) if status.code() == Code::AlreadyExists && args.force => {
                    // An update keeps the name present all the time, where delete and create would not.
                    update(client, new, &["target", "labels"]).await?;
                }
                done => drop(done?),
            }
            println!("{name}");
        }
        Ok(())
    };
    let tagged = tagged.await;
    lease.release().await;
    tagged
}

/// Creates a record.
pub async fn create(client: &Client, image: Record) -> Result<Record, containerd_client::tonic::Status> {
    let request = CreateImageRequest {
        image: Some(image),
        ..CreateImageRequest::default()
    };
    Ok(client
        .images()
        .create(client.request(request))
        .await?
        .into_inner()
        .image
        .unwrap_or_default())
}

/// Creates a record, or changes target and, where there are any, labels of the one of that name.
pub async fn put(client: &Client, image: Record) -> Result<Record, containerd_client::tonic::Status> {
    let fields: &[&str] = if image.labels.is_empty() {
        &["target"]
    } else {
        &["target", "labels"]
    };
    match update(client, image.clone(), fields).await {
        Err(status) if status.code() == Code::NotFound => create(client, image).await,
        done => done,
    }
}

/// Changes fields of a record.
pub async fn update(
    client: &Client,
    image: Record,
    paths: &[&str],
) -> Result<Record, containerd_client::tonic::Status> {
    let paths = paths.iter().map(|&path| path.to_owned()).collect();
    let request = UpdateImageRequest {
        image: Some(image),
        update_mask: Some(prost_types::FieldMask { paths }),
        ..UpdateImageRequest::default()
    };
    Ok(client
        .images()
        .update(client.request(request))
        .await?
        .into_inner()
        .image
        .unwrap_or_default())
}

/// Sets and clears labels.
pub async fn label(client: &Client, args: &LabelArgs) -> Result<()> {
    let (labels, paths) = crate::labels::update(&args.labels);
    let paths = if args.replace_all {
        vec!["labels".to_owned()]
    } else {
        paths
    };
    let image = Record {
        name: args.name.clone(),
        labels,
        ..Record::default()
    };
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let updated = update(client, image, &paths).await?;
    println!("{}", labels::list(&updated.labels));
    Ok(())
}

/// Deletes records; content and snapshots that nothing else needs follow, with `--sync` before this ends.
pub async fn delete(client: &Client, args: &DeleteArgs) -> Result<()> {
    let mut first = None;
    for (position, name) in args.names.iter().enumerate() {
        let sync = args.sync && position + 1 == args.names.len();
        match delete_one(client, name, sync).await {
            Ok(()) => println!("{name}"),
            Err(status) if status.code() == Code::NotFound => eprintln!("ctr: {name}: image not found"),
            Err(status) => {
                eprintln!("ctr: unable to delete {name}: {}", describe_status(&status));
                first.get_or_insert(anyhow::Error::new(status).context(format!("unable to delete {name}")));
            }
        }
    }
    first.map_or(Ok(()), Err)
}

async fn delete_one(client: &Client, name: &str, sync: bool) -> Result<(), containerd_client::tonic::Status> {
    let request = DeleteImageRequest {
        name: name.to_owned(),
        sync,
        ..DeleteImageRequest::default()
    };
    client.images().delete(client.request(request)).await.map(drop)
}

/// Deletes the images that no container was made of.
pub async fn prune(client: &Client, args: &PruneArgs) -> Result<()> {
    if !args.all {
        eprintln!("ctr: no images pruned: `images prune` requires --all to be specified");
        return Ok(());
    }
    let images = list::records(client, Vec::new()).await?;
    let request = client.request(ListContainersRequest::default());
    let containers = client
        .containers()
        .list(request)
        .await
        .context("failed to list containers")?
        .into_inner();
    let used: BTreeSet<&str> = containers
        .containers
        .iter()
        .map(|container| container.image.as_str())
        .collect();
    let unused: Vec<&Record> = images
        .iter()
        .filter(|image| !used.contains(image.name.as_str()))
        .collect();
    for (position, image) in unused.iter().enumerate() {
        match delete_one(client, &image.name, position + 1 == unused.len()).await {
            Ok(()) => eprintln!("ctr: deleted image: {}", image.name),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => eprintln!(
                "ctr: failed to delete image {}: {}",
                image.name,
                describe_status(&status)
            ),
        }
    }
    Ok(())
}
