//! The contract: requests come in with a container's id, and go to its shim.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::join_all;
use orlop_plugin::contract::{
    Any, CreateTask, Ctx, Descriptor, ExecProcess, Exit, Process, ProcessInfo, ProcessState, TaskMetric, Tasks,
    async_trait, validate_identifier,
};
use orlop_plugin::filter::Filters;
use orlop_plugin::{Error, Result};

use crate::checkpoint;
use crate::connection::Failure;
use crate::shims::{Shims, state_deadline};
use crate::task::Task;
use crate::timeouts::{earlier, ends};

/// The tasks, as the daemon offers them.
pub struct TaskService(pub Arc<Shims>);

// === impl TaskService ===

impl TaskService {
    async fn task(&self, ctx: &Ctx, id: &str) -> Result<Arc<Task>> {
        self.0.table.get(ctx.namespace()?.as_str(), id).await
    }

    /// A process; one whose shim does not answer is there all the same, in a state nobody knows.
    async fn process(&self, ctx: &Ctx, task: &Task, exec_id: &str) -> Result<Process> {
        match task.state(exec_id, state_deadline(&self.0.timeouts, ctx)).await {
            Ok(process) => Ok(process),
            Err(Failure::Closed) => Err(Error::not_found(format!(
                "task {}: not found: its shim has ended",
                task.id()
            ))),
            Err(Failure::Answered(error)) if error.is_not_found() => Err(error),
            Err(Failure::Answered(error)) => {
                tracing::warn!(id = task.id(), exec_id, %error, "a shim does not tell the state of a process");
                Ok(Process {
                    container_id: task.id().to_owned(),
                    id: if exec_id.is_empty() { task.id() } else { exec_id }.to_owned(),
                    state: ProcessState::Unknown,
                    ..Process::default()
                })
            }
        }
    }
}

#[async_trait]
impl Tasks for TaskService {
    async fn create(&self, ctx: &Ctx, request: CreateTask) -> Result<u32> {
        self.0.create(ctx, request).await
    }

    async fn start(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<u32> {
        Ok(self.task(ctx, container_id).await?.start(exec_id, ctx.deadline).await?)
    }

    async fn delete(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Exit> {
        let task = self.task(ctx, container_id).await?;
        if exec_id.is_empty() {
            return self.0.delete(task, ctx.deadline).await;
        }
        match task.delete(exec_id, ctx.deadline).await {
            Ok(exit) => Ok(exit),
            Err(Failure::Answered(error)) if !error.is_not_found() => {
                Err(self.0.explain_undeletable(&task, exec_id, error).await)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn get(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Process> {
        let task = self.task(ctx, container_id).await?;
        self.process(ctx, &task, exec_id).await
    }

    async fn list(&self, ctx: &Ctx) -> Result<Vec<Process>> {
        let tasks = self.0.table.list(ctx.namespace()?.as_str()).await;
        let processes = join_all(tasks.iter().map(|task| self.process(ctx, task, ""))).await;
        // One that was deleted meanwhile is none.
        Ok(processes.into_iter().filter_map(Result::ok).collect())
    }

    async fn kill(&self, ctx: &Ctx, container_id: &str, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        // A signal to an exec is never one to all of the task.
        let all = all && exec_id.is_empty();
        Ok(self
            .task(ctx, container_id)
            .await?
            .kill(exec_id, signal, all, ctx.deadline)
            .await?)
    }

    async fn exec(&self, ctx: &Ctx, request: ExecProcess) -> Result<()> {
        validate_identifier(&request.exec_id).map_err(|error| Error::from(error).context("exec id"))?;
        let task = self.task(ctx, &request.container_id).await?;
        Ok(task.exec(request, ctx.deadline).await?)
    }

    async fn resize_pty(&self, ctx: &Ctx, container_id: &str, exec_id: &str, width: u32, height: u32) -> Result<()> {
        let task = self.task(ctx, container_id).await?;
        Ok(task.resize_pty(exec_id, width, height, ctx.deadline).await?)
    }

    async fn close_io(&self, ctx: &Ctx, container_id: &str, exec_id: &str, stdin: bool) -> Result<()> {
        let task = self.task(ctx, container_id).await?;
        if stdin {
            task.close_stdin(exec_id, ctx.deadline).await?;
        }
        Ok(())
    }

    async fn pause(&self, ctx: &Ctx, container_id: &str) -> Result<()> {
        Ok(self.task(ctx, container_id).await?.pause(ctx.deadline).await?)
    }

    async fn resume(&self, ctx: &Ctx, container_id: &str) -> Result<()> {
        Ok(self.task(ctx, container_id).await?.resume(ctx.deadline).await?)
    }

    async fn pids(&self, ctx: &Ctx, container_id: &str) -> Result<Vec<ProcessInfo>> {
        Ok(self.task(ctx, container_id).await?.pids(ctx.deadline).await?)
    }

    async fn checkpoint(
        &self,
        ctx: &Ctx,
        container_id: &str,
        _parent: &str,
        options: Option<Any>,
    ) -> Result<Vec<Descriptor>> {
        let container = self.0.host.containers()?.get(ctx, container_id).await?;
        let task = self.task(ctx, container_id).await?;
        if let Some(path) = checkpoint::image_path(&container.runtime.name, options.as_ref())? {
            // The caller has a place for it: nothing to store.
            task.checkpoint(path, options, ctx.deadline).await?;
            return Ok(Vec::new());
        }
        let dir = checkpoint::scratch(&task.bundle).await?;
        let path = dir.path().to_string_lossy().into_owned();
        task.checkpoint(path, options, ctx.deadline).await?;
        let stored = checkpoint::store(&self.0.host, ctx, &dir, container.spec).await;
        // Removing many files blocks.
        tokio::task::spawn_blocking(move || drop(dir));
        stored
    }

    async fn update(
        &self,
        ctx: &Ctx,
        container_id: &str,
        resources: Option<Any>,
        annotations: BTreeMap<String, String>,
    ) -> Result<()> {
        let task = self.task(ctx, container_id).await?;
        Ok(task.update(resources, annotations, ctx.deadline).await?)
    }

    async fn metrics(&self, ctx: &Ctx, filters: &[String]) -> Result<Vec<TaskMetric>> {
        let filters = Filters::parse(filters)?;
        let tasks = self.0.table.list(ctx.namespace()?.as_str()).await;
        let wanted = tasks.iter().filter(|task| {
            filters.matches(|path| match path {
                ["id"] => Some(task.id()),
                ["namespace"] => Some(task.bundle.namespace.as_str()),
                _ => None,
            })
        });
        let deadline = earlier(ends(self.0.timeouts.stats), ctx.deadline);
        let measured = join_all(wanted.map(async |task| match task.stats(deadline).await {
            Ok(data) => Some(TaskMetric {
                timestamp: Some(SystemTime::now()),
                id: task.id().to_owned(),
                data,
            }),
            Err(Failure::Closed) => None,
            Err(Failure::Answered(error)) if error.is_not_found() => None,
            Err(Failure::Answered(error)) => {
                tracing::warn!(id = task.id(), %error, "a shim does not tell the metrics of its task");
                None
            }
        }));
        Ok(measured.await.into_iter().flatten().collect())
    }

    async fn wait(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Exit> {
        Ok(self.task(ctx, container_id).await?.wait(exec_id, ctx.deadline).await?)
    }
}
