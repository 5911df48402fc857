//! Tasks: containers that run.
//!
//! ```text
//!  create ─▶ Created ── start ─▶ Running ◀─ resume ─ Paused
//!               │                  │ └──── pause ─────▶ ┘
//!               │ kill             │ exits, or is killed
//!               ▼                  ▼
//!            Stopped ◀─────────────┘ ── delete ─▶ (none)
//! ```
//!
//! An exec is a further process of a running task with the same states.

use super::{Any, Ctx, Descriptor, Mount, Result, async_trait};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// Where a process reads and writes: fifo paths or log URIs; empty for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// How a task is created.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CreateTask {
    /// The container it comes from.
    pub container_id: String,
    /// The mounts of its root file system.
    pub rootfs: Vec<Mount>,
    /// Its stdio.
    pub stdio: Stdio,
    /// A checkpoint to restore from.
    pub checkpoint: Option<Descriptor>,
    /// Options of the runtime.
    pub options: Option<Any>,
    /// The shim to use, overriding the one the runtime's name leads to.
    pub runtime_path: String,
}

/// How a process is added to a task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecProcess {
    /// The task.
    pub container_id: String,
    /// The id of the process, unique in the task.
    pub exec_id: String,
    /// Its stdio.
    pub stdio: Stdio,
    /// The OCI process, JSON inside.
    pub spec: Option<Any>,
}

/// Where a process is in its life (`containerd.v1.types.Status`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessState {
    /// Not known, because its shim does not answer.
    #[default]
    Unknown,
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Exited.
    Stopped,
    /// Frozen.
    Paused,
    /// Being frozen.
    Pausing,
}

/// A process of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The task.
    pub container_id: String,
    /// The exec id; for the first process, the task's id.
    pub id: String,
    /// The pid in the daemon's namespace; 0 when it has none.
    pub pid: u32,
    /// Its state.
    pub state: ProcessState,
    /// Its stdio.
    pub stdio: Stdio,
    /// Meaningful when stopped.
    pub exit_status: u32,
    /// When it exited.
    pub exited_at: Option<SystemTime>,
}

/// A pid of a task, with what the runtime says of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessInfo {
    /// The pid.
    pub pid: u32,
    /// The runtime's own information.
    pub info: Option<Any>,
}

/// How a process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// The process, as in [`Process::id`].
    pub id: String,
    /// Its pid; 0 where `wait` crossed a channel, because containerd's answer to it has none.
    pub pid: u32,
    /// 0–255; 128 + signal when a signal ended it; 255 with pid 0 when nobody knows.
    pub status: u32,
    /// When.
    pub exited_at: Option<SystemTime>,
}

/// Metrics of a task, in the runtime's own type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskMetric {
    /// When they were read.
    pub timestamp: Option<SystemTime>,
    /// The task.
    pub id: String,
    /// Cgroup statistics (`io.containerd.cgroups.v1.Metrics`, v2).
    pub data: Option<Any>,
}

/// The tasks of a namespace, as `containerd.services.tasks.v1` describes them. An empty `exec_id` means the first process.
#[async_trait]
pub trait Tasks: Send + Sync + 'static {
    /// Makes a task; returns its pid. `AlreadyExists` when the container has one.
    async fn create(&self, ctx: &Ctx, request: CreateTask) -> Result<u32>;
    /// Starts a process; returns its pid.
    async fn start(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<u32>;
    /// Removes a stopped task, or a stopped process of it. `FailedPrecondition` while it runs.
    async fn delete(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Exit>;
    /// One process.
    async fn get(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Process>;
    /// The first processes of all tasks.
    async fn list(&self, ctx: &Ctx) -> Result<Vec<Process>>;
    /// Sends a signal to a process, or to all of the task.
    async fn kill(&self, ctx: &Ctx, container_id: &str, exec_id: &str, signal: u32, all: bool) -> Result<()>;
    /// Adds a process.
    async fn exec(&self, ctx: &Ctx, request: ExecProcess) -> Result<()>;
    /// Sets the size of a terminal, in characters.
    async fn resize_pty(&self, ctx: &Ctx, container_id: &str, exec_id: &str, width: u32, height: u32) -> Result<()>;
    /// Closes the daemon's end of a process's input.
    async fn close_io(&self, ctx: &Ctx, container_id: &str, exec_id: &str, stdin: bool) -> Result<()>;
    /// Freezes a task.
    async fn pause(&self, ctx: &Ctx, container_id: &str) -> Result<()>;
    /// Thaws a task.
    async fn resume(&self, ctx: &Ctx, container_id: &str) -> Result<()>;
    /// All pids of a task.
    async fn pids(&self, ctx: &Ctx, container_id: &str) -> Result<Vec<ProcessInfo>>;
    /// Writes a checkpoint; returns what it consists of.
    async fn checkpoint(
        &self,
        ctx: &Ctx,
        container_id: &str,
        parent: &str,
        options: Option<Any>,
    ) -> Result<Vec<Descriptor>>;
    /// Changes the limits of a running task.
    async fn update(
        &self,
        ctx: &Ctx,
        container_id: &str,
        resources: Option<Any>,
        annotations: BTreeMap<String, String>,
    ) -> Result<()>;
    /// Metrics of the tasks that match any of `filters` (none: all).
    async fn metrics(&self, ctx: &Ctx, filters: &[String]) -> Result<Vec<TaskMetric>>;
    /// Waits until a process has ended. One that ended before answers at once.
    async fn wait(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Exit>;
}
