//! A container: its runtime's commands, its first process and the ones that `exec` added.

mod checkpoint;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::{CreateTaskRequest, ExecProcessRequest, Mount};
use serde::Deserialize;
use tokio::task::AbortHandle;
use ttrpc::Code;

use crate::cgroup::Cgroup;
use crate::console::ConsoleSocket;
use crate::error::{Error, Result};
use crate::mount;
use crate::options::Options;
use crate::process::{Phase, Process};
use crate::reaper::{Exit, Reaper};
use crate::runtime::{Runtime, flag, kill_error, read_pid};
use crate::stdio::{self, Owner, Streams};

/// How long the end of a container that was created and never started may take.
const KILLED: Duration = Duration::from_secs(5);

pub struct Container {
    pub id: String,
    pub bundle: PathBuf,
    pub init: Arc<Process>,
    /// The start of the first process is told before its end: `start` holds it, and so does who tells the end.
    pub order: tokio::sync::Mutex<()>,
    namespace: String,
    runtime: Runtime,
    options: Options,
    mounts: Vec<Mount>,
    /// It has no pid namespace of its own: the kernel does not end its processes with the first.
    shares_pids: bool,
    execs: Mutex<HashMap<String, Exec>>,
    cgroup: Mutex<Option<Cgroup>>,
    oom: Mutex<Option<AbortHandle>>,
    /// The images of a checkpoint that `start` restores, and their parent's.
    restore: Option<(String, String)>,
}

#[derive(Clone)]
struct Exec {
    process: Arc<Process>,
    /// The OCI process, as JSON.
    spec: Arc<[u8]>,
}

// === impl Container ===

