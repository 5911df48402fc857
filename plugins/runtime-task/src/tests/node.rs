//! A daemon reduced to what the task runtime needs of it: containers, events, and the ttrpc socket shims send events to. The shim
//! and runc are the real ones; every node has a namespace of its own, because runc's state is shared by all daemons of a machine.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::{Empty, ForwardRequest};
use containerd_shim_protos::shim_async::{Events as ForwardService, create_events};
use orlop_plugin::contract::{
    Any, BoxStream, Code, Container, Containers, Contracts, CreateTask, Ctx, Envelope, Events, Labels, Mount,
    Namespace, Process, ProcessState, Runtime, Stdio, Tasks, async_trait, stream_of,
};
use orlop_plugin::{Error, Host, HostApi, HostPlugin, InitContext, Instance, Reach, Result};
use serde_json::json;
use tokio::sync::oneshot;
use ttrpc::r#async::TtrpcContext;

/// Nothing here takes longer than this, however busy the machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Records {
    containers: Mutex<BTreeMap<String, Container>>,
    events: Mutex<Vec<(String, Any)>>,
    published: tokio::sync::Notify,
}

#[async_trait]
impl Containers for Records {
    async fn get(&self, _: &Ctx, id: &str) -> Result<Container> {
        let containers = self.containers.lock().expect("not poisoned");
        containers
            .get(id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("container {id}")))
    }
    async fn list(&self, _: &Ctx, _: &[String]) -> Result<BoxStream<Container>> {
        Ok(stream_of(
            self.containers
                .lock()
                .expect("not poisoned")
                .values()
                .cloned()
                .collect(),
        ))
    }
    async fn create(&self, _: &Ctx, container: Container) -> Result<Container> {
        self.containers
            .lock()
            .expect("not poisoned")
            .insert(container.id.clone(), container.clone());
        Ok(container)
    }
    async fn update(&self, _: &Ctx, _: Container, _: &[String]) -> Result<Container> {
        Err(Error::unimplemented("not needed"))
    }
    async fn delete(&self, _: &Ctx, id: &str) -> Result<()> {
        self.containers.lock().expect("not poisoned").remove(id);
        Ok(())
    }
}

#[async_trait]
impl Events for Records {
    async fn publish(&self, _: &Ctx, topic: &str, event: Any) -> Result<()> {
        self.events
            .lock()
            .expect("not poisoned")
            .push((topic.to_owned(), event));
        self.published.notify_waiters();
        Ok(())
    }
    async fn forward(&self, ctx: &Ctx, envelope: Envelope) -> Result<()> {
        self.publish(ctx, &envelope.topic, envelope.event.unwrap_or_default())
            .await
    }
    async fn subscribe(&self, _: &Ctx, _: &[String]) -> Result<BoxStream<Envelope>> {
        Err(Error::unimplemented("not needed"))
    }
}

/// The ttrpc side: what shims send.
struct Forward(Arc<Records>);

#[async_trait]
impl ForwardService for Forward {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap_or_default();
        let event = envelope.event.unwrap_or_default();
        let event = Any {
            type_url: event.type_url,
            value: event.value,
        };
        let _ = self.0.publish(&Ctx::daemon(), &envelope.topic, event).await;
        Ok(Empty::default())
    }
}

struct Api(Arc<Records>);

#[async_trait]
impl HostApi for Api {
    fn daemon(&self) -> Reach {
        Contracts::default()
            .with_containers(self.0.clone())
            .with_events(self.0.clone())
            .into()
    }
    async fn plugins(&self, _: &str) -> Result<Vec<HostPlugin>> {
        Ok(Vec::new())
    }
}

pub struct Node {
    pub ctx: Ctx,
    pub namespace: String,
    pub records: Arc<Records>,
    dir: tempfile::TempDir,
    instance: Option<Instance>,
    /// `[timeouts]` of the next start.
    pub timeouts: BTreeMap<String, String>,
    _events: ttrpc::asynchronous::Server,
}

// === impl Node ===

