//! `ctr tasks`: running things. A task is a container's running state; its processes are the first one and its execs.
//!
//! [`create`] and [`exec`] start processes, [`process`] stays with them, [`stdio`] connects their streams, [`list`]
//! shows them, [`lifecycle`] stops, pauses, attaches and deletes them.

pub mod create;
pub mod exec;
pub mod lifecycle;
pub mod list;
pub mod process;
pub mod signal;
pub mod stdio;

use crate::client::Client;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use containerd_client::services::v1::{Container, GetContainerRequest, GetRequest};
use containerd_client::tonic::{Code, Status};
use containerd_client::types::v1::Process as ProcessState;
use serde_json::Value;

/// Commands of `ctr tasks`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach to the IO of a running container
    Attach(ContainerArg),
    /// Delete one or more tasks
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(lifecycle::DeleteArgs),
    /// Execute additional processes in an existing container
    Exec(exec::ExecArgs),
    /// List tasks
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Signal a container (default: SIGTERM)
    Kill(lifecycle::KillArgs),
    /// Get a single data point of metrics for a task with the built-in Linux runtime
    #[command(visible_alias = "metric")]
    Metrics(crate::metrics::MetricsArgs),
    /// Pause an existing container
    Pause(ContainerArg),
    /// List processes for container
    Ps(ContainerArg),
    /// Resume a paused container
    Resume(ContainerArg),
    /// Start a container that has been created
    Start(StartArgs),
}

/// One container.
#[derive(Debug, Args)]
pub struct ContainerArg {
    /// Container id
    #[arg(value_name = "CONTAINER")]
    pub id: String,
}

/// `ctr tasks start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Disable use of pivot-root (linux only)
    #[arg(long)]
    pub no_pivot: bool,
    #[command(flatten)]
    task: create::TaskFlags,
    /// Container id
    #[arg(value_name = "CONTAINER")]
    pub id: String,
}

/// Runs a command; answers the status that `ctr` exits with.
pub async fn run(command: Command, client: &Client) -> Result<u32> {
    match command {
        Command::Attach(args) => lifecycle::attach(client, &args.id).await,
        Command::Delete(args) => lifecycle::delete(client, &args).await,
        Command::Exec(args) => exec::exec(client, &args).await,
        Command::List(args) => list::list(client, &args).await.map(|()| 0),
        Command::Kill(args) => lifecycle::kill(client, &args).await.map(|()| 0),
        Command::Metrics(args) => crate::metrics::metrics(client, &args).await.map(|()| 0),
        Command::Pause(args) => lifecycle::pause(client, &args.id).await.map(|()| 0),
        Command::Ps(args) => list::processes(client, &args.id).await.map(|()| 0),
        Command::Resume(args) => lifecycle::resume(client, &args.id).await.map(|()| 0),
        Command::Start(args) => {
            let container = load(client, &args.id).await?;
            create::run(client, &container, &spec_of(&container)?, &args.task, args.no_pivot).await
        }
    }
}

/// The record of a container.
pub async fn load(client: &Client, id: &str) -> Result<Container> {
    let request = client.request(GetContainerRequest { id: id.to_owned() });
    let answer = client.containers().get(request).await?.into_inner();
    answer
        .container
        .with_context(|| format!("the daemon answered no container for {id}"))
}

/// The specification of a container, with every field it has.
pub fn spec_of(container: &Container) -> Result<Value> {
    let spec = container
        .spec
        .as_ref()
        .with_context(|| format!("container {} has no spec", container.id))?;
    serde_json::from_slice(&spec.value).with_context(|| format!("the spec of container {} is not JSON", container.id))
}

/// The state of a process of a container's task (the first one for an empty `exec_id`).
pub async fn state(client: &Client, container_id: &str, exec_id: &str) -> Result<ProcessState, Status> {
    let request = GetRequest {
        container_id: container_id.to_owned(),
        exec_id: exec_id.to_owned(),
    };
    let answer = client
        .tasks()
        .get(client.request(request))
        .await
        .map_err(|status| match status.code() {
            Code::NotFound => Status::not_found(format!("no running task found: {}", status.message())),
            _ => status,
        })?;
    answer
        .into_inner()
        .process
        .ok_or_else(|| Status::internal(format!("the daemon answered no process for {container_id}")))
}
