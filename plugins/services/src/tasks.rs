//! The tasks service: what is checked before a runtime is asked.
//!
//! A runtime looks up the container itself. Asking for it here as well says "no such container" also where there is no runtime, and
//! refuses what no runtime can do.

use std::collections::BTreeMap;

use orlop_plugin::contract::{
    Any, Containers, CreateTask, Ctx, Descriptor, ExecProcess, Exit, Process, ProcessInfo, TaskMetric, Tasks,
    async_trait,
};
use orlop_plugin::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::late::Late;

/// `[plugins."io.containerd.service.v1.tasks-service"]`: containerd's keys.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    blockio_config_file: String,
    rdt_config_file: String,
}

/// Tasks, checked.
pub(crate) struct Checked(pub(crate) Late);

// === impl Config ===

impl Config {
    /// Says which settings do nothing here.
    pub(crate) fn warn(&self) {
        for (key, value) in [
            ("blockio_config_file", &self.blockio_config_file),
            ("rdt_config_file", &self.rdt_config_file),
        ] {
            if !value.is_empty() {
                tracing::warn!(
                    key,
                    file = value,
                    "the tasks service has no such classes: the setting is ignored"
                );
            }
        }
    }
}

// === impl Checked ===

impl Checked {
    async fn container(&self, ctx: &Ctx, id: &str) -> Result<()> {
        if id.is_empty() {
            return Err(Error::invalid_argument("a task needs the id of its container"));
        }
        Containers::get(&self.0, ctx, id).await?;
        Ok(())
    }
}

#[async_trait]
impl Tasks for Checked {
    async fn create(&self, ctx: &Ctx, request: CreateTask) -> Result<u32> {
        self.container(ctx, &request.container_id).await?;
        Tasks::create(&self.0, ctx, request).await
    }

    async fn start(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<u32> {
        self.0.start(ctx, container_id, exec_id).await
    }

    async fn delete(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Exit> {
        Tasks::delete(&self.0, ctx, container_id, exec_id).await
    }

    async fn get(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Process> {
        Tasks::get(&self.0, ctx, container_id, exec_id).await
    }

    async fn list(&self, ctx: &Ctx) -> Result<Vec<Process>> {
        Tasks::list(&self.0, ctx).await
    }

    async fn kill(&self, ctx: &Ctx, container_id: &str, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        self.0.kill(ctx, container_id, exec_id, signal, all).await
    }

    async fn exec(&self, ctx: &Ctx, request: ExecProcess) -> Result<()> {
        if request.exec_id.is_empty() {
            return Err(Error::invalid_argument("exec id cannot be empty"));
        }
        self.0.exec(ctx, request).await
    }

    async fn resize_pty(&self, ctx: &Ctx, container_id: &str, exec_id: &str, width: u32, height: u32) -> Result<()> {
        self.0.resize_pty(ctx, container_id, exec_id, width, height).await
    }

    async fn close_io(&self, ctx: &Ctx, container_id: &str, exec_id: &str, stdin: bool) -> Result<()> {
        self.0.close_io(ctx, container_id, exec_id, stdin).await
    }

    async fn pause(&self, ctx: &Ctx, container_id: &str) -> Result<()> {
        self.0.pause(ctx, container_id).await
    }

    async fn resume(&self, ctx: &Ctx, container_id: &str) -> Result<()> {
        self.0.resume(ctx, container_id).await
    }

    async fn pids(&self, ctx: &Ctx, container_id: &str) -> Result<Vec<ProcessInfo>> {
        self.0.pids(ctx, container_id).await
    }

    async fn checkpoint(
        &self,
        ctx: &Ctx,
        container_id: &str,
        parent: &str,
        options: Option<Any>,
    ) -> Result<Vec<Descriptor>> {
        self.0.checkpoint(ctx, container_id, parent, options).await
    }

    async fn update(
        &self,
        ctx: &Ctx,
        container_id: &str,
        resources: Option<Any>,
        annotations: BTreeMap<String, String>,
    ) -> Result<()> {
        Tasks::update(&self.0, ctx, container_id, resources, annotations).await
    }

    async fn metrics(&self, ctx: &Ctx, filters: &[String]) -> Result<Vec<TaskMetric>> {
        self.0.metrics(ctx, filters).await
    }

    async fn wait(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Exit> {
        self.0.wait(ctx, container_id, exec_id).await
    }
}
