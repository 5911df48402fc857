//! The daemon's listeners: gRPC for clients, ttrpc for shims, metrics and debug for operators.

pub mod grpc;
pub mod http;
pub mod metrics;
pub mod tls;
pub mod ttrpc;

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use orlop_plugin::{Error, Result};

/// Makes the directory of a socket, if need be, such that others may pass but not list (CVE-2020-15257 is why sockets are files).
pub fn socket_directory(socket: &Path) -> Result<()> {
    let Some(directory) = socket.parent() else {
        return Ok(());
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(directory)
        .map_err(|error| Error::io(format!("make the socket's directory {}", directory.display()), &error))
}

/// Whoever may write a socket commands the daemon: its owner and group.
const SOCKET_MODE: u32 = 0o660;

/// Gives a socket, and nobody else, to `[grpc] uid` and `gid`.
pub fn own(socket: &Path, uid: i64, gid: i64) -> Result<()> {
    let id = |key: &str, id: i64| {
        u32::try_from(id).map_err(|_| {
            Error::invalid_argument(format!("{key} = {id} of the socket {} is no {key}", socket.display()))
        })
    };
    let (uid, gid) = (id("uid", uid)?, id("gid", gid)?);
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(SOCKET_MODE))
        .map_err(|error| Error::io(format!("set the mode of {}", socket.display()), &error))?;
    std::os::unix::fs::chown(socket, Some(uid), Some(gid))
        .map_err(|error| Error::io(format!("give the socket {} to {uid}:{gid}", socket.display()), &error))
}

/// Moves the daemon into `[cgroup] path`: in every v1 hierarchy, or the one of v2.
pub fn join_cgroup(path: &str) -> Result<()> {
    let relative = path.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let unified = root.join("cgroup.controllers").exists();
    let hierarchies: Vec<_> = if unified {
        vec![root.to_path_buf()]
    } else {
        ["cpu", "memory", "pids", "blkio", "cpuacct", "systemd"]
            .iter()
            .map(|controller| root.join(controller))
            .filter(|hierarchy| hierarchy.is_dir())
            .collect()
    };
    for hierarchy in hierarchies {
        let cgroup = hierarchy.join(relative);
        let doing = || format!("move the daemon into the cgroup {}", cgroup.display());
        std::fs::create_dir_all(&cgroup).map_err(|error| Error::io(doing(), &error))?;
        std::fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
            .map_err(|error| Error::io(doing(), &error))?;
    }
    Ok(())
}
