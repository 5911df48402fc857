//! `start`: makes the socket of a pod, starts the server on it, and answers where it is; or names the server that is there already.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::arguments::Arguments;
use crate::cgroup;
use crate::error::{Error, Result};
use crate::options::{self, Options};

const SOCKET_DIR: &str = "/run/containerd/s";
/// The containers whose annotation has the same value share a shim; the first annotation that is there counts.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
/// What a daemon may say on standard input.
const INPUT_LIMIT: u64 = 10 << 20;
/// The debug level of the bootstrap message, and what is below.
const DEBUG_LEVEL: i32 = -4;

/// What a daemon says on standard input.
struct Input {
    options: Options,
    socket_dir: PathBuf,
    /// It speaks the bootstrap protocol of 2.3, and is answered in kind.
    bootstrap: bool,
    debug: bool,
}

/// Runs the command.
pub fn start(arguments: &Arguments) -> Result<()> {
    let mut input = Vec::new();
    std::io::stdin()
        .take(INPUT_LIMIT)
        .read_to_end(&mut input)
        .map_err(|error| Error::io("failed to read stdin", error))?;
    let input = Input::parse(&input, arguments)?;
    let bundle = std::env::current_dir().map_err(|error| Error::io("find the bundle", error))?;
    let group = group(&bundle, &arguments.id)?;
    let path = input
        .socket_dir
        .join(socket_name(&arguments.address, &arguments.namespace, &group));
    let address = format!("unix://{}", path.display());
    if let Some(listener) = listen(&path)? {
        let spawned = spawn(arguments, &input, listener);
        if spawned.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        spawned?;
    }
    std::fs::write("address", &address).map_err(|error| Error::io("write the address of the shim", error))?;
    let version = std::env::var("MAX_SHIM_VERSION")
        .ok()
        .and_then(|version| version.parse().ok())
        .unwrap_or(2);
    let answer = answer(&address, version, input.bootstrap)?;
    std::io::stdout()
        .write_all(&answer)
        .map_err(|error| Error::io("answer", error))
}

// === impl Input ===

impl Input {
    fn parse(input: &[u8], arguments: &Arguments) -> Result<Self> {
        let mut parsed = Self {
            options: Options::default(),
            socket_dir: SOCKET_DIR.into(),
            bootstrap: false,
            debug: arguments.debug,
        };
        // Options and a bootstrap message begin alike: only the latter repeats what the command line says.
        let params = BootstrapParams::parse_from_bytes(input)
            .ok()
            .filter(|params| params.instance_id == arguments.id && params.namespace == arguments.namespace);
        if let Some(params) = params {
            parsed.bootstrap = true;
            parsed.debug |= params.log_level.value() <= DEBUG_LEVEL;
            if let Some(dir) = params.socket_dir.filter(|dir| !dir.is_empty()) {
                parsed.socket_dir = dir.into();
            }
            let extension = params
                .extensions
                .iter()
                .filter_map(|extension| extension.value.as_ref());
            let ours = extension
                .into_iter()
                .find(|any| any.type_url.rsplit('/').next() == Some(options::TYPE));
            parsed.options = Options::from_any(ours)?;
        } else if !input.is_empty() {
            let any = Any::parse_from_bytes(input).map_err(|error| {
                Error::invalid(format!(
                    "standard input is neither options nor a bootstrap message: {error}"
                ))
            })?;
            parsed.options = Options::from_any(Some(&any))?;
        }
        Ok(parsed)
    }
}

fn answer(address: &str, version: u32, bootstrap: bool) -> Result<Vec<u8>> {
    if bootstrap {
        let result = BootstrapResult {
            version: 3,
            address: address.to_owned(),
            protocol: "ttrpc".to_owned(),
            ..BootstrapResult::default()
        };
        return result.write_to_bytes().map_err(|error| Error::io("answer", error));
    }
    if version >= 3 {
        let json = serde_json::json!({"version": 3, "address": address, "protocol": "ttrpc"});
        return Ok(json.to_string().into_bytes());
    }
    Ok(address.as_bytes().to_vec())
}

/// The pod that a container belongs to; its own id when it belongs to none.
fn group(bundle: &Path, id: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Spec {
        #[serde(default)]
        annotations: Option<HashMap<String, String>>,
    }
    let path = bundle.join("config.json");
    let json = std::fs::read(&path).map_err(|error| Error::io(format!("read {}", path.display()), error))?;
    let spec: Spec =
        serde_json::from_slice(&json).map_err(|error| Error::io(format!("read {}", path.display()), error))?;
    let mut annotations = spec.annotations.unwrap_or_default();
    Ok(GROUPS
        .iter()
        .find_map(|name| annotations.remove(*name))
        .unwrap_or_else(|| id.to_owned()))
}

/// The name that containerd gives it: the digest of the daemon's address, the namespace and the group.
fn socket_name(daemon: &str, namespace: &str, group: &str) -> String {
    let path = Path::new(daemon).join(namespace).join(group);
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    hex::encode(digest)
}

/// A listener at `path`; `None` when somebody serves there already. A socket that nobody serves any more is replaced.
fn listen(path: &Path) -> Result<Option<UnixListener>> {
    let doing = |error| Error::io(format!("create new shim socket {}", path.display()), error);
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(doing)?;
    }
    let listener = match UnixListener::bind(path) {
        Ok(listener) => listener,
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Ok(None);
            }
            std::fs::remove_file(path).map_err(doing)?;
            UnixListener::bind(path).map_err(doing)?
        }
        Err(error) => return Err(doing(error)),
    };
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(doing)?;
    Ok(Some(listener))
}

