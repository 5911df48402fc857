//! The task service, version 2 and 3: requests become calls of containers, and what happens becomes events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use containerd_shim_protos::api::*;
use containerd_shim_protos::events::task::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::Task;
use tokio::sync::Notify;
use ttrpc::asynchronous::TtrpcContext;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::process::{Phase, Process};
use crate::publisher::{Publisher, timestamp};
use crate::reaper::{Exit, Reaper};
use crate::stats;

/// The containers of one shim.
pub struct Shim {
    pub namespace: String,
    pub reaper: Arc<Reaper>,
    pub publisher: Arc<Publisher>,
    /// Told when the shim is to end.
    pub shutdown: Notify,
    containers: Mutex<HashMap<String, Arc<Container>>>,
}

/// The task service over a [`Shim`].
pub struct Service(pub Arc<Shim>);

// === impl Shim ===

impl Shim {
    pub fn new(namespace: &str, reaper: Arc<Reaper>, publisher: Arc<Publisher>) -> Arc<Self> {
        Arc::new(Self {
            namespace: namespace.to_owned(),
            reaper,
            publisher,
            shutdown: Notify::new(),
            containers: Mutex::default(),
        })
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.containers().get(id).cloned();
        container.ok_or_else(|| Error::not_found("container not created"))
    }

    /// Tells the end of the first process when it comes, after the ends of all others.
    fn watch_init(self: &Arc<Self>, container: Arc<Container>) {
        let (shim, ended) = (self.clone(), self.reaper.expect(container.init.pid()));
        tokio::spawn(async move {
            let Ok(exit) = ended.await else { return };
            let order = container.order.lock().await;
            container.end_others(&shim.reaper).await;
            shim.tell_exit(&container, &container.init, exit);
            drop(order);
        });
    }

    fn watch_exec(self: &Arc<Self>, container: Arc<Container>, process: Arc<Process>) {
        let (shim, ended) = (self.clone(), self.reaper.expect(process.pid()));
        tokio::spawn(async move {
            if let Ok(exit) = ended.await {
                shim.tell_exit(&container, &process, exit);
            }
        });
    }

    fn tell_exit(&self, container: &Container, process: &Process, exit: Exit) {
        process.ended(exit);
        let id = if process.exec_id.is_empty() {
            &container.id
        } else {
            &process.exec_id
        };
        let event = TaskExit {
            container_id: container.id.clone(),
            id: id.clone(),
            pid: process.pid() as u32,
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)).into(),
            ..TaskExit::default()
        };
        self.publisher.publish("/tasks/exit", "TaskExit", &event);
    }

    fn watch_oom(self: &Arc<Self>, container: &Arc<Container>) {
        let watch = container.cgroup().and_then(|cgroup| {
            cgroup
                .oom_watch()
                .map_err(|error| Error::io("watch for the OOM killer", error))
        });
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(error) => {
                // One that has ended already has no cgroup any more.
                if container.init.phase() != Phase::Stopped {
                    crate::log("debug", &format!("{}: {error}", container.id));
                }
                return;
            }
        };
        let (publisher, id) = (self.publisher.clone(), container.id.clone());
        let task = tokio::spawn(async move {
            while watch.next().await {
                let event = TaskOOM {
                    container_id: id.clone(),
                    ..TaskOOM::default()
                };
                publisher.publish("/tasks/oom", "TaskOOM", &event);
            }
        });
        container.set_oom_watch(task.abort_handle());
    }

    async fn create(self: &Arc<Self>, request: CreateTaskRequest) -> Result<CreateTaskResponse> {
        if self.containers().contains_key(&request.id) {
            return Err(Error::new(
                ttrpc::Code::ALREADY_EXISTS,
                format!("container {} is there already", request.id),
            ));
        }
        let starting = self.reaper.starting();
        let container = Arc::new(Container::create(&self.reaper, &self.namespace, &request).await?);
        let pid = container.init.pid() as u32;
        self.containers().insert(request.id.clone(), container.clone());
        let io = TaskIO {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
            ..TaskIO::default()
        };
        let mut event = TaskCreate {
            container_id: request.id,
            bundle: request.bundle,
            io: Some(io).into(),
            checkpoint: request.checkpoint,
            pid,
            ..TaskCreate::default()
        };
        // The event's own type of mount has no public name.
        event.rootfs.resize_with(request.rootfs.len(), Default::default);
        for (told, mount) in event.rootfs.iter_mut().zip(request.rootfs) {
            told.type_ = mount.type_;
            told.source = mount.source;
            told.target = mount.target;
            told.options = mount.options;
        }
        self.publisher.publish("/tasks/create", "TaskCreate", &event);
        if pid > 0 {
            self.watch_init(container);
        }
        drop(starting);
        Ok(CreateTaskResponse {
            pid,
            ..CreateTaskResponse::default()
        })
    }

    async fn start(self: &Arc<Self>, request: StartRequest) -> Result<StartResponse> {
        let container = self.container(&request.id)?;
        let starting = self.reaper.starting();
        let pid = if request.exec_id.is_empty() {
            let order = container.order.lock().await;
            self.watch_oom(&container);
            container.start(&self.reaper).await?;
            let event = TaskStart {
                container_id: request.id,
                pid: container.init.pid() as u32,
                ..TaskStart::default()
            };
            self.publisher.publish("/tasks/start", "TaskStart", &event);
            drop(order);
            if container.is_checkpoint() {
                self.watch_oom(&container);
                self.watch_init(container.clone());
            }
            container.init.pid()
        } else {
            let process = container.start_exec(&self.reaper, &request.exec_id).await?;
            let event = TaskExecStarted {
                container_id: request.id,
                exec_id: request.exec_id,
                pid: process.pid() as u32,
                ..TaskExecStarted::default()
            };
            self.publisher.publish("/tasks/exec-started", "TaskExecStarted", &event);
            let pid = process.pid();
            self.watch_exec(container, process);
            pid
        };
        drop(starting);
        Ok(StartResponse {
            pid: pid as u32,
            ..StartResponse::default()
        })
    }

    async fn delete(&self, request: DeleteRequest) -> Result<DeleteResponse> {
        let container = self.container(&request.id)?;
        let process = if request.exec_id.is_empty() {
            container.delete(&self.reaper).await?;
            self.containers().remove(&request.id);
            container.init.clone()
        } else {
            container.delete_exec(&request.exec_id).await?
        };
        let exit = process.exit();
        let (pid, exit_status) = (process.pid() as u32, exit.map_or(0, |exit| exit.status));
        let exited_at = exit.map(|exit| timestamp(exit.at));
        if request.exec_id.is_empty() {
            let event = TaskDelete {
                container_id: request.id,
                pid,
                exit_status,
                exited_at: exited_at.clone().into(),
                ..TaskDelete::default()
            };
            self.publisher.publish("/tasks/delete", "TaskDelete", &event);
        }
        Ok(DeleteResponse {
            pid,
            exit_status,
            exited_at: exited_at.into(),
            ..DeleteResponse::default()
        })
    }

    fn state(&self, request: &StateRequest) -> Result<StateResponse> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let exit = process.exit();
        let id = if process.exec_id.is_empty() {
            &container.id
        } else {
            &process.exec_id
        };
        Ok(StateResponse {
            id: id.clone(),
            bundle: container.bundle.display().to_string(),
            pid: process.pid() as u32,
            status: container.phase(&process).status().into(),
            stdin: process.streams.stdin.clone(),
            stdout: process.streams.stdout.clone(),
            stderr: process.streams.stderr.clone(),
            terminal: process.streams.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| timestamp(exit.at)).into(),
            exec_id: process.exec_id.clone(),
            ..StateResponse::default()
        })
    }

    fn pids(&self, id: &str) -> Result<PidsResponse> {
        let container = self.container(id)?;
        let pids = container.cgroup()?.processes();
        let pids = pids.map_err(|error| Error::io(format!("list the processes of {id}"), error))?;
        let added = container.added();
        let processes = pids.into_iter().map(|pid| {
            let exec = added.iter().find(|process| process.pid() as u32 == pid);
            let details = exec.map(|process| ProcessDetails {
                exec_id: process.exec_id.clone(),
                ..ProcessDetails::default()
            });
            ProcessInfo {
                pid,
                info: details
                    .and_then(|details| any("containerd.runc.v1.ProcessDetails", &details))
                    .into(),
                ..ProcessInfo::default()
            }
        });
        Ok(PidsResponse {
            processes: processes.collect(),
            ..PidsResponse::default()
        })
    }
}

