//! Terminals: the runtime sends the master over a socket, and its bytes go to and from the client's fifos.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::ready;
use crate::stdio::{self, Held, Owner, Streams};

/// How long a runtime that has succeeded may take to send the terminal.
const RECEIVE: Duration = Duration::from_secs(30);

/// The socket that a runtime sends a terminal to.
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Its name for a command that runs in the bundle.
    pub name: String,
}

/// The master's side of a terminal.
#[derive(Clone)]
pub struct Console(Arc<AsyncFd<OwnedFd>>);

// === impl ConsoleSocket ===

impl ConsoleSocket {
    /// Makes one in a bundle.
    pub fn new(bundle: &Path, process: &str) -> Result<Self> {
        let name = format!("pty-{process}.sock");
        let path = bundle.join(&name);
        let doing = |error: io::Error| Error::io(format!("make the console socket {}", path.display()), error);
        let directory = std::fs::File::open(bundle).map_err(doing)?;
        let _ = std::fs::remove_file(&path);
        // Bundles can be deeper than the address of a socket is long.
        let short = format!("/proc/self/fd/{}/{name}", std::os::fd::AsRawFd::as_raw_fd(&directory));
        let listener = UnixListener::bind(short).map_err(doing)?;
        Ok(Self { listener, path, name })
    }

    /// The master that was sent.
    pub async fn receive(&self) -> Result<Console> {
        let received = tokio::time::timeout(RECEIVE, self.receive_descriptor()).await;
        let master = match received {
            Ok(result) => result.map_err(|error| Error::io("failed to retrieve console master", error))?,
            Err(_) => {
                return Err(Error::unknown(
                    "failed to retrieve console master: the runtime has sent none",
                ));
            }
        };
        let open = |master| {
            rustix::io::ioctl_fionbio(&master, true)?;
            ready::register(master)
        };
        let master = open(master).map_err(|error| Error::io("use the console master", error))?;
        Ok(Console(Arc::new(master)))
    }

    async fn receive_descriptor(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept().await?;
        loop {
            stream.readable().await?;
            // runc sends the terminal's name beside the descriptor.
            let mut name = [0; 4096];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = stream.try_io(tokio::io::Interest::READABLE, || {
                let mut parts = [io::IoSliceMut::new(&mut name)];
                Ok(recvmsg(&stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?)
            });
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                received => received?,
            };
            let mut descriptors = ancillary.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
                _ => None,
            });
            return descriptors
                .next()
                .ok_or_else(|| io::Error::other("a message without a descriptor"));
        }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

// === impl Console ===

impl Console {
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(self.0.get_ref(), size).map_err(|error| Error::io("resize the terminal", error))
    }

    /// Starts copying. The first task is the output's, which ends when the last process has closed the terminal.
    pub async fn connect(&self, streams: &Streams, owner: &Owner<'_>) -> Result<(Vec<JoinHandle<()>>, Held)> {
        let mut held = Held::default();
        let mut copies = Vec::new();
        if let Some(fd) = stdio::open_terminal_output(&streams.stdout, owner, &mut held.output).await? {
            let sink = Sink::new(fd).map_err(|error| Error::io(format!("use {}", streams.stdout), error))?;
            copies.push(tokio::spawn(output(self.clone(), sink)));
        } else {
            copies.push(tokio::spawn(output(self.clone(), Sink::Nothing)));
        }
        if !streams.stdin.is_empty() {
            let (read, hold) = stdio::open_input(Path::new(&streams.stdin))?;
            held.input = Some(hold);
            let read = ready::register(read).map_err(|error| Error::io(format!("use {}", streams.stdin), error))?;
            copies.push(tokio::spawn(input(read, self.clone())));
        }
        Ok((copies, held))
    }
}

/// Where a terminal's output goes.
enum Sink {
    Nothing,
    /// A fifo or a pipe.
    Pipe(AsyncFd<OwnedFd>),
    /// A file, which is always ready and which epoll refuses.
    File(OwnedFd),
}

// === impl Sink ===

impl Sink {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let kind = rustix::fs::fstat(&fd)?.st_mode;
        Ok(match rustix::fs::FileType::from_raw_mode(kind) {
            rustix::fs::FileType::RegularFile => Self::File(fd),
            _ => Self::Pipe(ready::register(fd)?),
        })
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match self {
                Self::Nothing => bytes.len(),
                Self::File(file) => rustix::io::write(file, bytes)?,
                Self::Pipe(pipe) => ready::write(pipe, bytes).await?,
            };
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

async fn output(console: Console, sink: Sink) {
    // EIO: nobody has the terminal open any more.
    while let Ok(bytes) = ready::read(&console.0).await {
        if bytes.is_empty() {
            break;
        }
        if let Err(error) = sink.write(&bytes).await {
            crate::log(
                "warning",
                &format!("a terminal's output is not written any more: {error}"),
            );
            break;
        }
    }
}

async fn input(fifo: AsyncFd<OwnedFd>, console: Console) {
    while let Ok(bytes) = ready::read(&fifo).await {
        let mut rest = &bytes[..];
        if rest.is_empty() {
            break;
        }
        while !rest.is_empty() {
            match ready::write(&console.0, rest).await {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Err(_) => return,
            }
        }
    }
}
