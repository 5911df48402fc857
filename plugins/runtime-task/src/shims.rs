//! The life of tasks and their shims: from nothing to running, and back to nothing, whatever happens in between.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use orlop_plugin::contract::{
    Any, Code, Container, CreateTask, Ctx, Exit, Namespace, ProcessState, validate_identifier,
};
use orlop_plugin::{Error, Host, Result, blocking};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;

use crate::binary::{self, Daemon};
use crate::bootstrap::Bootstrap;
use crate::bundle::Bundle;
use crate::connection::{Connection, Failure};
use crate::table::{Reservation, Table};
use crate::task::Task;
use crate::timeouts::{Timeouts, earlier, ends, within};
use crate::{checkpoint, events, shim_log};

/// All tasks of the daemon, and what it takes to make more.
pub struct Shims {
    /// `ROOT/io.containerd.runtime.v2.task`.
    pub root: PathBuf,
    /// `STATE/io.containerd.runtime.v2.task`.
    pub state: PathBuf,
    /// What shims are told.
    pub daemon: Daemon,
    /// How long they may take.
    pub timeouts: Timeouts,
    /// Containers, events, content.
    pub host: Host,
    /// The tasks.
    pub table: Arc<Table>,
}

// === impl Shims ===

impl Shims {
    /// Makes a task; returns its pid. When that fails, or the caller gives up, nothing of it stays.
    pub async fn create(self: &Arc<Self>, ctx: &Ctx, request: CreateTask) -> Result<u32> {
        let namespace = ctx.namespace()?;
        validate_identifier(&request.container_id)?;
        let container = self.host.containers()?.get(ctx, &request.container_id).await?;
        let reservation = self.table.reserve(namespace.as_str(), &request.container_id).await?;
        // In a task of its own, because the cleaning up must happen also when the caller is gone: then `caller` is dropped unused.
        let (caller, mut gone) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let (shims, ctx) = (self.clone(), ctx.clone());
        tokio::spawn(async move {
            let created = shims
                .create_reserved(&ctx, container, request, reservation, &mut gone)
                .await;
            let task = created.as_ref().ok().map(|(task, _)| task.clone());
            let sent = answer.send(created.map(|(_, pid)| pid)).is_ok();
            if let Some(task) = task
                && !(sent && gone.await.is_ok())
            {
                shims.discard(&task).await;
            }
        });
        let created = answered
            .await
            .unwrap_or_else(|_| Err(Error::internal("the work on the task ended early")));
        // It may have gone already: then it failed, and knows.
        let _ = caller.send(());
        created
    }

    async fn create_reserved(
        self: &Arc<Self>,
        ctx: &Ctx,
        container: Container,
        request: CreateTask,
        reservation: Reservation,
        gone: &mut oneshot::Receiver<()>,
    ) -> Result<(Arc<Task>, u32)> {
        let options = request
            .options
            .clone()
            .filter(|options| !options.value.is_empty())
            .or_else(|| container.runtime.options.clone());
        let restore = checkpoint::restore_path(&container.runtime.name, request.options.as_ref())?;
        let sandbox = match container.sandbox.as_str() {
            "" => None,
            id => Some(
                self.table
                    .get(ctx.namespace()?.as_str(), id)
                    .await
                    .map_err(|error| error.context(format!("find the sandbox {id} of container {}", container.id)))?,
            ),
        };
        let runtime = if request.runtime_path.is_empty() {
            &container.runtime.name
        } else {
            &request.runtime_path
        };
        let (bundle, binary, log) = self.prepare(ctx.namespace()?, &container, runtime.clone()).await?;

        let launch = self.launch(&bundle, binary, options.as_ref(), sandbox.as_deref());
        let (bootstrap, binary, connection) = match unless_gone(gone, ctx.deadline, launch).await {
            Ok(launched) => launched,
            Err(error) => {
                // The log stays open meanwhile: a shim waits for its reader before it listens to anyone.
                self.abandon(&bundle, sandbox.is_some()).await;
                drop(log);
                return Err(error.context(format!("start the shim of task {}", container.id)));
            }
        };
        let task = Arc::new(Task::new(
            bundle.clone(),
            binary,
            bootstrap,
            sandbox.is_some(),
            connection,
            log,
        ));
        // From here on visible: a subscriber to the create event may ask for it before the shim has answered.
        reservation.fill(task.clone());
        self.watch(&task);
        let create = async {
            let restore = match (restore, &request.checkpoint) {
                (None, Some(descriptor)) => checkpoint::fetch(&self.host, ctx, &bundle, descriptor).await?,
                (restore, _) => restore.unwrap_or_default(),
            };
            Ok(task.create(request, options, restore, ctx.deadline).await?)
        }
        .fuse();
        let mut create = std::pin::pin!(create);
        let created = unless_gone(gone, ctx.deadline, create.as_mut()).await;
        if let Err(error) = &created {
            if matches!(error.code, Code::Cancelled | Code::DeadlineExceeded) && !create.is_terminated() {
                // A shim works on several calls at once: it could delete before it has created, and keep the container.
                let _ = within(self.timeouts.cleanup, "the shim's create", create).await;
            }
            self.discard(&task).await;
        }
        match created {
            Ok(pid) => Ok((task.clone(), pid)),
            Err(error) => Err(error.context(format!("create task {}", container.id))),
        }
    }

