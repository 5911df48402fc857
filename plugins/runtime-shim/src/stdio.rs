//! The standard streams of a process without a terminal.
//!
//! Its streams *are* what the client named: a fifo, a file, or the pipe of a logging program. Nothing is copied, so nothing is lost when the
//! shim is busy, and no buffer is kept. What the shim holds are second ends of the fifos: a client may go away and come back without the
//! process seeing a closed pipe or the end of its input. They are let go when the process ends (output) and when the client says so (input).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{Gid, OFlags, Uid, fchown, fcntl_getfl, fcntl_setfl};
use tokio::net::unix::pipe;

use crate::error::{Error, Result};

/// How long a client may take to open its end of a fifo.
const READER: Duration = Duration::from_secs(30);

/// What a request names as standard streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// Streams opened for a process that is about to start.
#[derive(Default)]
pub struct Opened {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub held: Held,
}

/// What the shim holds while the process runs.
#[derive(Default)]
pub struct Held {
    pub input: Option<OwnedFd>,
    pub output: Vec<OwnedFd>,
}

/// Whose streams they are.
pub struct Owner<'a> {
    pub namespace: &'a str,
    pub id: &'a str,
    pub uid: u32,
    pub gid: u32,
}

/// What a name of a stream means.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Null,
    /// A fifo, or a file that is there.
    Path(PathBuf),
    /// A file that is made, with its directory.
    File(PathBuf),
    /// A program and its arguments; it must write a byte before it is ready if asked so (`binary-v2`).
    Program {
        path: PathBuf,
        arguments: Vec<String>,
        must_speak: bool,
    },
}

// === impl Opened ===

impl Opened {
    /// Hands the streams to a command.
    pub fn give(&mut self, command: &mut Command) {
        let stream = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
        command.stdin(stream(self.stdin.take()));
        command.stdout(stream(self.stdout.take()));
        command.stderr(stream(self.stderr.take()));
    }
}

/// Opens what `streams` names.
pub async fn open(streams: &Streams, owner: &Owner<'_>) -> Result<Opened> {
    let mut opened = Opened::default();
    if !streams.stdin.is_empty() {
        let (read, hold) = open_input(Path::new(&streams.stdin))?;
        blocking(&read).map_err(|error| Error::io(format!("open stdin {}", streams.stdin), error))?;
        own(&read, owner)?;
        opened.stdin = Some(read);
        opened.held.input = Some(hold);
    }
    let stdout = target(&streams.stdout)?;
    if let Target::Program {
        path,
        arguments,
        must_speak,
    } = &stdout
    {
        let (out, err) = start_logger(path, arguments, *must_speak, owner).await?;
        opened.stdout = Some(out);
        opened.stderr = Some(err);
        return Ok(opened);
    }
    opened.stdout = open_output(&stdout, owner, &mut opened.held.output).await?;
    let stderr = match target(&streams.stderr)? {
        // One file for both, as containerd has it.
        Target::Path(_) | Target::File(_) if matches!(stdout, Target::File(_)) => None,
        same if same == stdout => None,
        other => Some(other),
    };
    opened.stderr = match stderr {
        Some(target) => open_output(&target, owner, &mut opened.held.output).await?,
        None => match &opened.stdout {
            Some(fd) => Some(fd.try_clone().map_err(|error| Error::io("open stderr", error))?),
            None => None,
        },
    };
    Ok(opened)
}

/// The reading end of a fifo, and a writing end that keeps it from ending. Both do not block.
pub fn open_input(path: &Path) -> Result<(OwnedFd, OwnedFd)> {
    let doing = |error| Error::io(format!("open the stdin fifo {}", path.display()), error);
    let open = |options: &mut OpenOptions| options.custom_flags(libc::O_NONBLOCK).open(path).map_err(doing);
    let read = open(OpenOptions::new().read(true))?;
    let hold = open(OpenOptions::new().write(true))?;
    Ok((read.into(), hold.into()))
}

/// The writing end of what `name` means for a terminal's output, and what to hold. The descriptor does not block if it is a fifo's or a pipe's.
pub async fn open_terminal_output(name: &str, owner: &Owner<'_>, held: &mut Vec<OwnedFd>) -> Result<Option<OwnedFd>> {
    let fd = match target(name)? {
        Target::Program {
            path,
            arguments,
            must_speak,
        } => Some(start_logger(&path, &arguments, must_speak, owner).await?.0),
        target => open_output(&target, owner, held).await?,
    };
    if let Some(fd) = &fd {
        rustix::io::ioctl_fionbio(fd, true).map_err(|error| Error::io(format!("open {name}"), error))?;
    }
    Ok(fd)
}

