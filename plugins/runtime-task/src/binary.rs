//! The shim binary: which one a runtime's name means, and its two commands, `start` and `delete`.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use containerd_shim_protos::protobuf::Message as _;
use orlop_plugin::contract::{Any, Exit};
use orlop_plugin::{Error, Result, blocking};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::bootstrap::Bootstrap;
use crate::bundle::Bundle;
use crate::{convert, shim_log};

/// The most that is read of what a shim prints. It prints an address; whatever prints more is no shim.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// The highest version of the task service this daemon speaks.
const MAX_SHIM_VERSION: &str = "3";

/// What every shim is told of the daemon.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// The gRPC socket.
    pub address: String,
    /// The ttrpc socket, where shims send their events.
    pub ttrpc_address: String,
    /// Whether shims put themselves into a core scheduling group.
    pub sched_core: bool,
}

/// The file name of the shim that a runtime's name means: the last two components of `io.containerd.runc.v2` make
/// `containerd-shim-runc-v2`.
pub fn file_name(runtime: &str) -> Result<String> {
    let mut parts = runtime.rsplit('.');
    match (parts.next(), parts.next()) {
        (Some(version), Some(name))
            if !runtime.starts_with('.') && !name.is_empty() && !version.is_empty() && !runtime.contains('/') =>
        {
            Ok(format!("containerd-shim-{name}-{version}"))
        }
        _ => Err(Error::invalid_argument(format!(
            "{runtime:?} is no runtime: write a name such as io.containerd.runc.v2, or the absolute path of a shim"
        ))),
    }
}

/// The shim that a runtime's name or path means: an absolute path is itself; a name is looked for beside the daemon, then on `PATH`.
/// Blocks.
pub fn resolve(runtime: &str) -> Result<PathBuf> {
    if runtime.starts_with('/') {
        let path = PathBuf::from(runtime);
        return match std::fs::metadata(&path) {
            Ok(_) => Ok(path),
            Err(error) => Err(Error::failed_precondition(format!(
                "the shim {runtime} cannot be used: {error}"
            ))),
        };
    }
    let name = file_name(runtime)?;
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path).filter(|dir| dir.is_absolute()))
        .map(|dir| dir.join(&name))
        .find(|candidate| is_executable(candidate))
        .ok_or_else(|| {
            Error::failed_precondition(format!(
                "runtime {runtime:?} is not installed: {name} is neither beside the daemon nor on its PATH"
            ))
        })
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Runs `start`: the shim starts serving, or names another one that serves this task too. Killed when dropped.
pub async fn start(daemon: &Daemon, binary: &Path, bundle: &Bundle, options: Option<&Any>) -> Result<Bootstrap> {
    let mut command = command(daemon, binary, bundle)?;
    command.arg("start");
    // An empty stdin means no options.
    let stdin = options.map(Any::encode_to_vec).unwrap_or_default();
    let output = run(command, stdin).await?;
    if !output.status.success() {
        return Err(output.failure(binary, "start"));
    }
    Bootstrap::parse(&output.stdout)
}

/// Runs `delete`: it ends and removes what a shim that is gone has left, and tells how the task ended. Killed when dropped.
pub async fn delete(daemon: &Daemon, binary: &Path, bundle: &Bundle) -> Result<Exit> {
    let mut command = command(daemon, binary, bundle)?;
    command.arg("-bundle").arg(&bundle.path).arg("delete");
    let output = run(command, Vec::new()).await?;
    if !output.status.success() {
        return Err(output.failure(binary, "delete"));
    }
    // Log lines like those of its fifo, which it does not use here.
    for line in output.stderr.split(|byte| *byte == b'\n') {
        shim_log::emit(&bundle.namespace, &bundle.id, line);
    }
    let response = containerd_shim_protos::api::DeleteResponse::parse_from_bytes(&output.stdout).map_err(|error| {
        Error::unknown(format!(
            "{} delete printed no DeleteResponse: {error}",
            binary.display()
        ))
    })?;
    Ok(convert::exit(&bundle.id, &response))
}

fn command(daemon: &Daemon, binary: &Path, bundle: &Bundle) -> Result<Command> {
    let daemon_binary =
        std::env::current_exe().map_err(|error| Error::io("find the daemon's own binary for the shim", &error))?;
    let mut command = Command::new(binary);
    command
        .current_dir(&bundle.path)
        .args(["-namespace", &bundle.namespace, "-address", &daemon.address])
        .arg("-publish-binary")
        .arg(daemon_binary)
        .args(["-id", &bundle.id])
        // Shims in Go need no more; ours ignore it.
        .env("GOMAXPROCS", "2")
        .env("MAX_SHIM_VERSION", MAX_SHIM_VERSION)
        .env("TTRPC_ADDRESS", &daemon.ttrpc_address)
        .env("GRPC_ADDRESS", &daemon.address)
        .env("NAMESPACE", &bundle.namespace)
        // A signal to the daemon's group, such as a terminal's, must not reach what runs containers.
        .process_group(0)
        .kill_on_drop(true);
    if daemon.sched_core {
        command.env("SCHED_CORE", "1");
    }
    Ok(command)
}

struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Output {
    fn failure(&self, binary: &Path, what: &str) -> Error {
        let said = [&self.stderr, &self.stdout].map(|text| String::from_utf8_lossy(text).trim().to_owned());
        let said = said
            .iter()
            .find(|said| !said.is_empty())
            .map_or("it said nothing", |said| said);
        Error::unknown(format!("{} {what}: {}: {said}", binary.display(), self.status))
    }
}

async fn run(mut command: Command, stdin: Vec<u8>) -> Result<Output> {
    let binary = command.as_std().get_program().to_string_lossy().into_owned();
    let io = move |error: &std::io::Error| Error::io(format!("run {binary}"), error);
    command
        .stdin(if stdin.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child: Child = blocking({
        let io = io.clone();
        move || command.spawn().map_err(|error| io(&error))
    })
    .await?;
    let (input, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut input) = input {
            // A shim that does not read its options is free not to.
            let _ = input.write_all(&stdin).await;
        }
    };
    let ((), stdout, stderr, status) = tokio::join!(feed, read_limited(stdout), read_limited(stderr), child.wait());
    Ok(Output {
        status: status.map_err(|error| io(&error))?,
        stdout: stdout.map_err(|error| io(&error))?,
        stderr: stderr.map_err(|error| io(&error))?,
    })
}

/// Reads all of a pipe and keeps the beginning.
async fn read_limited(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(mut pipe) = pipe {
        (&mut pipe).take(OUTPUT_LIMIT).read_to_end(&mut kept).await?;
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_plugin::contract::Code;

    #[test]
    fn names_mean_files() {
        for (runtime, file) in [
            ("io.containerd.runc.v2", "containerd-shim-runc-v2"),
            ("io.containerd.kata.v2", "containerd-shim-kata-v2"),
            ("wasmtime.v1", "containerd-shim-wasmtime-v1"),
        ] {
            assert_eq!(file_name(runtime).as_deref(), Ok(file));
        }
        for bad in [
            "",
            "runc",
            ".v2",
            "io.",
            "a..",
            "../../evil.v2",
            "io/containerd.runc.v2",
        ] {
            assert!(file_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_missing_shim_is_named() {
        let error = resolve("io.containerd.nonesuch.v9").expect_err("not installed");
        assert_eq!(error.code, Code::FailedPrecondition);
        assert!(error.message.contains("containerd-shim-nonesuch-v9"), "{error}");
        assert!(resolve("/nonexistent/shim").is_err());
        assert_eq!(resolve("/bin/sh"), Ok("/bin/sh".into()));
    }

    /// A shim that is a shell script.
    fn script(dir: &Path, body: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join("shim");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        path
    }

    fn bundle(dir: &Path) -> Bundle {
        Bundle {
            namespace: "ns".into(),
            id: "box".into(),
            path: dir.to_owned(),
        }
    }

    fn daemon() -> Daemon {
        Daemon {
            address: "/run/d.sock".into(),
            ttrpc_address: "/run/d.sock.ttrpc".into(),
            sched_core: true,
        }
    }

    #[tokio::test]
    async fn start_gets_what_the_protocol_promises() {
        let dir = tempfile::tempdir().expect("a directory");
        let shim = script(
            dir.path(),
            r#"echo "$PWD $@" > told; cat > options
               echo "$TTRPC_ADDRESS $GRPC_ADDRESS $MAX_SHIM_VERSION $NAMESPACE $SCHED_CORE" >> told
               echo unix:///run/there"#,
        );
        let options = Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: vec![1, 2],
        };
        let bootstrap = start(&daemon(), &shim, &bundle(dir.path()), Some(&options))
            .await
            .expect("started");
        assert_eq!(bootstrap.address, "unix:///run/there");
        let told = std::fs::read_to_string(dir.path().join("told")).expect("told");
        let exe = std::env::current_exe().expect("known");
        assert_eq!(
            told,
            format!(
                "{} -namespace ns -address /run/d.sock -publish-binary {} -id box start\n\
                 /run/d.sock.ttrpc /run/d.sock 3 ns 1\n",
                dir.path().display(),
                exe.display()
            )
        );
        let read = std::fs::read(dir.path().join("options")).expect("read");
        assert_eq!(Any::decode(&read[..]), Ok(options));
    }

    #[tokio::test]
    async fn a_failure_tells_what_the_shim_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let shim = script(dir.path(), "echo no runc here >&2; exit 3");
        let error = start(&daemon(), &shim, &bundle(dir.path()), None)
            .await
            .expect_err("it fails");
        assert!(
            error.message.contains("no runc here") && error.message.contains('3'),
            "{error}"
        );
        let error = delete(&daemon(), &shim, &bundle(dir.path()))
            .await
            .expect_err("it fails");
        assert!(error.message.contains("delete"), "{error}");
        let error = start(&daemon(), Path::new("/nonexistent"), &bundle(dir.path()), None).await;
        assert!(error.expect_err("no such file").is_not_found());
    }
}