fn any(kind: &str, message: &impl Message) -> Option<Any> {
    Some(Any {
        type_url: kind.to_owned(),
        value: message.write_to_bytes().ok()?,
        ..Any::default()
    })
}

// === impl Service ===

#[async_trait]
impl Task for Service {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        Ok(self.0.state(&request)?)
    }

    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> ttrpc::Result<CreateTaskResponse> {
        Ok(self.0.create(request).await?)
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        Ok(self.0.start(request).await?)
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        Ok(self.0.delete(request).await?)
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        Ok(self.0.pids(&request.id)?)
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        self.0.container(&request.id)?.pause(&self.0.reaper).await?;
        let event = TaskPaused {
            container_id: request.id,
            ..TaskPaused::default()
        };
        self.0.publisher.publish("/tasks/paused", "TaskPaused", &event);
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        self.0.container(&request.id)?.resume(&self.0.reaper).await?;
        let event = TaskResumed {
            container_id: request.id,
            ..TaskResumed::default()
        };
        self.0.publisher.publish("/tasks/resumed", "TaskResumed", &event);
        Ok(Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, request: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        self.0
            .container(&request.id)?
            .checkpoint(&self.0.reaper, &request)
            .await?;
        let event = TaskCheckpointed {
            container_id: request.id,
            checkpoint: request.path,
            ..TaskCheckpointed::default()
        };
        self.0
            .publisher
            .publish("/tasks/checkpointed", "TaskCheckpointed", &event);
        Ok(Empty::default())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let container = self.0.container(&request.id)?;
        container
            .kill(&self.0.reaper, &request.exec_id, request.signal, request.all)
            .await?;
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        self.0.container(&request.id)?.add_exec(&request)?;
        let event = TaskExecAdded {
            container_id: request.id,
            exec_id: request.exec_id,
            ..TaskExecAdded::default()
        };
        self.0.publisher.publish("/tasks/exec-added", "TaskExecAdded", &event);
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let process = self.0.container(&request.id)?.process(&request.exec_id)?;
        process.resize(request.width, request.height)?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        self.0.container(&request.id)?.process(&request.exec_id)?.close_input();
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let container = self.0.container(&request.id)?;
        container.update(&self.0.reaper, &request.resources.value).await?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let exit = self.0.container(&request.id)?.process(&request.exec_id)?.wait().await?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)).into(),
            ..WaitResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let cgroup = self.0.container(&request.id)?.cgroup()?;
        Ok(StatsResponse {
            stats: Some(stats::read(&cgroup)?).into(),
            ..StatsResponse::default()
        })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        // A shim whose container is not created yet can be asked too.
        let pid = self
            .0
            .container(&request.id)
            .map_or(0, |container| container.init.pid());
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pid as u32,
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        if self.0.containers().is_empty() {
            self.0.shutdown.notify_one();
        }
        Ok(Empty::default())
    }
}