    async fn prepare(
        &self,
        namespace: &Namespace,
        container: &Container,
        runtime: String,
    ) -> Result<(Bundle, PathBuf, Receiver)> {
        let (root, state) = (self.root.clone(), self.state.clone());
        let (namespace, id, spec) = (namespace.to_string(), container.id.clone(), container.spec.clone());
        blocking(move || {
            let binary = binary::resolve(&runtime)?;
            let bundle = Bundle::create(&root, &state, &namespace, &id, spec.as_ref())?;
            match shim_log::open(&bundle) {
                Ok(log) => Ok((bundle, binary, log)),
                Err(error) => {
                    bundle.delete()?;
                    Err(error)
                }
            }
        })
        .await
    }

    /// Starts a shim, or finds that of the sandbox, and connects to it.
    async fn launch(
        &self,
        bundle: &Bundle,
        binary: PathBuf,
        options: Option<&Any>,
        sandbox: Option<&Task>,
    ) -> Result<(Bootstrap, PathBuf, Connection)> {
        let (bootstrap, binary) = match sandbox {
            Some(sandbox) => (sandbox.bootstrap.clone(), sandbox.binary.clone()),
            None => (binary::start(&self.daemon, &binary, bundle, options).await?, binary),
        };
        let kept = (
            bundle.clone(),
            bootstrap.clone(),
            binary.clone(),
            sandbox.map(|task| task.id().to_owned()),
        );
        blocking(move || {
            let (bundle, bootstrap, binary, sandbox) = kept;
            bundle.save_shim_binary(&binary)?;
            if let Some(sandbox) = sandbox {
                bundle.save_sandbox(&sandbox)?;
            }
            bootstrap.save(&bundle.path)
        })
        .await?;
        let connection = Connection::open(&bootstrap, &bundle.namespace).await?;
        Ok((bootstrap, binary, connection))
    }

    /// Removes what a `start` that failed has left: a shim perhaps, the bundle surely.
    async fn abandon(&self, bundle: &Bundle, sandboxed: bool) {
        if !sandboxed && let Ok(bootstrap) = Bootstrap::load(&bundle.path) {
            let ending = async {
                let connection = Connection::open(&bootstrap, &bundle.namespace).await?;
                let request = containerd_shim_protos::api::ShutdownRequest {
                    id: bundle.id.clone(),
                    ..Default::default()
                };
                let _: containerd_shim_protos::api::Empty = connection
                    .call("Shutdown", &request, ends(self.timeouts.shutdown))
                    .await?;
                Ok::<_, Error>(())
            };
            if let Err(error) = ending.await {
                tracing::debug!(id = bundle.id, %error, "a shim that did not start cannot be asked to end");
            }
        }
        self.delete_bundle(bundle).await;
    }

    /// Removes a task whose creation failed, with its shim.
    async fn discard(&self, task: &Arc<Task>) {
        if !task.begin_removal() {
            task.end().await;
            return;
        }
        let ending = self.table.retire(task);
        match task.delete("", ends(self.timeouts.cleanup)).await {
            Ok(_) => {}
            Err(Failure::Answered(error)) if error.is_not_found() => {}
            Err(_) => {
                self.delete_by_binary(task).await;
            }
        }
        self.remove(task, task.unknown_exit(), ending).await;
    }

    /// Removes a stopped task. `FailedPrecondition` while it runs.
    pub async fn delete(self: &Arc<Self>, task: Arc<Task>, deadline: Option<Instant>) -> Result<Exit> {
        let shims = self.clone();
        // In a task of its own: half a removal is worse than one whose caller is gone.
        joined(tokio::spawn(async move {
            let failure = match task.delete("", deadline).await {
                Ok(exit) => {
                    if task.begin_removal() {
                        let ending = shims.table.retire(&task);
                        shims.remove(&task, exit.clone(), ending).await;
                    }
                    return Ok(exit);
                }
                // Its shim has died: what is left is being removed.
                Err(Failure::Closed) => return Ok(task.end().await),
                Err(Failure::Answered(error)) => error,
            };
            if failure.is_not_found() {
                if task.begin_removal() {
                    let ending = shims.table.retire(&task);
                    shims.remove(&task, task.unknown_exit(), ending).await;
                }
                return Err(failure);
            }
            Err(shims.explain_undeletable(&task, "", failure).await)
        }))
        .await
    }

