//! `ctr containers`: the records that tasks are started from. [`create`] makes them, out of an image or a root file
//! system; [`info`] prints one whole. Running them is `crate::task`'s.

pub mod create;
pub mod info;
pub mod options;

use crate::client::Client;
use crate::spec::rootfs::{users_of_directory, users_of_mounts};
use crate::spec::users::Users;
use crate::table::Table;
use crate::task::lifecycle::delete_process;
use crate::task::{load, state};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use containerd_client::services::v1::snapshots::{MountsRequest, RemoveSnapshotRequest};
use containerd_client::services::v1::{
    Container, DeleteContainerRequest, ListContainersRequest, UpdateContainerRequest,
};
use containerd_client::tonic::Code;
use containerd_client::types::v1::Status as TaskStatus;
use serde_json::Value;
use std::path::Path;

/// Commands of `ctr containers`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create container
    Create(Box<create::CreateArgs>),
    /// Delete one or more existing containers
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(DeleteArgs),
    /// Get info about a container
    Info(info::InfoArgs),
    /// List containers
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Set and clear labels for a container
    Label(LabelArgs),
}

/// `ctr containers delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Do not clean up snapshot with container
    #[arg(long)]
    pub keep_snapshot: bool,
    /// Container ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub ids: Vec<String>,
}

/// `ctr containers list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print only the container id
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// Filters; a container that meets one of them is shown
    #[arg(value_name = "FILTER")]
    pub filters: Vec<String>,
}

/// `ctr containers label`.
#[derive(Debug, Args)]
pub struct LabelArgs {
    /// Container id
    #[arg(value_name = "CONTAINER")]
    pub id: String,
    /// Labels, KEY=VALUE; an empty value clears
    #[arg(value_name = "LABEL")]
    pub labels: Vec<String>,
}

/// Runs a command.
pub async fn run(command: Command, client: &Client) -> Result<()> {
    match command {
        Command::Create(args) => create::create(client, &args).await,
        Command::Delete(args) => delete(client, &args).await,
        Command::Info(args) => info::info(client, &args).await,
        Command::List(args) => list(client, &args).await,
        Command::Label(args) => label(client, &args).await,
    }
}

async fn list(client: &Client, args: &ListArgs) -> Result<()> {
    let request = client.request(ListContainersRequest {
        filters: args.filters.clone(),
    });
    let containers = client.containers().list(request).await?.into_inner().containers;
    if args.quiet {
        for container in &containers {
            println!("{}", container.id);
        }
        return Ok(());
    }
    let mut table = Table::new(&["CONTAINER", "IMAGE", "RUNTIME", ""]);
    for container in containers {
        let image = if container.image.is_empty() {
            "-"
        } else {
            &container.image
        };
        let runtime = container.runtime.as_ref().map_or("", |runtime| &runtime.name);
        table.row([container.id.as_str(), image, runtime, ""]);
    }
    table.print();
    Ok(())
}

async fn label(client: &Client, args: &LabelArgs) -> Result<()> {
    let labels = crate::spec::parse::labels(&args.labels);
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let request = UpdateContainerRequest {
        container: Some(Container {
            id: args.id.clone(),
            labels: labels.into_iter().collect(),
            ..Container::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths }),
    };
    let updated = client.containers().update(client.request(request)).await?.into_inner();
    let updated = updated.container.context("the daemon answered no container")?;
    let mut labels: Vec<String> = updated
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.sort();
    println!("{}", labels.join(","));
    Ok(())
}

async fn delete(client: &Client, args: &DeleteArgs) -> Result<()> {
    let mut first = None;
    for id in &args.ids {
        match delete_one(client, id, args.keep_snapshot).await {
            Ok(()) => {}
            Err(error) if args.ids.len() == 1 => return Err(error),
            Err(error) => {
                eprintln!(
                    "ctr: failed to delete container {id:?}: {}",
                    crate::client::describe(&error)
                );
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(()), Err)
}

async fn delete_one(client: &Client, id: &str, keep_snapshot: bool) -> Result<()> {
    let container = load(client, id).await?;
    match state(client, id, "").await {
        Err(status) if status.code() == Code::NotFound => {}
        Err(status) => return Err(status.into()),
        Ok(task) => match TaskStatus::try_from(task.status).unwrap_or_default() {
            TaskStatus::Stopped => {
                delete_process(client, id, "", false).await?;
            }
            // Its init process waits to be told what to run: nothing is lost by ending it.
            TaskStatus::Created => {
                delete_process(client, id, "", true).await?;
            }
            status => bail!(
                "cannot delete a non stopped container: {}",
                status.as_str_name().to_lowercase()
            ),
        },
    }
    remove(client, &container, keep_snapshot).await
}

/// Removes a container that has no task, and its snapshot unless that is to be kept.
pub async fn remove(client: &Client, container: &Container, keep_snapshot: bool) -> Result<()> {
    if !keep_snapshot && !container.snapshot_key.is_empty() {
        ensure!(
            !container.snapshotter.is_empty(),
            "container {}: snapshotter must be set to cleanup rootfs snapshot",
            container.id
        );
        let request = RemoveSnapshotRequest {
            snapshotter: container.snapshotter.clone(),
            key: container.snapshot_key.clone(),
        };
        match client.snapshots().remove(client.request(request)).await {
            Err(status) if status.code() != Code::NotFound => return Err(status.into()),
            _ => {}
        }
    }
    client
        .containers()
        .delete(client.request(DeleteContainerRequest {
            id: container.id.clone(),
        }))
        .await?;
    Ok(())
}

/// The users of a container's root file system: of its snapshot, or of the directory that its specification names.
pub async fn users_of_container(client: &Client, container: &Container, spec: &Value) -> Result<Users> {
    if container.snapshot_key.is_empty() {
        let path = spec.pointer("/root/path").and_then(Value::as_str).unwrap_or_default();
        ensure!(
            Path::new(path).is_absolute(),
            "rootfs absolute path is required, not {path:?}"
        );
        return users_of_directory(Path::new(path));
    }
    let request = MountsRequest {
        snapshotter: container.snapshotter.clone(),
        key: container.snapshot_key.clone(),
    };
    users_of_mounts(
        &client
            .snapshots()
            .mounts(client.request(request))
            .await?
            .into_inner()
            .mounts,
    )
}
