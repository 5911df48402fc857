//! Debian's containerd in a directory of its own, with our shim first on its `PATH`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const IMAGE: &str = "docker.io/library/busybox:latest";
const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-runc-v2");

pub struct Containerd {
    child: Option<Child>,
    directory: tempfile::TempDir,
    namespace: String,
    /// The command that starts it, up to the name of its configuration.
    command: &'static [&'static str],
}

/// A client that follows events until dropped.
pub struct Events {
    child: Child,
    file: PathBuf,
}

/// Calls `condition` until it holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

// === impl Containerd ===

impl Containerd {
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(&["containerd", "-c"])
    }

    /// One that sees control groups of version 1 only, where the machine has both: crun refuses such a mixture.
    #[track_caller]
    pub fn start_for_crun() -> Self {
        const SCRIPT: &str = "umount /sys/fs/cgroup/unified 2>/dev/null; exec containerd -c \"$0\"";
        Self::start_with(&["unshare", "-m", "sh", "-c", SCRIPT])
    }

    #[track_caller]
    fn start_with(command: &'static [&'static str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::Builder::new().prefix("shim-test.").tempdir().unwrap();
        // runc keeps its state by namespace, for every daemon of the machine.
        let namespace = format!("s{}-{:03}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = |name: &str| directory.path().join(name);
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{}\"\n",
            path("root").display(),
            path("state").display(),
            path("daemon.sock").display(),
        );
        std::fs::write(path("config.toml"), config).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/busybox-image.py");
        let made = Command::new("python3")
            .arg(script)
            .arg(path("image.tar"))
            .arg(IMAGE)
            .status()
            .unwrap();
        assert!(made.success());
        let mut daemon = Self {
            child: None,
            directory,
            namespace,
            command,
        };
        daemon.restart();
        let image = daemon.path("image.tar");
        daemon.ok(&["image", "import", image.to_str().unwrap()]);
        daemon
    }

    #[track_caller]
    pub fn restart(&mut self) {
        let shims = Path::new(SHIM).parent().unwrap().to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(shims).chain(std::env::split_paths(&path))).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let child = Command::new(self.command[0])
            .args(&self.command[1..])
            .arg(self.path("config.toml"))
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd is installed");
        self.child = Some(child);
        eventually("containerd listens", || self.ctr(&["version"]).0 == 0);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn client(&self) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("-a")
            .arg(self.path("daemon.sock"))
            .args(["-n", &self.namespace]);
        command
    }

    /// The exit code, standard output and standard error of a command of the client. `timeout` ends one that hangs.
    #[track_caller]
    pub fn ctr(&self, arguments: &[&str]) -> (i32, String, String) {
        let client = self.client();
        let output = Command::new("timeout")
            .arg("100")
            .arg(client.get_program())
            .args(client.get_args())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code().unwrap_or(-1),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// The standard output of a command that must succeed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let (code, out, error) = self.ctr(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{error}");
        out
    }

    /// The exit code and the screen of a command of the client in a terminal.
    pub fn in_terminal(&self, arguments: &str) -> (i32, String) {
        let line = format!(
            "ctr -a {} -n {} {arguments}",
            self.path("daemon.sock").display(),
            self.namespace
        );
        let mut command = Command::new("timeout");
        command
            .args(["100", "script", "-qec", &line, "/dev/null"])
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    pub fn events(&self) -> Events {
        let file = self.path("events");
        let mut command = self.client();
        command
            .arg("events")
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&file).unwrap());
        let events = Events {
            child: command.spawn().unwrap(),
            file,
        };
        // The first event that is seen says that it listens.
        let mut number = 0;
        eventually("events are followed", || {
            number += 1;
            let label = format!("n={number}");
            self.ok(&["namespace", "label", &self.namespace, &label]);
            !events.so_far().is_empty()
        });
        events
    }

    /// Kills and removes a container.
    #[track_caller]
    pub fn end(&self, id: &str) {
        self.ctr(&["task", "kill", "-s", "SIGKILL", id]);
        eventually("it ends", || {
            self.ok(&["task", "ls"])
                .lines()
                .any(|line| line.starts_with(id) && line.contains("STOPPED"))
        });
        self.ctr(&["task", "rm", id]);
        self.ok(&["container", "rm", id]);
    }

    /// The shims of this daemon.
    pub fn shims(&self) -> Vec<i32> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let ours = pids.filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            words[0] == SHIM && words.iter().any(|word| *word == self.namespace)
        });
        ours.collect()
    }

    pub fn kill_shims(&self) {
        for pid in self.shims() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }

    /// No shim, no mount, no state of runc, no cgroup.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        eventually("the shims end", || self.shims().is_empty());
        // The daemon answers before it has removed all.
        let state = self.path("state");
        eventually("nothing is mounted", || {
            let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            !mounted.contains(state.to_str().unwrap())
        });
        let entries = |path: &Path| std::fs::read_dir(path).map_or(0, Iterator::count);
        let runc = Path::new("/run/containerd/runc").join(&self.namespace);
        eventually("runc has no containers", || entries(&runc) == 0);
        let bundles = state.join("io.containerd.runtime.v2.task").join(&self.namespace);
        eventually("the bundles are gone", || entries(&bundles) == 0);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
            eprintln!(
                "--- the daemon's log\n{}",
                log.lines().rev().take(30).collect::<Vec<_>>().join("\n")
            );
        }
        for pid in self.shims() {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            for child in children.split_whitespace() {
                let _ = Command::new("kill").args(["-9", child]).status();
            }
        }
        self.kill();
        self.kill_shims();
        let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for point in mounted.lines().filter_map(|line| line.split(' ').nth(4)) {
            if Path::new(point).starts_with(self.directory.path()) {
                let _ = Command::new("umount").args(["-l", point]).status();
            }
        }
        let _ = std::fs::remove_dir_all(format!("/run/containerd/runc/{}", self.namespace));
    }
}

// === impl Events ===

impl Events {
    pub fn so_far(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap_or_default()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