    /// Says that a process still runs where that is why it cannot be deleted: older shims give no code.
    pub async fn explain_undeletable(&self, task: &Task, exec_id: &str, failure: Error) -> Error {
        match task.state(exec_id, ends(self.timeouts.state)).await {
            Ok(process)
                if matches!(
                    process.state,
                    ProcessState::Running | ProcessState::Paused | ProcessState::Pausing
                ) =>
            {
                Error::failed_precondition(format!(
                    "process {} of task {} must be stopped before it is deleted: {}",
                    process.id,
                    task.id(),
                    failure.message
                ))
            }
            _ => failure,
        }
    }

    /// The last steps of every removal that the shim lives to see: it may end, the bundle goes.
    async fn remove(&self, task: &Arc<Task>, exit: Exit, ending: Option<Reservation>) {
        if !task.sandboxed
            && let Err(error) = task.shutdown(ends(self.timeouts.shutdown)).await
        {
            tracing::warn!(id = task.id(), error = %Error::from(error), "a shim does not shut down");
        }
        // After the shutdown: should the daemon die in between, the next one finds the shim by its bundle.
        self.delete_bundle(&task.bundle).await;
        task.tell_end(exit);
        if task.sandboxed || self.table.serves(&task.bootstrap.address) {
            return;
        }
        // A new task of this name must not meet the old shim while that ends, so its name stays taken.
        let (disconnected, limit) = (task.disconnected(), self.timeouts.shutdown);
        tokio::spawn(async move {
            let ended = within(limit, "the end of a shim", async {
                disconnected.await;
                Ok(())
            });
            let _ = ended.await;
            drop(ending);
        });
    }

    /// Notices when the shim of a task dies.
    pub fn watch(self: &Arc<Self>, task: &Arc<Task>) {
        let (disconnected, task) = (task.disconnected(), Arc::downgrade(task));
        let shims = Arc::downgrade(self);
        tokio::spawn(async move {
            disconnected.await;
            // Neither is there when the plugin was shut down: shims outlive it.
            if let (Some(task), Some(shims)) = (task.upgrade(), shims.upgrade())
                && task.begin_removal()
            {
                tracing::warn!(
                    namespace = task.bundle.namespace,
                    id = task.id(),
                    "a shim has died: cleaning up after it"
                );
                shims.bury(&task).await;
            }
        });
    }

    /// Removes a task whose shim has died, and tells the world.
    async fn bury(&self, task: &Arc<Task>) {
        let exit = self.delete_by_binary(task).await.unwrap_or_else(|| task.unknown_exit());
        self.delete_bundle(&task.bundle).await;
        task.tell_end(exit.clone());
        events::publish_end(&self.host, &task.bundle.namespace, &exit).await;
        drop(self.table.retire(task));
    }

    /// How a task ended, from the shim binary's `delete`; `None` when that fails.
    async fn delete_by_binary(&self, task: &Task) -> Option<Exit> {
        self.run_delete(&task.bundle, &task.binary).await
    }

    /// Runs `delete` of a shim's binary within its limit.
    pub async fn run_delete(&self, bundle: &Bundle, binary: &std::path::Path) -> Option<Exit> {
        let deleting = binary::delete(&self.daemon, binary, bundle);
        within(self.timeouts.cleanup, "the shim's delete", deleting)
            .await
            .inspect_err(|error| {
                tracing::warn!(namespace = bundle.namespace, id = bundle.id, %error, "cannot clean up after a shim");
            })
            .ok()
    }

    /// Removes a bundle; a failure is logged, and tried again when the daemon starts next.
    pub async fn delete_bundle(&self, bundle: &Bundle) {
        let removed = bundle.clone();
        if let Err(error) = blocking(move || removed.delete()).await {
            tracing::error!(namespace = bundle.namespace, id = bundle.id, %error, "cannot remove a bundle");
        }
    }

    /// Lets go of all tasks. They and their shims go on.
    pub fn release(&self) {
        for task in self.table.clear() {
            // Nobody else shall take the end of our connection for a death.
            task.begin_removal();
        }
    }
}

async fn joined<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    task.await
        .unwrap_or_else(|error| Err(Error::internal(format!("the work on the task ended early: {error}"))))
}

/// Does `work` while its caller waits for it.
async fn unless_gone<T>(
    gone: &mut oneshot::Receiver<()>,
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        result = work => result,
        _ = gone => Err(Error::cancelled("the caller has gone away")),
        () = late => Err(Error::deadline_exceeded("the caller's deadline has passed")),
    }
}

/// The deadline of a call about a process's state.
pub fn state_deadline(timeouts: &Timeouts, ctx: &Ctx) -> Option<Instant> {
    earlier(ends(timeouts.state), ctx.deadline)
}
