//! `tasks exec`: one more process in a running container.

use super::process::{Outcome, Process};
use super::stdio::{Copies, Streams};
use crate::client::Client;
use crate::console::RawConsole;
use crate::container::users_of_container;
use crate::spec::PROCESS_TYPE_URL;
use anyhow::{Context, Result, ensure};
use clap::Args;
use containerd_client::services::v1::ExecProcessRequest;
use serde_json::{Value, json};
use std::path::PathBuf;

/// `ctr tasks exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Working directory of the new process
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Allocate a TTY for the container
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Detach from the task after it has started execution
    #[arg(long, short = 'd')]
    pub detach: bool,
    /// Exec specific id for the process
    #[arg(long, value_name = "ID", required = true)]
    pub exec_id: String,
    /// Directory used for storing IO FIFOs
    #[arg(long, value_name = "DIR")]
    pub fifo_dir: Option<PathBuf>,
    /// Log uri for custom shim logging
    #[arg(long, value_name = "URI")]
    pub log_uri: Option<String>,
    /// User id or name
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Container id, then the command and its arguments
    #[arg(value_name = "CONTAINER CMD [ARG...]", required = true, trailing_var_arg = true)]
    pub args: Vec<String>,
}

/// Runs the process; answers its exit status, 0 when detached.
pub async fn exec(client: &Client, args: &ExecArgs) -> Result<u32> {
    ensure!(!(args.tty && args.log_uri.is_some()), "can't use log-uri with tty");
    ensure!(
        !(args.fifo_dir.is_some() && args.log_uri.is_some()),
        "can't use log-uri with fifo-dir"
    );
    let (id, command) = args.args.split_first().context("container id must be provided")?;
    ensure!(!command.is_empty(), "a command must be provided after the container id");
    let container = super::load(client, id).await?;
    let mut spec = super::spec_of(&container)?;
    let process = spec
        .pointer_mut("/process")
        .context("the container's spec has no process")?;
    process["terminal"] = json!(args.tty);
    process["args"] = json!(command);
    if let Some(cwd) = args.cwd.as_ref().filter(|cwd| !cwd.is_empty()) {
        process["cwd"] = json!(cwd);
    }
    let process = process.take();
    let process = match args.user.as_ref().filter(|user| !user.is_empty()) {
        Some(user) => as_user(process, user, client, &container, &spec).await?,
        None => process,
    };
    super::state(client, id, "").await?;

    let console = if args.tty && !args.detach {
        Some(RawConsole::take()?)
    } else {
        None
    };
    let streams = match &args.log_uri {
        Some(uri) => Streams::log(uri),
        None => Streams::make(args.fifo_dir.as_deref(), &args.exec_id, args.tty)?,
    };
    let mut copies = Copies::start(&streams, false)?;
    let request = ExecProcessRequest {
        container_id: id.clone(),
        exec_id: args.exec_id.clone(),
        stdin: streams.stdin.clone(),
        stdout: streams.stdout.clone(),
        stderr: streams.stderr.clone(),
        terminal: args.tty,
        spec: Some(prost_types::Any {
            type_url: PROCESS_TYPE_URL.to_owned(),
            value: serde_json::to_vec(&process).context("cannot write the process's spec")?,
        }),
    };
    if let Err(status) = client.tasks().exec(client.request(request)).await {
        streams.remove();
        return Err(status.into());
    }
    let process = Process::exec(client, id, &args.exec_id);
    let wait = process.wait();
    if let Err(status) = process.start().await {
        // The record of an exec that never ran would keep its id taken.
        if process.delete().await.is_ok() {
            streams.remove();
        }
        return Err(status.into());
    }
    if args.detach {
        return Ok(0);
    }
    let outcome = process.attend(console.as_ref(), &mut copies, wait).await?;
    process.delete().await?;
    copies.drain().await;
    streams.remove();
    match outcome {
        Outcome::Exited(status) => Ok(status),
        Outcome::Detached => Ok(0),
    }
}

async fn as_user(
    mut process: Value,
    user: &str,
    client: &Client,
    container: &containerd_client::services::v1::Container,
    spec: &Value,
) -> Result<Value> {
    let users = users_of_container(client, container, spec).await?;
    let identity = users.identity(user).with_context(|| format!("--user {user}"))?;
    process["user"] = serde_json::to_value(identity).context("cannot write the user")?;
    Ok(process)
}
