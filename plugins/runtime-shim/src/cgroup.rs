//! Control groups of both versions: where a process is, who is in there, and word of the OOM killer.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

const ROOT: &str = "/sys/fs/cgroup";

/// The control groups of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// `proc(5)`'s lines of `/proc/PID/cgroup`; hierarchies are where systemd mounts them.
    V1(String),
    V2(PathBuf),
}

/// Whether version 2 is all there is.
pub fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

// === impl Cgroup ===

impl Cgroup {
    pub fn of(pid: i32) -> io::Result<Self> {
        let lines = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        if !is_unified() {
            return Ok(Self::V1(lines));
        }
        let path = lines.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        Ok(Self::V2(Path::new(ROOT).join(path.trim_start_matches('/'))))
    }

    /// The directory of a controller of version 1.
    pub fn controller(&self, name: &str) -> Option<PathBuf> {
        match self {
            Self::V1(lines) => v1_path(lines, name).map(|path| Path::new(ROOT).join(name).join(path)),
            Self::V2(path) => Some(path.clone()),
        }
    }

    /// Everything that runs in it and below.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let controllers = ["pids", "memory", "devices", "cpu", "systemd"];
        let Some(directory) = controllers
            .iter()
            .find_map(|name| self.controller(name).filter(|path| path.exists()))
        else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the container's cgroup is gone",
            ));
        };
        let mut pids = Vec::new();
        collect(&directory, &mut pids)?;
        Ok(pids)
    }

    /// Returns each time that the OOM killer has been at work in it, and ends with it.
    pub fn oom_watch(&self) -> io::Result<OomWatch> {
        match self {
            Self::V1(_) => {
                let missing = || io::Error::new(io::ErrorKind::NotFound, "no memory controller");
                let directory = self.controller("memory").ok_or_else(missing)?;
                let control = fs::File::open(directory.join("memory.oom_control"))?;
                let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
                fs::write(directory.join("cgroup.event_control"), line)?;
                Ok(OomWatch::V1 {
                    event: crate::ready::register(event)?,
                    directory,
                })
            }
            Self::V2(directory) => {
                let file = directory.join("memory.events");
                let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
                inotify::add_watch(&watch, &file, inotify::WatchFlags::MODIFY)?;
                Ok(OomWatch::V2 {
                    kills: oom_kills(&file),
                    watch: crate::ready::register(watch)?,
                    file,
                })
            }
        }
    }
}

fn v1_path<'a>(lines: &'a str, controller: &str) -> Option<&'a str> {
    lines.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        let mut names = names.split(',').map(|name| name.trim_start_matches("name="));
        names
            .any(|name| name == controller)
            .then(|| path.trim_start_matches('/'))
    })
}

fn collect(directory: &Path, pids: &mut Vec<u32>) -> io::Result<()> {
    let text = fs::read_to_string(directory.join("cgroup.procs"))?;
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // One that went away meanwhile has no processes.
            let _ = collect(&entry.path(), pids);
        }
    }
    Ok(())
}

/// Moves a process into a cgroup that must be there; of version 1 in every hierarchy that has it.
pub fn enter(path: &str, pid: u32) -> io::Result<()> {
    let path = path.trim_start_matches('/');
    let root = Path::new(ROOT);
    if is_unified() {
        return fs::write(root.join(path).join("cgroup.procs"), pid.to_string());
    }
    let mut entered = false;
    for hierarchy in fs::read_dir(root)?.flatten() {
        let procs = hierarchy.path().join(path).join("cgroup.procs");
        if procs.exists() {
            fs::write(procs, pid.to_string())?;
            entered = true;
        }
    }
    if entered {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, "no hierarchy has it"))
    }
}

fn oom_kills(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Word of the OOM killer.
pub enum OomWatch {
    V1 {
        event: AsyncFd<OwnedFd>,
        directory: PathBuf,
    },
    V2 {
        watch: AsyncFd<OwnedFd>,
        file: PathBuf,
        kills: u64,
    },
}

// === impl OomWatch ===

impl OomWatch {
    /// `true` when something was killed, `false` when the cgroup is gone.
    pub async fn next(&mut self) -> bool {
        loop {
            let fd = match self {
                Self::V1 { event, .. } => event,
                Self::V2 { watch, .. } => watch,
            };
            if crate::ready::read(fd).await.is_err() {
                return false;
            }
            match self {
                // The kernel writes to the eventfd too when the cgroup is removed.
                Self::V1 { directory, .. } => return directory.exists(),
                Self::V2 { file, kills, .. } => {
                    if !file.exists() {
                        return false;
                    }
                    let now = oom_kills(file);
                    if now > *kills {
                        *kills = now;
                        return true;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_found_by_name() {
        let lines = "9:name=systemd:/ns/box\n5:cpu,cpuacct:/ns/cpu\n4:memory:/ns/box\n0::/\n";
        assert_eq!(v1_path(lines, "memory"), Some("ns/box"));
        assert_eq!(v1_path(lines, "cpuacct"), Some("ns/cpu"));
        assert_eq!(v1_path(lines, "systemd"), Some("ns/box"));
        assert_eq!(v1_path(lines, "blkio"), None);
    }

    #[test]
    fn kills_are_counted() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "low 0\noom 7\noom_kill 3\noom_group_kill 0\n").expect("written");
        assert_eq!(oom_kills(file.path()), 3);
        assert_eq!(oom_kills(Path::new("/nonexistent")), 0);
    }
}