async fn open_output(target: &Target, owner: &Owner<'_>, held: &mut Vec<OwnedFd>) -> Result<Option<OwnedFd>> {
    match target {
        Target::Null | Target::Program { .. } => Ok(None),
        Target::File(path) => {
            let doing = |error| Error::io(format!("open the log {}", path.display()), error);
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory).map_err(doing)?;
            }
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o644)
                .open(path)
                .map_err(doing)?;
            Ok(Some(file.into()))
        }
        Target::Path(path) => {
            let doing = |error| Error::io(format!("open {}", path.display()), error);
            if !std::fs::metadata(path).map_err(doing)?.file_type().is_fifo() {
                let file = OpenOptions::new().append(true).open(path).map_err(doing)?;
                return Ok(Some(file.into()));
            }
            let write = open_writer(path).await?;
            let read = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path)
                .map_err(doing)?;
            held.push(read.into());
            blocking(&write).map_err(doing)?;
            own(&write, owner)?;
            Ok(Some(write))
        }
    }
}

/// The writing end of a fifo that a client reads, or is about to: without a reader, what is left in it at the end would be lost.
async fn open_writer(path: &Path) -> Result<OwnedFd> {
    let doing = |error: io::Error| Error::io(format!("open the fifo {} for writing", path.display()), error);
    let at_once = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path);
    match at_once {
        Ok(file) => return Ok(file.into()),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {}
        Err(error) => return Err(doing(error)),
    }
    let waiting = {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || File::options().write(true).open(path))
    };
    match tokio::time::timeout(READER, waiting).await {
        Ok(Ok(opened)) => opened.map(OwnedFd::from).map_err(doing),
        Ok(Err(error)) => Err(Error::io("open a fifo", error)),
        Err(_) => {
            // Ends the thread that waits.
            let _ = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
            Err(Error::new(
                ttrpc::Code::DEADLINE_EXCEEDED,
                format!(
                    "nobody has opened the fifo {} for reading within {READER:?}",
                    path.display()
                ),
            ))
        }
    }
}

fn blocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = fcntl_getfl(fd)?;
    Ok(fcntl_setfl(fd, flags - OFlags::NONBLOCK)?)
}

/// A process that is not root opens `/dev/stdout` anew: the stream must be its own.
fn own(fd: &OwnedFd, owner: &Owner<'_>) -> Result<()> {
    if owner.uid == 0 && owner.gid == 0 {
        return Ok(());
    }
    fchown(fd, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
        .map_err(|error| Error::io(format!("give a stream to {}:{}", owner.uid, owner.gid), error))
}

fn target(name: &str) -> Result<Target> {
    let Some((scheme, rest)) = name.split_once("://") else {
        return Ok(if name.is_empty() {
            Target::Null
        } else {
            Target::Path(name.into())
        });
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = PathBuf::from(decode(path));
    match scheme {
        "fifo" => Ok(Target::Path(path)),
        "file" => Ok(Target::File(path)),
        "binary" | "binary-v2" => Ok(Target::Program {
            path,
            arguments: query
                .split('&')
                .filter(|pair| !pair.is_empty())
                .flat_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    [decode(key), decode(value)]
                })
                .filter(|word| !word.is_empty())
                .collect(),
            must_speak: scheme == "binary-v2",
        }),
        other => Err(Error::invalid(format!(
            "unknown STDIO scheme {other}: fifo, file, binary or binary-v2"
        ))),
    }
}