impl Container {
    /// Mounts the root file system and has the runtime create the container; for a checkpoint that waits for `start`.
    pub async fn create(reaper: &Reaper, namespace: &str, request: &CreateTaskRequest) -> Result<Self> {
        let bundle = PathBuf::from(&request.bundle);
        let options = Options::from_any(request.options.as_ref())?;
        options.save(&bundle)?;
        let streams = Streams {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let restore =
            (!request.checkpoint.is_empty()).then(|| (request.checkpoint.clone(), request.parent_checkpoint.clone()));
        let container = Self {
            id: request.id.clone(),
            init: Arc::new(Process::new("", streams)),
            order: tokio::sync::Mutex::default(),
            namespace: namespace.to_owned(),
            runtime: Runtime::new(&options, namespace, &bundle),
            options,
            mounts: request.rootfs.clone(),
            shares_pids: shares_pids(&bundle),
            execs: Mutex::default(),
            cgroup: Mutex::default(),
            oom: Mutex::default(),
            restore,
            bundle,
        };
        let created = container.mount_and_create(reaper).await;
        if created.is_err() {
            // The first error is the one to tell.
            let _ = container.unmount();
        }
        created.map(|()| container)
    }

    async fn mount_and_create(&self, reaper: &Reaper) -> Result<()> {
        if !self.mounts.is_empty() {
            let rootfs = self.rootfs();
            match std::fs::create_dir(&rootfs) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::io(format!("make {}", rootfs.display()), error));
                }
                _ => {}
            }
            mount::mount_all(reaper, &self.mounts, &rootfs).await?;
        }
        if self.restore.is_some() {
            return Ok(());
        }
        let mut command = self.runtime.command("create");
        command.arg("--bundle").arg(&self.bundle);
        flag(&mut command, self.options.no_pivot_root, "--no-pivot");
        flag(&mut command, self.options.no_new_keyring, "--no-new-keyring");
        self.launch(
            reaper,
            &self.init,
            command,
            &self.pid_file(),
            "OCI runtime create failed",
        )
        .await?;
        self.find_cgroup();
        Ok(())
    }

    /// Runs a command that makes a process of this container, with its streams, and learns its pid.
    async fn launch(
        &self,
        reaper: &Reaper,
        process: &Process,
        mut command: Command,
        pid_file: &Path,
        failed: &str,
    ) -> Result<()> {
        let owner = Owner {
            namespace: &self.namespace,
            id: if process.exec_id.is_empty() {
                &self.id
            } else {
                &process.exec_id
            },
            uid: self.options.io_uid,
            gid: self.options.io_gid,
        };
        let streams = &process.streams;
        command.arg("--pid-file").arg(pid_file);
        let wrap = |error: Error| Error::new(error.code, format!("{failed}: {}", error.message));
        if streams.terminal {
            let socket = ConsoleSocket::new(&self.bundle, &process.exec_id)?;
            command.args(["--console-socket", &socket.name]).arg(&self.id);
            self.runtime.run(reaper, command).await.map_err(wrap)?;
            let console = socket.receive().await?;
            let (copies, held) = console.connect(streams, &owner).await?;
            process.set_console(console, copies, held);
        } else {
            let mut opened = stdio::open(streams, &owner).await?;
            opened.give(&mut command);
            command.arg(&self.id);
            self.runtime.run(reaper, command).await.map_err(wrap)?;
            process.set_streams(opened.held);
        }
        process.set_pid(read_pid(pid_file)?);
        Ok(())
    }

    /// Starts the first process. Its pid is known when it returns.
    pub async fn start(&self, reaper: &Reaper) -> Result<()> {
        self.init.require("start", &[Phase::Created])?;
        if let Some((images, parent)) = &self.restore {
            self.restore(reaper, images, parent).await?;
        } else {
            let mut command = self.runtime.command("start");
            command.arg(&self.id);
            let started = self.runtime.run(reaper, command).await;
            started.map_err(|error| Error::unknown(format!("OCI runtime start failed: {}", error.message)))?;
        }
        self.init.set_phase(Phase::Running);
        Ok(())
    }

    pub fn is_checkpoint(&self) -> bool {
        self.restore.is_some()
    }

    /// Adds a process, which `start_exec` starts.
    pub fn add_exec(&self, request: &ExecProcessRequest) -> Result<()> {
        self.init.require("exec in", &[Phase::Created, Phase::Running])?;
        if request.exec_id.is_empty() || request.exec_id.contains('/') {
            return Err(Error::invalid(format!("{:?} is no id of a process", request.exec_id)));
        }
        let mut spec: serde_json::Value = serde_json::from_slice(&request.spec.value)
            .map_err(|error| Error::invalid(format!("the OCI process of exec {}: {error}", request.exec_id)))?;
        spec["terminal"] = request.terminal.into();
        let streams = Streams {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let mut execs = self.execs();
        if execs.contains_key(&request.exec_id) {
            return Err(Error::new(Code::ALREADY_EXISTS, format!("id {}", request.exec_id)));
        }
        let exec = Exec {
            process: Arc::new(Process::new(&request.exec_id, streams)),
            spec: spec.to_string().into_bytes().into(),
        };
        execs.insert(request.exec_id.clone(), exec);
        Ok(())
    }

    /// Starts an added process.
    pub async fn start_exec(&self, reaper: &Reaper, exec_id: &str) -> Result<Arc<Process>> {
        let exec = self.execs().get(exec_id).cloned();
        let Exec { process, spec } = exec.ok_or_else(|| no_process(exec_id))?;
        process.require("start", &[Phase::Created])?;
        if self.init.phase() == Phase::Stopped {
            return Err(Error::failed_precondition(format!(
                "container {} init process is not running",
                self.id
            )));
        }
        let file = self.bundle.join(format!("exec-{exec_id}.json"));
        std::fs::write(&file, &*spec).map_err(|error| Error::io(format!("write {}", file.display()), error))?;
        let mut command = self.runtime.command("exec");
        command.arg("--process").arg(&file).arg("--detach");
        let pid_file = self.exec_pid_file(exec_id);
        let started = self
            .launch(reaper, &process, command, &pid_file, "OCI runtime exec failed")
            .await;
        let _ = std::fs::remove_file(file);
        if let Err(error) = started {
            // Who waits for it must not wait for ever.
            process.ended(Exit {
                status: 255,
                at: SystemTime::now(),
            });
            return Err(error);
        }
        process.set_phase(Phase::Running);
        Ok(process)
    }

    /// The first process (an empty id) or an added one.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        let process = self.execs().get(exec_id).map(|exec| exec.process.clone());
        process.ok_or_else(|| no_process(exec_id))
    }

    /// The processes that were added.
    pub fn added(&self) -> Vec<Arc<Process>> {
        self.execs().values().map(|exec| exec.process.clone()).collect()
    }

    /// The phase as clients see it: an added process of a paused container is paused too.
    pub fn phase(&self, process: &Process) -> Phase {
        match (self.init.phase(), process.phase()) {
            (Phase::Paused, Phase::Running) => Phase::Paused,
            (_, phase) => phase,
        }
    }

    /// Before the end of the first process is told: ends what shares its pid namespace, and waits for what was added.
    pub async fn end_others(&self, reaper: &Reaper) {
        if self.shares_pids {
            let mut command = self.runtime.command("kill");
            command.args(["--all", &self.id, "KILL"]);
            if let Err(error) = self.runtime.run(reaper, command).await.map_err(kill_error)
                && error.code != Code::NOT_FOUND
            {
                crate::log(
                    "error",
                    &format!("{}: its other processes are not ended: {error}", self.id),
                );
            }
        }
        for process in self.added() {
            if process.phase() == Phase::Running {
                let _ = process.wait().await;
            }
        }
    }

    pub async fn delete_exec(&self, exec_id: &str) -> Result<Arc<Process>> {
        let process = self.process(exec_id)?;
        process.require("delete", &[Phase::Created, Phase::Stopped])?;
        process.drain().await;
        let _ = std::fs::remove_file(self.exec_pid_file(exec_id));
        self.execs().remove(exec_id);
        Ok(process)
    }

    /// Removes the container from the runtime and its root file system from the tree.
    pub async fn delete(&self, reaper: &Reaper) -> Result<()> {
        self.init.require("delete", &[Phase::Created, Phase::Stopped])?;
        let killed = self.init.phase() == Phase::Created && self.init.pid() > 0;
        if !killed {
            self.init.drain().await;
        }
        let mut command = self.runtime.command("delete");
        flag(&mut command, killed, "--force");
        command.arg(&self.id);
        match self.runtime.run(reaper, command).await {
            // A checkpoint that ends the container removes it.
            Err(error) if !error.message.contains("does not exist") => {
                return Err(Error::unknown(format!("failed to delete task: {}", error.message)));
            }
            _ => {}
        }
        if killed {
            let _ = tokio::time::timeout(KILLED, self.init.wait()).await;
            self.init.drain().await;
        }
        if let Some(watch) = self.oom.lock().unwrap_or_else(PoisonError::into_inner).take() {
            watch.abort();
        }
        self.unmount()
    }

    pub async fn kill(&self, reaper: &Reaper, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let process = self.process(exec_id)?;
        if process.phase() == Phase::Stopped {
            return Err(Error::not_found("process already finished"));
        }
        let pid = process.pid();
        if pid == 0 {
            return Err(Error::failed_precondition("process not created"));
        }
        // The runtime thaws a paused container that is to die.
        if exec_id.is_empty() && (all || process.phase() == Phase::Paused) {
            let mut command = self.runtime.command("kill");
            flag(&mut command, all, "--all");
            command.arg(&self.id).arg(signal.to_string());
            return self.runtime.run(reaper, command).await.map_err(kill_error);
        }
        signal_process(pid, signal)
    }

    pub async fn pause(&self, reaper: &Reaper) -> Result<()> {
        self.init.require("pause", &[Phase::Running])?;
        self.simple(reaper, "pause").await?;
        self.init.set_phase(Phase::Paused);
        Ok(())
    }

    pub async fn resume(&self, reaper: &Reaper) -> Result<()> {
        self.init.require("resume", &[Phase::Paused])?;
        self.simple(reaper, "resume").await?;
        self.init.set_phase(Phase::Running);
        Ok(())
    }

    async fn simple(&self, reaper: &Reaper, verb: &str) -> Result<()> {
        let mut command = self.runtime.command(verb);
        command.arg(&self.id);
        let done = self.runtime.run(reaper, command).await;
        done.map_err(|error| Error::unknown(format!("OCI runtime {verb} failed: {}", error.message)))
    }

    /// Sets limits: the OCI resources, as JSON.
    pub async fn update(&self, reaper: &Reaper, resources: &[u8]) -> Result<()> {
        self.init
            .require("update", &[Phase::Created, Phase::Running, Phase::Paused])?;
        let file = self.bundle.join("resources.json");
        std::fs::write(&file, resources).map_err(|error| Error::io(format!("write {}", file.display()), error))?;
        let mut command = self.runtime.command("update");
        command.arg("--resources").arg(&file).arg(&self.id);
        let done = self.runtime.run(reaper, command).await;
        let _ = std::fs::remove_file(file);
        done.map_err(|error| Error::unknown(format!("OCI runtime update failed: {}", error.message)))
    }

    pub fn cgroup(&self) -> Result<Cgroup> {
        let cgroup = self.cgroup.lock().unwrap_or_else(PoisonError::into_inner).clone();
        cgroup.ok_or_else(|| Error::not_found("cgroup does not exist"))
    }

    pub fn set_oom_watch(&self, watch: AbortHandle) {
        *self.oom.lock().unwrap_or_else(PoisonError::into_inner) = Some(watch);
    }

    fn find_cgroup(&self) {
        // One that has ended already has none to ask about.
        let cgroup = Cgroup::of(self.init.pid()).ok();
        *self.cgroup.lock().unwrap_or_else(PoisonError::into_inner) = cgroup;
    }

    fn unmount(&self) -> Result<()> {
        if self.mounts.is_empty() {
            return Ok(());
        }
        mount::unmount_all(&self.mounts, &self.rootfs())
    }

    fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    fn pid_file(&self) -> PathBuf {
        self.bundle.join("init.pid")
    }

    fn exec_pid_file(&self, exec_id: &str) -> PathBuf {
        self.bundle.join(format!("{exec_id}.pid"))
    }

    fn execs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Exec>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_process(exec_id: &str) -> Error {
    Error::not_found(format!("process does not exist {exec_id}"))
}