/// Starts the server: this binary, in the bundle, with the socket as its standard input and the daemon's fifo as its standard error.
fn spawn(arguments: &Arguments, input: &Input, listener: UnixListener) -> Result<()> {
    let program = std::env::current_exe().map_err(|error| Error::io("find the shim's binary", error))?;
    // Open for reading too: it neither waits for a daemon nor breaks when one goes away.
    let log = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("log");
    let mut command = Command::new(program);
    command
        .args([
            "-namespace",
            &arguments.namespace,
            "-id",
            &arguments.id,
            "-address",
            &arguments.address,
        ])
        .args(["-publish-binary", &arguments.publish_binary])
        .process_group(0)
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(log.map_or_else(|_: std::io::Error| Stdio::null(), |log: File| Stdio::from(log)));
    if input.debug {
        command.arg("-debug");
    }
    if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
        share_core();
    }
    let mut child = command.spawn().map_err(|error| Error::io("start the shim", error))?;
    let placed = place(child.id(), &input.options);
    if placed.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    placed
}

/// Puts a server into the cgroup that options name, and above its daemon in the eyes of the OOM killer.
fn place(pid: u32, options: &Options) -> Result<()> {
    if !options.shim_cgroup.is_empty() {
        cgroup::enter(&options.shim_cgroup, pid)
            .map_err(|error| Error::io(format!("failed to join cgroup {}", options.shim_cgroup), error))?;
    }
    let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
    let score = std::fs::read_to_string(format!("/proc/{parent}/oom_score_adj"));
    let score = score
        .ok()
        .and_then(|score| score.trim().parse::<i32>().ok())
        .unwrap_or(0);
    // Without the right to lower it, it stays what the daemon's is.
    let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), (score + 1).min(1000).to_string());
    Ok(())
}

/// Makes a core scheduling group of this process, which the server inherits. Kernels without it run containers all the same.
#[expect(unsafe_code, reason = "PR_SCHED_CORE has no safe wrapper")]
fn share_core() {
    const PROCESS_GROUP: libc::c_ulong = 2;
    // SAFETY: this operation takes numbers only.
    unsafe {
        libc::prctl(libc::PR_SCHED_CORE, libc::PR_SCHED_CORE_CREATE, 0, PROCESS_GROUP, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;
    use containerd_shim_protos::shim::oci;

    fn arguments() -> Arguments {
        Arguments {
            namespace: "ns".into(),
            id: "box".into(),
            ..Arguments::default()
        }
    }

    fn any() -> Any {
        let options = oci::Options {
            binary_name: "crun".into(),
            ..oci::Options::default()
        };
        Any {
            type_url: options::TYPE.into(),
            value: options.write_to_bytes().expect("encoded"),
            ..Any::default()
        }
    }

    #[test]
    fn options_and_bootstrap_messages_are_told_apart() {
        let bare = any().write_to_bytes().expect("encoded");
        let parsed = Input::parse(&bare, &arguments()).expect("options");
        assert_eq!((parsed.bootstrap, parsed.options.binary_name.as_str()), (false, "crun"));

        let params = BootstrapParams {
            instance_id: "box".into(),
            namespace: "ns".into(),
            socket_dir: Some("/run/short".into()),
            extensions: vec![Extension {
                value: Some(any()).into(),
                ..Extension::default()
            }],
            ..BootstrapParams::default()
        };
        let parsed = Input::parse(&params.write_to_bytes().expect("encoded"), &arguments()).expect("a message");
        assert_eq!((parsed.bootstrap, parsed.options.binary_name.as_str()), (true, "crun"));
        assert_eq!(parsed.socket_dir, Path::new("/run/short"));

        assert!(!Input::parse(b"", &arguments()).expect("nothing").bootstrap);
        assert!(Input::parse(b"\xff\xff", &arguments()).is_err());
    }

    #[test]
    fn each_daemon_is_answered_in_its_way() {
        assert_eq!(answer("unix:///s", 2, false), Ok(b"unix:///s".to_vec()));
        let json: serde_json::Value =
            serde_json::from_slice(&answer("unix:///s", 3, false).expect("answered")).expect("JSON");
        assert_eq!(
            json,
            serde_json::json!({"version": 3, "address": "unix:///s", "protocol": "ttrpc"})
        );
        let result =
            BootstrapResult::parse_from_bytes(&answer("unix:///s", 2, true).expect("answered")).expect("a message");
        assert_eq!((result.version, result.address.as_str()), (3, "unix:///s"));
    }

    #[test]
    fn sockets_are_named_as_containerd_names_them() {
        // printf %s /run/containerd/containerd.sock/default/box | sha256sum
        let expected = Sha256::digest(b"/run/containerd/containerd.sock/default/box");
        let expected = hex::encode(expected);
        assert_eq!(
            socket_name("/run/containerd/containerd.sock", "default", "box"),
            expected
        );
    }

    #[test]
    fn pods_share_a_shim() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |json: &str| std::fs::write(dir.path().join("config.json"), json).expect("written");
        write("{}");
        assert_eq!(group(dir.path(), "box").as_deref(), Ok("box"));
        write(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#);
        assert_eq!(group(dir.path(), "box").as_deref(), Ok("pod"));
        write(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}}"#);
        assert_eq!(group(dir.path(), "box").as_deref(), Ok("g"));
    }

    #[test]
    fn a_socket_that_nobody_serves_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s/socket");
        let first = listen(&path).expect("made").expect("new");
        assert!(listen(&path).expect("looked").is_none(), "somebody serves there");
        drop(first);
        assert!(listen(&path).expect("made").is_some());
        assert_eq!(
            std::fs::metadata(&path).expect("there").permissions().mode() & 0o777,
            0o600
        );
    }
}
