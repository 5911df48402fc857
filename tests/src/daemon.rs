//! A daemon under test: ours, or Debian's containerd as the peer.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Output, built, command, image, process, program};

/// How long a daemon may take to answer, on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(30);

/// Which daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Orlop,
    Containerd,
}

/// A daemon that is about to start.
pub struct Builder {
    kind: Kind,
    config: String,
    directory: TempDir,
}

/// A daemon that runs. Dropping it ends everything it started.
pub struct Daemon {
    kind: Kind,
    child: Option<Child>,
    namespace: String,
    directory: TempDir,
}

// === impl Builder ===

impl Builder {
    fn new(kind: Kind) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test mounts and runs containers: run it as root"
        );
        let directory = tempfile::Builder::new()
            .prefix("orlop-test.")
            .tempdir()
            .expect("a temporary directory");
        Self {
            kind,
            config: String::new(),
            directory,
        }
    }

    /// Adds TOML to the configuration.
    pub fn config(mut self, toml: &str) -> Self {
        self.config += toml;
        self.config += "\n";
        self
    }

    /// The directory that everything of the daemon will be in.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub fn start(self) -> Daemon {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.path();
        let disabled = match self.kind {
            // The peer's CRI wants CNI and a network of its own.
            Kind::Containerd => "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
            Kind::Orlop => "",
        };
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n{disabled}{}\n[grpc]\naddress = {:?}\n",
            directory.join("root"),
            directory.join("state"),
            self.config,
            directory.join("daemon.sock"),
        );
        std::fs::write(directory.join("config.toml"), config).expect("the configuration is written");
        // runc keeps its state by namespace, for every daemon of the machine.
        // Of one width: who clears up `t1-001` finds its shims by this name, and must not find those of another test in it.
        let namespace = format!("t{}-{number:03}", std::process::id());
        let mut daemon = Daemon {
            kind: self.kind,
            child: None,
            namespace,
            directory: self.directory,
        };
        daemon.start();
        daemon
    }
}

// === impl Daemon ===

impl Daemon {
    /// Ours.
    pub fn orlop() -> Builder {
        Builder::new(Kind::Orlop)
    }

    /// Debian's containerd.
    pub fn containerd() -> Builder {
        Builder::new(Kind::Containerd)
    }

    /// Starts it (again), on the same directories.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .expect("a log file");
        let binary = match self.kind {
            Kind::Orlop => built("orlopd"),
            Kind::Containerd => program("containerd"),
        };
        let child = Command::new(binary)
            .arg("--config")
            .arg(self.path("config.toml"))
            .args(["--log-level", "debug"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        self.child = Some(child);
        let begin = Instant::now();
        while UnixStream::connect(self.address()).is_err() || self.debian_ctr("version").code != Some(0) {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "the daemon ended: {ended:?}\n{}", self.log());
            assert!(begin.elapsed() < START, "the daemon does not listen\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it in an orderly way.
    #[track_caller]
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        let begin = Instant::now();
        loop {
            match child.try_wait().expect("a child can be waited for") {
                Some(_) => return,
                None if begin.elapsed() > START => {
                    let _ = child.kill();
                    let _ = child.wait();
                    panic!("the daemon does not end when told to\n{}", self.log());
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its socket.
    pub fn address(&self) -> PathBuf {
        self.path("daemon.sock")
    }

    /// Something in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The namespace that its clients use.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A command of our client, arguments separated by spaces.
    #[track_caller]
    pub fn ctr(&self, arguments: &str) -> Output {
        command::run(self.command(built("ctr")).args(arguments.split(' ')))
    }

    /// A command of Debian's client.
    #[track_caller]
    pub fn debian_ctr(&self, arguments: &str) -> Output {
        command::run(self.command(program("ctr")).args(arguments.split(' ')))
    }

    /// A client that knows this daemon and its namespace.
    pub fn command(&self, client: PathBuf) -> Command {
        let mut command = Command::new(client);
        command
            .arg("--address")
            .arg(self.address())
            .args(["--namespace", &self.namespace]);
        command
    }

    /// Makes a busybox image and imports it with our client.
    #[track_caller]
    pub fn import_busybox(&self) {
        let archive = image::busybox(self.directory.path(), image::BUSYBOX, &self.namespace);
        self.ctr(&format!("images import {}", archive.display())).ok();
    }

    fn remove_everything(&mut self) {
        // Kill what runs, in whatever state the daemon is.
        for pid in process::pids_with(&["containerd-shim", &self.namespace]) {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
                let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
        for pid in process::pids_with(&["containerd-shim", &self.namespace]) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for mount in process::mounts_below(self.directory.path()) {
            let _ = nix::mount::umount2(mount.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_dir_all(format!("/run/containerd/runc/{}", self.namespace));
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let cgroup = hierarchy.path().join(&self.namespace);
            for container in std::fs::read_dir(&cgroup).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(container.path());
            }
            let _ = std::fs::remove_dir(cgroup);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "--- the end of the daemon's log\n{}",
                lines[lines.len().saturating_sub(40)..].join("\n")
            );
        }
        self.remove_everything();
    }
}
