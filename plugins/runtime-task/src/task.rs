//! One task: its bundle, its shim, and the shim's task service as plain calls.
//!
//! ```text
//!            ┌── delete, or a create that failed: the shim is asked to remove it, then to end
//!  living ───┤
//!            └── its connection ends unasked: the shim has died, `delete` of its binary removes what is left
//! ```
//!
//! Whoever is first ([`Task::begin_removal`]) does the removing, and tells the others how the task ended.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Instant, SystemTime};

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::Message;
use orlop_plugin::contract::{Any, CreateTask, ExecProcess, Exit, Process, ProcessInfo};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::bootstrap::Bootstrap;
use crate::bundle::Bundle;
use crate::connection::{Connection, Failure};
use crate::{convert, rootfs, shim_log};

/// What is told of a process nobody saw end.
pub const UNKNOWN_STATUS: u32 = 255;

type Answer<T> = Result<T, Failure>;

/// A task, which is there as long as its shim knows it.
pub struct Task {
    /// Where it is.
    pub bundle: Bundle,
    /// The shim's binary.
    pub binary: PathBuf,
    /// The shim's address.
    pub bootstrap: Bootstrap,
    /// Whether the shim belongs to a sandbox, which ends it.
    pub sandboxed: bool,
    connection: Connection,
    pid: AtomicU32,
    removing: AtomicBool,
    end: watch::Sender<Option<Exit>>,
    log: AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.log.abort();
    }
}

// === impl Task ===