/// Undoes percent encoding.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Starts a logging program and waits until it is ready. It reads stdout on descriptor 3, stderr on 4, and closes 5 when it is ready.
async fn start_logger(
    path: &Path,
    arguments: &[String],
    must_speak: bool,
    owner: &Owner<'_>,
) -> Result<(OwnedFd, OwnedFd)> {
    let doing = |error: io::Error| Error::io(format!("start the logging program {}", path.display()), error);
    let (out_read, out_write) = io::pipe().map_err(doing)?;
    let (err_read, err_write) = io::pipe().map_err(doing)?;
    let (ready_read, ready_write) = io::pipe().map_err(doing)?;
    let out_write = OwnedFd::from(out_write);
    let err_write = OwnedFd::from(err_write);
    own(&out_write, owner)?;
    own(&err_write, owner)?;
    let mut command = Command::new(path);
    command
        .args(arguments)
        .env("CONTAINER_ID", owner.id)
        .env("CONTAINER_NAMESPACE", owner.namespace)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    pass_descriptors(&mut command, [out_read.into(), err_read.into(), ready_write.into()]).map_err(doing)?;
    // It ends when its pipes do; the reaper collects it.
    command.spawn().map_err(doing)?;
    drop(command);
    let ready_read = OwnedFd::from(ready_read);
    rustix::io::ioctl_fionbio(&ready_read, true).map_err(|error| doing(error.into()))?;
    let ready = pipe::Receiver::from_owned_fd(ready_read).map_err(doing)?;
    let mut byte = [0; 1];
    let said = loop {
        ready.readable().await.map_err(doing)?;
        match ready.try_read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => break read.map_err(doing)?,
        }
    };
    if must_speak && said == 0 {
        return Err(Error::unknown(format!(
            "the logging program {} did not call ready (it may have crashed or exited prematurely)",
            path.display()
        )));
    }
    Ok((out_write, err_write))
}

/// Gives a command descriptors from 3 on.
#[expect(
    unsafe_code,
    reason = "there is no safe way to give a child more than three descriptors"
)]
fn pass_descriptors(command: &mut Command, descriptors: [OwnedFd; 3]) -> io::Result<()> {
    // Above the numbers they get: none is overwritten before it is copied.
    let high: Vec<OwnedFd> = descriptors
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 16))
        .collect::<std::result::Result<_, _>>()?;
    // SAFETY: between fork and exec it makes only dup2 calls, which are async-signal-safe; it allocates nothing.
    unsafe {
        command.pre_exec(move || {
            for (number, fd) in (3..).zip(&high) {
                if libc::dup2(fd.as_raw_fd(), number) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_targets() {
        assert_eq!(target(""), Ok(Target::Null));
        assert_eq!(target("/run/x"), Ok(Target::Path("/run/x".into())));
        assert_eq!(target("fifo:///run/x"), Ok(Target::Path("/run/x".into())));
        assert_eq!(target("file:///var/log/a%20b"), Ok(Target::File("/var/log/a b".into())));
        assert_eq!(
            target("binary:///bin/log?id=a%2Fb&quiet"),
            Ok(Target::Program {
                path: "/bin/log".into(),
                arguments: vec!["id".into(), "a/b".into(), "quiet".into()],
                must_speak: false
            })
        );
        assert!(target("http://x").is_err());
    }

    #[tokio::test]
    async fn a_fifo_is_given_away_and_does_not_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out");
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).expect("made");
        let streams = Streams {
            stdout: path.display().to_string(),
            ..Streams::default()
        };
        let client = std::thread::spawn({
            let path = path.clone();
            move || std::fs::read_to_string(path)
        });
        let owner = Owner {
            namespace: "ns",
            id: "a",
            uid: 0,
            gid: 0,
        };
        let mut opened = open(&streams, &owner).await.expect("opened");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo all of it"]);
        opened.give(&mut command);
        assert!(command.status().expect("runs").success());
        drop((command, opened));
        assert_eq!(client.join().expect("ends").expect("read"), "all of it\n");
    }

    #[tokio::test]
    async fn a_program_gets_both_streams() {
        let dir = tempfile::tempdir().expect("a directory");
        let (program, log) = (dir.path().join("log.sh"), dir.path().join("log"));
        let body = format!(
            "#!/bin/sh\nexec 5>&-\ncat <&3 >{0}\ncat <&4 >>{0}\necho $1=$2 $CONTAINER_ID >>{0}\n",
            log.display()
        );
        std::fs::write(&program, body).expect("written");
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
        let uri = format!("binary://{}?key=value", program.display());
        let streams = Streams {
            stdout: uri.clone(),
            stderr: uri,
            ..Streams::default()
        };
        let mut opened = open(
            &streams,
            &Owner {
                namespace: "ns",
                id: "a",
                uid: 0,
                gid: 0,
            },
        )
        .await
        .expect("opened");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo out; echo err >&2"]);
        opened.give(&mut command);
        command.status().expect("runs");
        drop((command, opened));
        let begin = std::time::Instant::now();
        while std::fs::read_to_string(&log).unwrap_or_default() != "out\nerr\nkey=value a\n" {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "{:?}",
                std::fs::read_to_string(&log)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
