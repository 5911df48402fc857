//! From a container to a task: what the daemon is told, and the life of a task that this process stays with.

use super::process::{Outcome, Process};
use super::stdio::{Copies, Streams};
use crate::client::Client;
use crate::console::RawConsole;
use crate::container::options::{RUNC_OPTIONS_URL, RuncOptions};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use containerd_client::services::v1::snapshots::MountsRequest;
use containerd_client::services::v1::{Container, CreateTaskRequest};
use containerd_client::types::Mount;
use prost::Message;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where a task's streams go, and whether this process stays: flags of `run` and `tasks start`.
#[derive(Debug, Clone, Default, Args)]
pub struct TaskFlags {
    /// Send all IO to /dev/null
    #[arg(long)]
    pub null_io: bool,
    /// Log uri
    #[arg(long, value_name = "URI")]
    pub log_uri: Option<String>,
    /// Directory used for storing IO FIFOs
    #[arg(long, value_name = "DIR")]
    pub fifo_dir: Option<PathBuf>,
    /// File path to write the task's pid
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Detach from the task after it has started execution
    #[arg(long, short = 'd')]
    pub detach: bool,
}

/// Creates the task of `container`, starts it and, unless detached, stays to its end, when it is deleted. Answers its
/// exit status, 0 when detached. `spec` is the container's specification.
pub async fn run(
    client: &Client,
    container: &Container,
    spec: &Value,
    flags: &TaskFlags,
    no_pivot: bool,
) -> Result<u32> {
    let terminal = spec
        .pointer("/process/terminal")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    ensure!(!(terminal && flags.null_io), "tty and null-io cannot be used together");
    // Everything that can be wrong on our side is found out before there is a task.
    let rootfs = rootfs_mounts(client, container).await?;
    let options = task_options(container, spec, no_pivot)?;
    // A detached task's terminal is not ours: `tasks attach` connects one later.
    let console = if terminal && !flags.detach {
        Some(RawConsole::take()?)
    } else {
        None
    };
    let streams = if flags.null_io {
        Streams::null()
    } else if let (false, Some(uri)) = (terminal, flags.log_uri.as_deref().filter(|uri| !uri.is_empty())) {
        Streams::log(uri)
    } else {
        Streams::make(flags.fifo_dir.as_deref(), &container.id, terminal)?
    };
    let mut copies = Copies::start(&streams, false)?;
    let request = CreateTaskRequest {
        container_id: container.id.clone(),
        rootfs,
        stdin: streams.stdin.clone(),
        stdout: streams.stdout.clone(),
        stderr: streams.stderr.clone(),
        terminal,
        options,
        ..CreateTaskRequest::default()
    };
    let pid = match client.tasks().create(client.request(request)).await {
        Ok(answer) => answer.into_inner().pid,
        Err(status) => {
            streams.remove();
            return Err(status.into());
        }
    };
    let process = Process::init(client, &container.id);
    let wait = process.wait();
    let started = async {
        if let Some(path) = &flags.pid_file {
            write_pid_file(path, pid)?;
        }
        Ok::<_, anyhow::Error>(process.start().await?)
    };
    if let Err(error) = started.await {
        // A task that was created and not started is an unused init process: nobody else would remove it.
        if process.kill_and_wait().await.is_ok() && process.delete().await.is_ok() {
            streams.remove();
        }
        return Err(error);
    }
    if flags.detach {
        // The fifos stay, for `tasks attach`; they go with the task.
        return Ok(0);
    }
    let outcome = process.attend(console.as_ref(), &mut copies, wait).await?;
    // Deleting makes the shim close its ends, so that the output has an end even if a child holds the pipe.
    process.delete().await?;
    copies.drain().await;
    streams.remove();
    match outcome {
        Outcome::Exited(status) => Ok(status),
        Outcome::Detached => Ok(0),
    }
}

async fn rootfs_mounts(client: &Client, container: &Container) -> Result<Vec<Mount>> {
    if container.snapshot_key.is_empty() {
        return Ok(Vec::new());
    }
    if container.snapshotter.is_empty() {
        bail!(
            "container {}: unable to resolve rootfs mounts without snapshotter on container",
            container.id
        );
    }
    let request = MountsRequest {
        snapshotter: container.snapshotter.clone(),
        key: container.snapshot_key.clone(),
    };
    Ok(client
        .snapshots()
        .mounts(client.request(request))
        .await?
        .into_inner()
        .mounts)
}

/// Options that concern this task only. The shim takes either these or the container's, so these start from those.
fn task_options(container: &Container, spec: &Value, no_pivot: bool) -> Result<Option<prost_types::Any>> {
    let host_id = |which: &str| {
        let id = spec
            .pointer(&format!("/linux/{which}/0/hostID"))
            .and_then(Value::as_u64)
            .unwrap_or(0);
        u32::try_from(id).with_context(|| format!("linux.{which}: host id {id} is too large"))
    };
    let (uid, gid) = (host_id("uidMappings")?, host_id("gidMappings")?);
    if !no_pivot && uid == 0 && gid == 0 {
        return Ok(None);
    }
    let runtime = container.runtime.clone().unwrap_or_default();
    ensure!(
        runtime.name.starts_with("io.containerd.runc."),
        "--no-pivot and user namespaces are options of runc: runtime {} has no such options",
        runtime.name
    );
    let held = runtime
        .options
        .filter(|options| options.type_url.ends_with(RUNC_OPTIONS_URL));
    let mut options = match held {
        Some(options) => RuncOptions::decode(options.value.as_slice()).context("the container's runtime options")?,
        None => RuncOptions::default(),
    };
    options.no_pivot_root |= no_pivot;
    options.io_uid = uid;
    options.io_gid = gid;
    Ok(Some(options.to_any()))
}

/// Writes a pid file so that no reader ever sees a part of it.
fn write_pid_file(path: &Path, pid: u32) -> Result<()> {
    let directory = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(directory)?;
        write!(file, "{pid}")?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write pid file {}", path.display()))
}
