//! `tasks attach`, `delete`, `kill`, `pause` and `resume`.

use super::process::{Outcome, Process};
use super::stdio::{Copies, Streams};
use super::{load, signal, state};
use crate::client::Client;
use crate::console::RawConsole;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use containerd_client::services::v1::{PauseTaskRequest, ResumeTaskRequest};
use containerd_client::types::v1::{Process as ProcessState, Status as TaskStatus};

/// Container label that holds the image's stop signal.
pub const STOP_SIGNAL_LABEL: &str = "io.containerd.image.config.stop-signal";

/// `ctr tasks delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Force delete task process
    #[arg(long, short = 'f')]
    pub force: bool,
    /// Process ID to kill
    #[arg(long, value_name = "ID")]
    pub exec_id: Option<String>,
    /// Container ids
    #[arg(value_name = "CONTAINER", required = true)]
    pub ids: Vec<String>,
}

/// `ctr tasks kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Signal to send to the container
    #[arg(long, short = 's', value_name = "SIGNAL")]
    pub signal: Option<String>,
    /// Process ID to kill
    #[arg(long, value_name = "ID")]
    pub exec_id: Option<String>,
    /// Send signal to all processes inside the container
    #[arg(long, short = 'a')]
    pub all: bool,
    /// Container id
    #[arg(value_name = "CONTAINER")]
    pub id: String,
}

/// Connects this terminal to a running task and stays with it. Ctrl-P Ctrl-Q leaves a task with a terminal running.
pub async fn attach(client: &Client, id: &str) -> Result<u32> {
    load(client, id).await?;
    let task = state(client, id, "").await?;
    let console = if task.terminal { Some(RawConsole::take()?) } else { None };
    let streams = streams_of(&task);
    let mut copies = Copies::start(&streams, task.terminal)?;
    let process = Process::init(client, id);
    match process.attend(console.as_ref(), &mut copies, process.wait()).await? {
        Outcome::Detached => Ok(0),
        Outcome::Exited(status) => {
            // Who started the task may delete it first; that it is gone is what was wanted.
            if process.delete().await.is_ok() {
                copies.drain().await;
                streams.remove();
            }
            Ok(status)
        }
    }
}

/// Deletes tasks, or one exec. Answers an exec's exit status.
pub async fn delete(client: &Client, args: &DeleteArgs) -> Result<u32> {
    if let Some(exec_id) = args.exec_id.as_ref().filter(|id| !id.is_empty()) {
        let id = args.ids.first().context("container id must be provided")?;
        return delete_process(client, id, exec_id, args.force).await;
    }
    let mut first = None;
    for id in &args.ids {
        match delete_process(client, id, "", args.force).await {
            Ok(0) => {}
            Ok(status) => eprintln!("ctr: task {id} exit with non-zero exit code {status}"),
            Err(error) if args.ids.len() == 1 => return Err(error),
            Err(error) => {
                eprintln!("ctr: unable to delete {id}: {}", crate::client::describe(&error));
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(0), Err)
}

/// Deletes a stopped process, its fifos with it; with `force` it is killed before.
pub async fn delete_process(client: &Client, id: &str, exec_id: &str, force: bool) -> Result<u32> {
    load(client, id).await?;
    let mut found = state(client, id, exec_id).await?;
    let process = Process::exec(client, id, exec_id);
    if force {
        process.kill_and_wait().await?;
        found = state(client, id, exec_id).await?;
    }
    let status = TaskStatus::try_from(found.status).unwrap_or_default();
    // A created task without a process has nothing that could run.
    let stopped = matches!(status, TaskStatus::Stopped | TaskStatus::Unknown)
        || (status == TaskStatus::Created && found.pid == 0);
    if !stopped {
        bail!(
            "task must be stopped before deletion: {}: failed precondition",
            status.as_str_name().to_lowercase()
        );
    }
    let exit = process.delete().await?;
    streams_of(&found).remove();
    Ok(exit)
}

/// Signals a task: with the given signal, its image's stop signal, or SIGTERM.
pub async fn kill(client: &Client, args: &KillArgs) -> Result<()> {
    let exec_id = args.exec_id.as_deref().unwrap_or_default();
    ensure!(!args.all || exec_id.is_empty(), "specify an exec-id or all; not both");
    let container = load(client, &args.id).await?;
    let name = args.signal.as_deref().filter(|signal| !signal.is_empty());
    let name = name
        .or(container.labels.get(STOP_SIGNAL_LABEL).map(String::as_str))
        .unwrap_or("SIGTERM");
    let number = signal::parse(name)?;
    state(client, &args.id, "").await?;
    Process::exec(client, &args.id, exec_id).kill(number, args.all).await?;
    Ok(())
}

/// Freezes a task.
pub async fn pause(client: &Client, id: &str) -> Result<()> {
    load(client, id).await?;
    client
        .tasks()
        .pause(client.request(PauseTaskRequest {
            container_id: id.to_owned(),
        }))
        .await?;
    Ok(())
}

/// Lets a frozen task go on.
pub async fn resume(client: &Client, id: &str) -> Result<()> {
    load(client, id).await?;
    client
        .tasks()
        .resume(client.request(ResumeTaskRequest {
            container_id: id.to_owned(),
        }))
        .await?;
    Ok(())
}

fn streams_of(state: &ProcessState) -> Streams {
    Streams {
        stdin: state.stdin.clone(),
        stdout: state.stdout.clone(),
        stderr: state.stderr.clone(),
        terminal: state.terminal,
    }
}