impl Task {
    /// A task that can be reached over `connection`; its shim's log is drained from now on.
    pub fn new(
        bundle: Bundle,
        binary: PathBuf,
        bootstrap: Bootstrap,
        sandboxed: bool,
        connection: Connection,
        log: Receiver,
    ) -> Self {
        let log = tokio::spawn(shim_log::drain(log, bundle.namespace.clone(), bundle.id.clone())).abort_handle();
        Self {
            bundle,
            binary,
            bootstrap,
            sandboxed,
            connection,
            pid: AtomicU32::new(0),
            removing: AtomicBool::new(false),
            end: watch::Sender::new(None),
            log,
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.bundle.id
    }

    /// Whether the caller is the one to remove it: true once.
    pub fn begin_removal(&self) -> bool {
        !self.removing.swap(true, Ordering::AcqRel)
    }

    /// Tells everyone how it ended. Every removal does, in whatever way.
    pub fn tell_end(&self, exit: Exit) {
        self.end.send_replace(Some(exit));
    }

    /// How it ended, once it is removed.
    pub async fn end(&self) -> Exit {
        let mut end = self.end.subscribe();
        match end.wait_for(Option::is_some).await.map(|end| end.clone()) {
            Ok(Some(exit)) => exit,
            // The sender is part of `self`, so it is there; nobody knows more than this.
            _ => self.unknown_exit(),
        }
    }

    /// An end that nobody saw.
    pub fn unknown_exit(&self) -> Exit {
        Exit {
            id: self.id().to_owned(),
            pid: self.pid.load(Ordering::Relaxed),
            status: UNKNOWN_STATUS,
            exited_at: Some(SystemTime::now()),
        }
    }

    /// Returns once the connection to its shim has ended. Does not keep the task alive.
    pub fn disconnected(&self) -> impl Future<Output = ()> + Send + use<> {
        self.connection.ended()
    }

    async fn call<A: Message, R: Message>(&self, method: &str, request: A, deadline: Option<Instant>) -> Answer<R> {
        self.connection.call(method, &request, deadline).await
    }

    async fn command<A: Message>(&self, method: &str, request: A, deadline: Option<Instant>) -> Answer<()> {
        self.call::<A, api::Empty>(method, request, deadline).await.map(|_| ())
    }

    /// Whether the shim has a process for it, and which; 0 for none.
    pub async fn connect(&self, deadline: Option<Instant>) -> Answer<u32> {
        let request = api::ConnectRequest {
            id: self.id().to_owned(),
            ..api::ConnectRequest::default()
        };
        let response: api::ConnectResponse = self.call("Connect", request, deadline).await?;
        self.pid.store(response.task_pid, Ordering::Relaxed);
        Ok(response.task_pid)
    }

    /// Makes it; returns its pid.
    pub async fn create(
        &self,
        request: CreateTask,
        options: Option<Any>,
        checkpoint: String,
        deadline: Option<Instant>,
    ) -> Answer<u32> {
        let rootfs = rootfs::for_the_shim(request.rootfs, self.bundle.rootfs())
            .await
            .map_err(Failure::Answered)?;
        let request = api::CreateTaskRequest {
            id: self.id().to_owned(),
            bundle: self.bundle.path.to_string_lossy().into_owned(),
            rootfs: convert::mounts(rootfs),
            terminal: request.stdio.terminal,
            stdin: request.stdio.stdin,
            stdout: request.stdio.stdout,
            stderr: request.stdio.stderr,
            checkpoint,
            options: convert::to_any(options),
            ..api::CreateTaskRequest::default()
        };
        let response: api::CreateTaskResponse = self.call("Create", request, deadline).await?;
        self.pid.store(response.pid, Ordering::Relaxed);
        Ok(response.pid)
    }

    /// Starts a process; returns its pid.
    pub async fn start(&self, exec_id: &str, deadline: Option<Instant>) -> Answer<u32> {
        let request = api::StartRequest {
            id: self.id().to_owned(),
            exec_id: exec_id.to_owned(),
            ..api::StartRequest::default()
        };
        let response: api::StartResponse = self.call("Start", request, deadline).await?;
        if exec_id.is_empty() {
            // A restored task has its pid only now.
            self.pid.store(response.pid, Ordering::Relaxed);
        }
        Ok(response.pid)
    }

    /// Removes a process from the shim.
    pub async fn delete(&self, exec_id: &str, deadline: Option<Instant>) -> Answer<Exit> {
        let request = api::DeleteRequest {
            id: self.id().to_owned(),
            exec_id: exec_id.to_owned(),
            ..api::DeleteRequest::default()
        };
        let response = self.call("Delete", request, deadline).await?;
        let id = if exec_id.is_empty() { self.id() } else { exec_id };
        Ok(convert::exit(id, &response))
    }

    /// Tells the shim that it may end; it does, if it serves no other task.
    pub async fn shutdown(&self, deadline: Option<Instant>) -> Answer<()> {
        let request = api::ShutdownRequest {
            id: self.id().to_owned(),
            ..api::ShutdownRequest::default()
        };
        match self.command("Shutdown", request, deadline).await {
            // It has ended before its answer was on the way.
            Err(Failure::Closed) => Ok(()),
            other => other,
        }
    }

    /// A process.
    pub async fn state(&self, exec_id: &str, deadline: Option<Instant>) -> Answer<Process> {
        let request = api::StateRequest {
            id: self.id().to_owned(),
            exec_id: exec_id.to_owned(),
            ..api::StateRequest::default()
        };
        let response = self.call("State", request, deadline).await?;
        Ok(convert::process(self.id(), exec_id, response))
    }

    /// Waits for the end of a process, also of one that has ended; also when the shim ends first.
    pub async fn wait(&self, exec_id: &str, deadline: Option<Instant>) -> Answer<Exit> {
        let request = api::WaitRequest {
            id: self.id().to_owned(),
            exec_id: exec_id.to_owned(),
            ..api::WaitRequest::default()
        };
        match self.call::<_, api::WaitResponse>("Wait", request, deadline).await {
            Ok(response) => Ok(Exit {
                id: if exec_id.is_empty() { self.id() } else { exec_id }.to_owned(),
                pid: if exec_id.is_empty() {
                    self.pid.load(Ordering::Relaxed)
                } else {
                    0
                },
                status: response.exit_status,
                exited_at: convert::time(&response.exited_at),
            }),
            Err(Failure::Closed) => {
                let end = self.end().await;
                Ok(if exec_id.is_empty() {
                    end
                } else {
                    Exit {
                        id: exec_id.to_owned(),
                        pid: 0,
                        status: UNKNOWN_STATUS,
                        exited_at: end.exited_at,
                    }
                })
            }
            Err(failure) => Err(failure),
        }
    }

    /// Sends a signal.
    pub async fn kill(&self, exec_id: &str, signal: u32, all: bool, deadline: Option<Instant>) -> Answer<()> {
        let request = api::KillRequest {
            id: self.id().to_owned(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
            ..api::KillRequest::default()
        };
        self.command("Kill", request, deadline).await
    }

    /// Adds a process.
    pub async fn exec(&self, process: ExecProcess, deadline: Option<Instant>) -> Answer<()> {
        let request = api::ExecProcessRequest {
            id: self.id().to_owned(),
            exec_id: process.exec_id,
            terminal: process.stdio.terminal,
            stdin: process.stdio.stdin,
            stdout: process.stdio.stdout,
            stderr: process.stdio.stderr,
            spec: convert::to_any(process.spec),
            ..api::ExecProcessRequest::default()
        };
        self.command("Exec", request, deadline).await
    }

    /// Sets the size of a terminal.
    pub async fn resize_pty(&self, exec_id: &str, width: u32, height: u32, deadline: Option<Instant>) -> Answer<()> {
        let request = api::ResizePtyRequest {
            id: self.id().to_owned(),
            exec_id: exec_id.to_owned(),
            width,
            height,
            ..api::ResizePtyRequest::default()
        };
        self.command("ResizePty", request, deadline).await
    }

    /// Closes the input of a process.
    pub async fn close_stdin(&self, exec_id: &str, deadline: Option<Instant>) -> Answer<()> {
        let request = api::CloseIORequest {
            id: self.id().to_owned(),
            exec_id: exec_id.to_owned(),
            stdin: true,
            ..api::CloseIORequest::default()
        };
        self.command("CloseIO", request, deadline).await
    }

    /// Freezes it.
    pub async fn pause(&self, deadline: Option<Instant>) -> Answer<()> {
        let request = api::PauseRequest {
            id: self.id().to_owned(),
            ..api::PauseRequest::default()
        };
        self.command("Pause", request, deadline).await
    }

    /// Thaws it.
    pub async fn resume(&self, deadline: Option<Instant>) -> Answer<()> {
        let request = api::ResumeRequest {
            id: self.id().to_owned(),
            ..api::ResumeRequest::default()
        };
        self.command("Resume", request, deadline).await
    }

    /// All its pids.
    pub async fn pids(&self, deadline: Option<Instant>) -> Answer<Vec<ProcessInfo>> {
        let request = api::PidsRequest {
            id: self.id().to_owned(),
            ..api::PidsRequest::default()
        };
        let response: api::PidsResponse = self.call("Pids", request, deadline).await?;
        Ok(response.processes.into_iter().map(convert::process_info).collect())
    }

    /// Writes a checkpoint to a directory.
    pub async fn checkpoint(&self, path: String, options: Option<Any>, deadline: Option<Instant>) -> Answer<()> {
        let request = api::CheckpointTaskRequest {
            id: self.id().to_owned(),
            path,
            options: convert::to_any(options),
            ..api::CheckpointTaskRequest::default()
        };
        self.command("Checkpoint", request, deadline).await
    }

    /// Changes its limits.
    pub async fn update(
        &self,
        resources: Option<Any>,
        annotations: impl IntoIterator<Item = (String, String)>,
        deadline: Option<Instant>,
    ) -> Answer<()> {
        let request = api::UpdateTaskRequest {
            id: self.id().to_owned(),
            resources: convert::to_any(resources),
            annotations: annotations.into_iter().collect(),
            ..api::UpdateTaskRequest::default()
        };
        self.command("Update", request, deadline).await
    }

    /// Its metrics, in the runtime's own type.
    pub async fn stats(&self, deadline: Option<Instant>) -> Answer<Option<Any>> {
        let request = api::StatsRequest {
            id: self.id().to_owned(),
            ..api::StatsRequest::default()
        };
        let response: api::StatsResponse = self.call("Stats", request, deadline).await?;
        Ok(convert::from_any(response.stats))
    }
}
