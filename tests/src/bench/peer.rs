//! The two daemons, each on directories of its own on a tmpfs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use orlop_tests::{built, process, program};

/// Which daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Orlop,
    Containerd,
}

/// A tmpfs that everything happens on.
pub struct Place(tempfile::TempDir);

/// A daemon that was started.
pub struct Daemon {
    pub address: PathBuf,
    pub namespace: String,
    child: Child,
    directory: PathBuf,
}

// === impl Place ===

impl Place {
    pub fn new() -> anyhow::Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the benchmark mounts and runs containers: run it as root"
        );
        let directory = tempfile::Builder::new().prefix("orlop-bench.").tempdir()?;
        nix::mount::mount(
            Some("tmpfs"),
            directory.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some("size=8g"),
        )
        .context("mount a tmpfs")?;
        Ok(Self(directory))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Starts `peer` on fresh directories, without waiting for it.
    pub fn spawn(&self, peer: Peer) -> anyhow::Result<Daemon> {
        let directory = tempfile::Builder::new()
            .prefix("daemon.")
            .tempdir_in(self.path())?
            .keep();
        let address = directory.join("daemon.sock");
        let config = directory.join("config.toml");
        let disabled = if peer == Peer::Containerd {
            "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"
        } else {
            ""
        };
        std::fs::write(
            &config,
            format!(
                "version = 2\nroot = {:?}\nstate = {:?}\n{disabled}[grpc]\naddress = {address:?}\n",
                directory.join("root"),
                directory.join("state")
            ),
        )?;
        let binary = if peer == Peer::Orlop {
            built("orlopd")
        } else {
            program("containerd")
        };
        let child = Command::new(binary)
            .arg("--config")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.join("log"))?)
            .spawn()?;
        let namespace = format!(
            "bench{}",
            directory
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .replace('.', "")
        );
        Ok(Daemon {
            address,
            namespace,
            child,
            directory,
        })
    }

    /// Starts `peer` and waits until it answers.
    pub fn start(&self, peer: Peer) -> anyhow::Result<Daemon> {
        let daemon = self.spawn(peer)?;
        for _ in 0..1000 {
            let answer = daemon
                .ctr("ctr")
                .arg("version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            if answer.success() {
                return Ok(daemon);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        anyhow::bail!(
            "{peer:?} does not answer: {}",
            std::fs::read_to_string(daemon.directory.join("log"))?
        )
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for mount in process::mounts_below(self.path()) {
            let _ = nix::mount::umount2(mount.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

// === impl Daemon ===

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A command of Debian's client, which both daemons understand; `client` may be another's path.
    pub fn ctr(&self, client: &str) -> Command {
        let client = if client.contains('/') {
            PathBuf::from(client)
        } else {
            program(client)
        };
        let mut command = Command::new(client);
        command.arg("-a").arg(&self.address).args(["-n", &self.namespace]);
        command
    }

    /// Runs a command of Debian's client to its successful end.
    pub fn run(&self, arguments: &str) -> anyhow::Result<()> {
        let output = self
            .ctr("ctr")
            .args(arguments.split(' '))
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "ctr {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in process::pids_with(&["containerd-shim", &self.namespace]) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        for mount in process::mounts_below(&self.directory) {
            let _ = nix::mount::umount2(mount.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
