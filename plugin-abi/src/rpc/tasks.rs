//! [`Tasks`] as `containerd.services.tasks.v1`.

use std::collections::BTreeMap;
use std::sync::Arc;

use containerd_client::services::v1 as pb;
use containerd_client::types;
use containerd_client::types::v1 as task;

use super::client::{Remote, malformed};
use super::convert::{all, ordered, required, stamp_or_never, time_or_never, try_all, unordered};
use super::server::{Answer, Call, service};
use crate::channel::Channel;
use crate::contract::{
    Any, CreateTask, Ctx, Descriptor, ExecProcess, Exit, Process, ProcessInfo, ProcessState, Stdio, TaskMetric, Tasks,
    async_trait,
};
use crate::{Result, Services};

const NAME: &str = "containerd.services.tasks.v1.Tasks";

/// Serves `tasks`.
pub fn serve(tasks: Arc<dyn Tasks>) -> Services {
    service(NAME, tasks, answer)
}

/// The tasks at the far end of `channel`.
pub fn connect(channel: Channel) -> Arc<dyn Tasks> {
    Arc::new(Far(Remote::new(channel, NAME)))
}

async fn answer(tasks: Arc<dyn Tasks>, mut call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "Create" => {
            let request: pb::CreateTaskRequest = call.message().await?;
            let container_id = request.container_id.clone();
            let pid = tasks.create(&call.ctx, create_task(request)?).await?;
            Answer::one(pb::CreateTaskResponse { container_id, pid })
        }
        "Start" => {
            let pb::StartRequest { container_id, exec_id } = call.message().await?;
            let pid = tasks.start(&call.ctx, &container_id, &exec_id).await?;
            Answer::one(pb::StartResponse { pid })
        }
        "Delete" => {
            let pb::DeleteTaskRequest { container_id } = call.message().await?;
            let exit = tasks.delete(&call.ctx, &container_id, "").await?;
            Answer::one(pb::DeleteResponse::from(exit))
        }
        "DeleteProcess" => {
            let pb::DeleteProcessRequest { container_id, exec_id } = call.message().await?;
            let exit = tasks.delete(&call.ctx, &container_id, &exec_id).await?;
            Answer::one(pb::DeleteResponse::from(exit))
        }
        "Get" => {
            let pb::GetRequest { container_id, exec_id } = call.message().await?;
            let process = tasks.get(&call.ctx, &container_id, &exec_id).await?;
            Answer::one(pb::GetResponse {
                process: Some(process.into()),
            })
        }
        "List" => {
            let pb::ListTasksRequest { .. } = call.message().await?;
            let tasks = all(tasks.list(&call.ctx).await?);
            Answer::one(pb::ListTasksResponse { tasks })
        }
        "Kill" => {
            let request: pb::KillRequest = call.message().await?;
            tasks
                .kill(
                    &call.ctx,
                    &request.container_id,
                    &request.exec_id,
                    request.signal,
                    request.all,
                )
                .await
                .and_then(Answer::empty)
        }
        "Exec" => {
            let request: pb::ExecProcessRequest = call.message().await?;
            tasks.exec(&call.ctx, request.into()).await.and_then(Answer::empty)
        }
        "ResizePty" => {
            let request: pb::ResizePtyRequest = call.message().await?;
            let (width, height) = (request.width, request.height);
            tasks
                .resize_pty(&call.ctx, &request.container_id, &request.exec_id, width, height)
                .await
                .and_then(Answer::empty)
        }
        "CloseIO" => {
            let request: pb::CloseIoRequest = call.message().await?;
            tasks
                .close_io(&call.ctx, &request.container_id, &request.exec_id, request.stdin)
                .await
                .and_then(Answer::empty)
        }
        "Pause" => {
            let pb::PauseTaskRequest { container_id } = call.message().await?;
            tasks.pause(&call.ctx, &container_id).await.and_then(Answer::empty)
        }
        "Resume" => {
            let pb::ResumeTaskRequest { container_id } = call.message().await?;
            tasks.resume(&call.ctx, &container_id).await.and_then(Answer::empty)
        }
        "ListPids" => {
            let pb::ListPidsRequest { container_id } = call.message().await?;
            let processes = all(tasks.pids(&call.ctx, &container_id).await?);
            Answer::one(pb::ListPidsResponse { processes })
        }
        "Checkpoint" => {
            let request: pb::CheckpointTaskRequest = call.message().await?;
            let descriptors = tasks
                .checkpoint(
                    &call.ctx,
                    &request.container_id,
                    &request.parent_checkpoint,
                    request.options,
                )
                .await?;
            Answer::one(pb::CheckpointTaskResponse {
                descriptors: all(descriptors),
            })
        }
        "Update" => {
            let request: pb::UpdateTaskRequest = call.message().await?;
            let annotations = ordered(request.annotations);
            tasks
                .update(&call.ctx, &request.container_id, request.resources, annotations)
                .await
                .and_then(Answer::empty)
        }
        "Metrics" => {
            let pb::MetricsRequest { filters } = call.message().await?;
            let metrics = all(tasks.metrics(&call.ctx, &filters).await?);
            Answer::one(pb::MetricsResponse { metrics })
        }
        "Wait" => {
            let pb::WaitRequest { container_id, exec_id } = call.message().await?;
            let exit = tasks.wait(&call.ctx, &container_id, &exec_id).await?;
            Answer::one(pb::WaitResponse {
                exit_status: exit.status,
                exited_at: stamp_or_never(exit.exited_at),
            })
        }
        _ => call.unknown(),
    }
}