impl Node {
    /// A node with an empty store.
    pub async fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!(
            "orlop-rt-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = tempfile::Builder::new()
            .prefix("orlop-rt-")
            .tempdir()
            .expect("a directory");
        let rootfs = dir.path().join("rootfs");
        for sub in ["bin", "proc", "dev", "tmp"] {
            std::fs::create_dir_all(rootfs.join(sub)).expect("made");
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is installed");
        for applet in ["sh", "sleep", "cat", "echo", "stty"] {
            symlink("busybox", rootfs.join("bin").join(applet)).expect("linked");
        }
        let records = Arc::new(Records::default());
        let mut events = ttrpc::asynchronous::Server::new()
            .bind(&format!("unix://{}", dir.path().join("d.ttrpc").display()))
            .expect("bound")
            .register_service(create_events(Arc::new(Forward(records.clone()))));
        events.start().await.expect("serving");
        let mut node = Self {
            ctx: Ctx::new(Namespace::new(namespace.as_str()).expect("valid")),
            namespace,
            records,
            dir,
            instance: None,
            timeouts: BTreeMap::default(),
            _events: events,
        };
        node.boot().await;
        node
    }

    /// Starts the runtime on what is there.
    pub async fn boot(&mut self) {
        let registration = crate::registrations().remove(0);
        let context = InitContext {
            uri: registration.uri.clone(),
            root_path: self.dir.path().join("root"),
            state_path: self.dir.path().join("state"),
            config: registration.config.clone(),
            address: self.dir.path().join("d.sock").display().to_string(),
            ttrpc_address: self.dir.path().join("d.ttrpc").display().to_string(),
            timeouts: self.timeouts.clone(),
            stream_processors: Vec::new(),
            host: Host::new(Arc::new(Api(self.records.clone()))),
        };
        self.instance = Some(registration.init(context).await.expect("started"));
    }

    /// Stops the runtime; containers go on.
    pub async fn halt(&mut self) {
        let shutdown = self
            .instance
            .take()
            .and_then(|instance| instance.shutdown)
            .expect("it was running");
        shutdown().await;
    }

    pub fn tasks(&self) -> Arc<dyn Tasks> {
        self.instance
            .as_ref()
            .and_then(|instance| instance.contracts.tasks.clone())
            .expect("it is running")
    }

    /// Records a container that runs `script` with sh.
    pub async fn container(&self, id: &str, script: &str) {
        self.container_with(id, &["/bin/sh", "-c", script], json!({})).await;
    }

    pub async fn container_with(&self, id: &str, args: &[&str], annotations: serde_json::Value) {
        self.container_of(id, &process(args), &annotations).await;
    }

    /// Records a container that runs an OCI process.
    pub async fn container_of(&self, id: &str, process: &serde_json::Value, annotations: &serde_json::Value) {
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": process,
            "root": {"path": "rootfs"},
            "annotations": annotations,
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{}/{id}", self.namespace),
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            },
        });
        let container = Container {
            id: id.to_owned(),
            labels: Labels::default(),
            image: String::new(),
            runtime: Runtime {
                name: "io.containerd.runc.v2".into(),
                options: None,
            },
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
                value: spec.to_string().into_bytes(),
            }),
            snapshotter: String::new(),
            snapshot_key: String::new(),
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            extensions: BTreeMap::default(),
            sandbox: String::new(),
        };
        self.records.create(&self.ctx, container).await.expect("recorded");
    }

    pub async fn record_with(&self, id: &str, change: impl FnOnce(&mut Container)) {
        let mut container = self.records.get(&self.ctx, id).await.expect("recorded");
        change(&mut container);
        self.records.create(&self.ctx, container).await.expect("recorded");
    }

    /// The request that makes a task of a container, on the shared root file system.
    pub fn request(&self, id: &str) -> CreateTask {
        CreateTask {
            container_id: id.to_owned(),
            rootfs: vec![Mount {
                kind: "bind".into(),
                source: self.dir.path().join("rootfs").display().to_string(),
                options: vec!["rbind".into(), "rw".into()],
                ..Mount::default()
            }],
            ..CreateTask::default()
        }
    }

    /// Creates and starts; returns the pid.
    pub async fn run(&self, id: &str) -> u32 {
        let pid = self.tasks().create(&self.ctx, self.request(id)).await.expect("created");
        assert_eq!(self.tasks().start(&self.ctx, id, "").await, Ok(pid));
        pid
    }

    pub async fn state(&self, id: &str) -> Result<ProcessState, Code> {
        let process: Result<Process> = self.tasks().get(&self.ctx, id, "").await;
        process.map(|process| process.state).map_err(|error| error.code)
    }

    /// A fifo nobody has opened.
    pub fn fifo(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made");
        path.display().to_string()
    }

    /// A fifo for output, and all that will be written to it.
    pub fn output(&self, name: &str) -> (Stdio, oneshot::Receiver<String>) {
        let stdout = self.fifo(name);
        let (sender, output) = oneshot::channel();
        // A thread of its own: should the shim never open its end, a failed test must not wait for it.
        std::thread::spawn({
            let path = stdout.clone();
            move || sender.send(std::fs::read_to_string(path).expect("read"))
        });
        let stdio = Stdio {
            stdout,
            // With one of them given, the shim wants the other.
            stderr: "/dev/null".into(),
            ..Stdio::default()
        };
        (stdio, output)
    }

    /// Waits until an event of `topic` was published, and returns the topics so far.
    pub async fn event(&self, topic: &str) -> Vec<String> {
        let arrived = async {
            loop {
                let mut published = std::pin::pin!(self.records.published.notified());
                published.as_mut().enable();
                let topics = self.topics();
                if topics.iter().any(|published| published == topic) {
                    return topics;
                }
                published.await;
            }
        };
        tokio::time::timeout(PATIENCE, arrived)
            .await
            .expect("the event arrives")
    }

    pub fn topics(&self) -> Vec<String> {
        let events = self.records.events.lock().expect("not poisoned");
        events.iter().map(|(topic, _)| topic.clone()).collect()
    }

    pub fn events(&self) -> Vec<(String, Any)> {
        self.records.events.lock().expect("not poisoned").clone()
    }

    pub fn bundle(&self, id: &str) -> PathBuf {
        self.dir.path().join("state").join(&self.namespace).join(id)
    }

    pub fn work(&self, id: &str) -> PathBuf {
        self.dir.path().join("root").join(&self.namespace).join(id)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The pids of this node's shims.
    pub fn shims(&self) -> Vec<i32> {
        let pids = std::fs::read_dir("/proc").expect("listed").filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let mut args = command.split(|byte| *byte == 0);
            let is_shim = args.next()?.ends_with(b"containerd-shim-runc-v2");
            (is_shim && args.any(|arg| arg == self.namespace.as_bytes())).then_some(pid)
        });
        pids.collect()
    }

    /// The pid of the shim that was started for a container.
    pub fn shim_of(&self, id: &str) -> nix::unistd::Pid {
        let of = |pid: &i32| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.split(|byte| *byte == 0).any(|arg| arg == id.as_bytes())
        };
        nix::unistd::Pid::from_raw(self.shims().into_iter().find(of).expect("it has a shim"))
    }

    /// Returns once this node has no shim any more.
    pub async fn no_shims(&self) {
        let none = async {
            while !self.shims().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, none).await.expect("all shims end");
    }
}

impl Drop for Node {
    /// Leaves nothing on the machine, whatever the test did.
    fn drop(&mut self) {
        for pid in self.shims() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        let runc = PathBuf::from("/run/containerd/runc").join(&self.namespace);
        for entry in std::fs::read_dir(&runc).into_iter().flatten().flatten() {
            let _ = std::process::Command::new("runc")
                .arg("--root")
                .arg(&runc)
                .args(["delete", "--force"])
                .arg(entry.file_name())
                .output();
        }
        let _ = std::fs::remove_dir_all(&runc);
        for entry in std::fs::read_dir(self.dir.path().join("state").join(&self.namespace))
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = nix::mount::umount2(&entry.path().join("rootfs"), nix::mount::MntFlags::MNT_DETACH);
        }
        for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(controller.path().join(&self.namespace));
        }
    }
}

/// An OCI process.
pub fn process(args: &[&str]) -> serde_json::Value {
    json!({
        "args": args,
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
    })
}