#[expect(
    unsafe_code,
    reason = "signals beyond those that have names, such as SIGRTMIN+3 of systemd"
)]
fn signal_process(pid: i32, signal: u32) -> Result<()> {
    let signal = i32::try_from(signal).map_err(|_| Error::invalid(format!("{signal} is no signal")))?;
    // SAFETY: kill has no memory effects; `pid` is a child that has not been reported as ended.
    if unsafe { libc::kill(pid, signal) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ESRCH) => Err(Error::not_found("process already finished")),
        Some(libc::EINVAL) => Err(Error::invalid(format!("{signal} is no signal"))),
        _ => Err(Error::io("unknown error after kill", error)),
    }
}

/// Whether the container of a bundle has no pid namespace of its own.
fn shares_pids(bundle: &Path) -> bool {
    #[derive(Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(Deserialize)]
    struct Linux {
        #[serde(default)]
        namespaces: Option<Vec<Namespace>>,
    }
    #[derive(Deserialize)]
    struct Namespace {
        r#type: String,
        #[serde(default)]
        path: String,
    }
    let Ok(json) = std::fs::read(bundle.join("config.json")) else {
        return false;
    };
    let Ok(spec) = serde_json::from_slice::<Spec>(&json) else {
        return false;
    };
    let namespaces = spec.linux.and_then(|linux| linux.namespaces).unwrap_or_default();
    !namespaces
        .iter()
        .any(|namespace| namespace.r#type == "pid" && namespace.path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_namespace_of_its_own_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        for (namespaces, shares) in [
            (r#"[{"type":"pid"},{"type":"mount"}]"#, false),
            (r#"[{"type":"pid","path":"/proc/1/ns/pid"}]"#, true),
            (r#"[{"type":"mount"}]"#, true),
            ("null", true),
        ] {
            let spec = format!(r#"{{"linux":{{"namespaces":{namespaces}}}}}"#);
            std::fs::write(dir.path().join("config.json"), spec).expect("written");
            assert_eq!(shares_pids(dir.path()), shares, "{namespaces}");
        }
    }
}