fn create_task(request: pb::CreateTaskRequest) -> Result<CreateTask> {
    // A client without a checkpoint may send an empty one.
    let checkpoint = request.checkpoint.filter(|checkpoint| !checkpoint.digest.is_empty());
    Ok(CreateTask {
        container_id: request.container_id,
        rootfs: all(request.rootfs),
        stdio: Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        },
        checkpoint: checkpoint.map(TryInto::try_into).transpose()?,
        options: request.options,
        runtime_path: request.runtime_path,
    })
}

struct Far(Remote);

#[async_trait]
impl Tasks for Far {
    async fn create(&self, ctx: &Ctx, request: CreateTask) -> Result<u32> {
        let request = pb::CreateTaskRequest {
            container_id: request.container_id,
            rootfs: all(request.rootfs),
            stdin: request.stdio.stdin,
            stdout: request.stdio.stdout,
            stderr: request.stdio.stderr,
            terminal: request.stdio.terminal,
            checkpoint: request.checkpoint.map(Into::into),
            options: request.options,
            runtime_path: request.runtime_path,
        };
        let answer: pb::CreateTaskResponse = self.0.unary(ctx, "Create", request).await?;
        Ok(answer.pid)
    }

    async fn start(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<u32> {
        let request = pb::StartRequest {
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
        };
        let answer: pb::StartResponse = self.0.unary(ctx, "Start", request).await?;
        Ok(answer.pid)
    }

    async fn delete(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Exit> {
        let container_id = container_id.to_owned();
        let answer: pb::DeleteResponse = if exec_id.is_empty() {
            let request = pb::DeleteTaskRequest { container_id };
            self.0.unary(ctx, "Delete", request).await?
        } else {
            let exec_id = exec_id.to_owned();
            let request = pb::DeleteProcessRequest { container_id, exec_id };
            self.0.unary(ctx, "DeleteProcess", request).await?
        };
        Ok(answer.into())
    }

    async fn get(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Process> {
        let request = pb::GetRequest {
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
        };
        let answer: pb::GetResponse = self.0.unary(ctx, "Get", request).await?;
        Ok(required(answer.process, "the process").map_err(malformed)?.into())
    }

    async fn list(&self, ctx: &Ctx) -> Result<Vec<Process>> {
        let request = pb::ListTasksRequest::default();
        let answer: pb::ListTasksResponse = self.0.unary(ctx, "List", request).await?;
        Ok(all(answer.tasks))
    }

    async fn kill(&self, ctx: &Ctx, container_id: &str, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let request = pb::KillRequest {
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
        };
        self.0.unary(ctx, "Kill", request).await
    }

    async fn exec(&self, ctx: &Ctx, request: ExecProcess) -> Result<()> {
        let request = pb::ExecProcessRequest {
            container_id: request.container_id,
            stdin: request.stdio.stdin,
            stdout: request.stdio.stdout,
            stderr: request.stdio.stderr,
            terminal: request.stdio.terminal,
            spec: request.spec,
            exec_id: request.exec_id,
        };
        self.0.unary(ctx, "Exec", request).await
    }

    async fn resize_pty(&self, ctx: &Ctx, container_id: &str, exec_id: &str, width: u32, height: u32) -> Result<()> {
        let request = pb::ResizePtyRequest {
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
            width,
            height,
        };
        self.0.unary(ctx, "ResizePty", request).await
    }

    async fn close_io(&self, ctx: &Ctx, container_id: &str, exec_id: &str, stdin: bool) -> Result<()> {
        let request = pb::CloseIoRequest {
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
            stdin,
        };
        self.0.unary(ctx, "CloseIO", request).await
    }

    async fn pause(&self, ctx: &Ctx, container_id: &str) -> Result<()> {
        let container_id = container_id.to_owned();
        self.0.unary(ctx, "Pause", pb::PauseTaskRequest { container_id }).await
    }

    async fn resume(&self, ctx: &Ctx, container_id: &str) -> Result<()> {
        let container_id = container_id.to_owned();
        self.0
            .unary(ctx, "Resume", pb::ResumeTaskRequest { container_id })
            .await
    }

    async fn pids(&self, ctx: &Ctx, container_id: &str) -> Result<Vec<ProcessInfo>> {
        let container_id = container_id.to_owned();
        let request = pb::ListPidsRequest { container_id };
        let answer: pb::ListPidsResponse = self.0.unary(ctx, "ListPids", request).await?;
        Ok(all(answer.processes))
    }

    async fn checkpoint(
        &self,
        ctx: &Ctx,
        container_id: &str,
        parent: &str,
        options: Option<Any>,
    ) -> Result<Vec<Descriptor>> {
        let request = pb::CheckpointTaskRequest {
            container_id: container_id.to_owned(),
            parent_checkpoint: parent.to_owned(),
            options,
        };
        let answer: pb::CheckpointTaskResponse = self.0.unary(ctx, "Checkpoint", request).await?;
        try_all(answer.descriptors).map_err(malformed)
    }

    async fn update(
        &self,
        ctx: &Ctx,
        container_id: &str,
        resources: Option<Any>,
        annotations: BTreeMap<String, String>,
    ) -> Result<()> {
        let request = pb::UpdateTaskRequest {
            container_id: container_id.to_owned(),
            resources,
            annotations: unordered(annotations),
        };
        self.0.unary(ctx, "Update", request).await
    }

    async fn metrics(&self, ctx: &Ctx, filters: &[String]) -> Result<Vec<TaskMetric>> {
        let filters = filters.to_vec();
        let answer: pb::MetricsResponse = self.0.unary(ctx, "Metrics", pb::MetricsRequest { filters }).await?;
        Ok(all(answer.metrics))
    }

    async fn wait(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Exit> {
        let request = pb::WaitRequest {
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
        };
        let answer: pb::WaitResponse = self.0.unary(ctx, "Wait", request).await?;
        Ok(Exit {
            id: if exec_id.is_empty() { container_id } else { exec_id }.to_owned(),
            pid: 0,
            status: answer.exit_status,
            exited_at: time_or_never(answer.exited_at),
        })
    }
}

impl From<pb::ExecProcessRequest> for ExecProcess {
    fn from(request: pb::ExecProcessRequest) -> Self {
        Self {
            container_id: request.container_id,
            exec_id: request.exec_id,
            stdio: Stdio {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            spec: request.spec,
        }
    }
}

impl From<Exit> for pb::DeleteResponse {
    fn from(exit: Exit) -> Self {
        Self {
            id: exit.id,
            pid: exit.pid,
            exit_status: exit.status,
            exited_at: stamp_or_never(exit.exited_at),
        }
    }
}

impl From<pb::DeleteResponse> for Exit {
    fn from(answer: pb::DeleteResponse) -> Self {
        Self {
            id: answer.id,
            pid: answer.pid,
            status: answer.exit_status,
            exited_at: time_or_never(answer.exited_at),
        }
    }
}

impl From<Process> for task::Process {
    fn from(process: Process) -> Self {
        let status = match process.state {
            ProcessState::Unknown => task::Status::Unknown,
            ProcessState::Created => task::Status::Created,
            ProcessState::Running => task::Status::Running,
            ProcessState::Stopped => task::Status::Stopped,
            ProcessState::Paused => task::Status::Paused,
            ProcessState::Pausing => task::Status::Pausing,
        };
        Self {
            container_id: process.container_id,
            id: process.id,
            pid: process.pid,
            status: status.into(),
            stdin: process.stdio.stdin,
            stdout: process.stdio.stdout,
            stderr: process.stdio.stderr,
            terminal: process.stdio.terminal,
            exit_status: process.exit_status,
            exited_at: stamp_or_never(process.exited_at),
        }
    }
}

impl From<task::Process> for Process {
    fn from(process: task::Process) -> Self {
        let state = match process.status() {
            task::Status::Unknown => ProcessState::Unknown,
            task::Status::Created => ProcessState::Created,
            task::Status::Running => ProcessState::Running,
            task::Status::Stopped => ProcessState::Stopped,
            task::Status::Paused => ProcessState::Paused,
            task::Status::Pausing => ProcessState::Pausing,
        };
        Self {
            container_id: process.container_id,
            id: process.id,
            pid: process.pid,
            state,
            stdio: Stdio {
                stdin: process.stdin,
                stdout: process.stdout,
                stderr: process.stderr,
                terminal: process.terminal,
            },
            exit_status: process.exit_status,
            exited_at: time_or_never(process.exited_at),
        }
    }
}

impl From<ProcessInfo> for task::ProcessInfo {
    fn from(process: ProcessInfo) -> Self {
        Self {
            pid: process.pid,
            info: process.info,
        }
    }
}

impl From<task::ProcessInfo> for ProcessInfo {
    fn from(process: task::ProcessInfo) -> Self {
        Self {
            pid: process.pid,
            info: process.info,
        }
    }
}

impl From<TaskMetric> for types::Metric {
    fn from(metric: TaskMetric) -> Self {
        Self {
            timestamp: stamp_or_never(metric.timestamp),
            id: metric.id,
            data: metric.data,
        }
    }
}

impl From<types::Metric> for TaskMetric {
    fn from(metric: types::Metric) -> Self {
        Self {
            timestamp: time_or_never(metric.timestamp),
            id: metric.id,
            data: metric.data,
        }
    }
}
