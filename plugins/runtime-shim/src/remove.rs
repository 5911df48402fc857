//! `delete`: removes what a shim that is gone has left, and tells how the task ended.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;

use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::mount;
use crate::options::Options;
use crate::publisher::timestamp;
use crate::runtime::{Runtime, read_pid};

/// 128 and SIGKILL: nobody was there to see how it really ended.
const KILLED: u32 = 128 + 9;

/// Runs the command.
pub fn delete(arguments: &Arguments) -> Result<()> {
    let bundle = match arguments.bundle.as_str() {
        "" => beside(&arguments.id)?,
        bundle => bundle.into(),
    };
    let options = Options::load(&bundle)?;
    let runtime = Runtime::new(&options, &arguments.namespace, &bundle);
    let mut command = runtime.command("delete");
    command.args(["--force", &arguments.id]);
    // A bundle that is gone is no place to run in.
    if !bundle.is_dir() {
        command.current_dir("/");
    }
    // What cannot be removed is told, and the rest removed all the same.
    let warn = |error: &Error| crate::log("warning", &error.message);
    if let Err(error) = runtime.run_blocking(command)
        && !error.message.contains("does not exist")
    {
        warn(&Error::unknown(format!(
            "failed to remove runc container: {}",
            error.message
        )));
    }
    if let Err(error) = mount::unmount_all(&[], &bundle.join("rootfs")) {
        warn(&error);
    }
    remove_socket(&bundle);
    let pid = read_pid(&bundle.join("init.pid")).unwrap_or(0);
    let response = DeleteResponse {
        pid: pid as u32,
        exit_status: KILLED,
        exited_at: Some(timestamp(SystemTime::now())).into(),
        ..DeleteResponse::default()
    };
    let bytes = response.write_to_bytes().map_err(|error| Error::io("answer", error))?;
    std::io::stdout()
        .write_all(&bytes)
        .map_err(|error| Error::io("answer", error))
}

/// The bundle beside the working directory, which is a bundle too.
fn beside(id: &str) -> Result<PathBuf> {
    let here = std::env::current_dir().map_err(|error| Error::io("find the bundle", error))?;
    Ok(here.parent().unwrap_or(Path::new("/")).join(id))
}

/// Removes the socket of a shim that does not serve any more; another container of its pod may still be served.
fn remove_socket(bundle: &Path) {
    let address = std::fs::read_to_string(bundle.join("address")).unwrap_or_default();
    if let Some(path) = address.trim().strip_prefix("unix://")
        && UnixStream::connect(path).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    {
        let _ = std::fs::remove_file(path);
    }
}
