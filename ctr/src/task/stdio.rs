//! Standard input and output of a task: fifos between the shim and this process.
//!
//! The order of opening is what makes fifos deadlock. Here no open ever blocks: the writing end of stdin is opened for
//! reading and writing, which needs no reader, and the reading ends of stdout and stderr are opened non-blocking and
//! then *polled*, which on Linux reports a hang-up only after a writer has been there and gone. So all ends can be
//! opened before the shim exists, and nothing that it writes is lost.
//!
//! Copying runs on plain threads: a read of standard input cannot be interrupted, and such a thread does not keep the
//! process from ending.

use crate::console::DetachKeys;
use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write, stderr, stdin, stdout};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

/// Where fifos are made unless `--fifo-dir` says otherwise.
pub const FIFO_DIR: &str = "/run/containerd/fifo";

/// How long output may keep coming after the task is deleted, when the shim has closed its ends.
const DRAIN: Duration = Duration::from_secs(10);

/// Status of a process that SIGPIPE ends, as shells see it.
const BROKEN_PIPE: i32 = 128 + nix::libc::SIGPIPE;

/// What a task's standard streams are connected to, as the API names it. Empty strings are `/dev/null`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streams {
    /// Fifo for input.
    pub stdin: String,
    /// Fifo for output, or a log URI.
    pub stdout: String,
    /// Fifo for errors, or a log URI; empty with a terminal.
    pub stderr: String,
    /// Whether the task has a terminal.
    pub terminal: bool,
}

impl Streams {
    /// Everything to `/dev/null`.
    pub fn null() -> Self {
        Self::default()
    }

    /// Output to a log URI (`binary:///…`, `file:///…`); the shim opens it.
    pub fn log(uri: &str) -> Self {
        Self {
            stdout: uri.to_owned(),
            stderr: uri.to_owned(),
            ..Self::default()
        }
    }

    /// Makes the fifos of process `id` in a new private directory under `root`.
    pub fn make(root: Option<&Path>, id: &str, terminal: bool) -> Result<Self> {
        let root = root.unwrap_or(Path::new(FIFO_DIR));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .with_context(|| format!("cannot make the fifo directory {}", root.display()))?;
        let directory = tempfile::Builder::new()
            .tempdir_in(root)
            .with_context(|| format!("cannot make a directory in {}", root.display()))?
            .keep();
        let fifo = |stream: &str| -> Result<String> {
            let path = directory.join(format!("{id}-{stream}"));
            nix::unistd::mkfifo(&path, Mode::S_IRWXU)
                .with_context(|| format!("cannot make fifo {}", path.display()))?;
            Ok(path.to_string_lossy().into_owned())
        };
        let stderr = if terminal { String::new() } else { fifo("stderr")? };
        Ok(Self {
            stdin: fifo("stdin")?,
            stdout: fifo("stdout")?,
            stderr,
            terminal,
        })
    }

    /// Removes the fifos and their directory. Log URIs and other files are left alone, as is what is gone already.
    pub fn remove(&self) {
        let mut directories: Vec<PathBuf> = Vec::new();
        for path in [&self.stdin, &self.stdout, &self.stderr].map(Path::new) {
            let fifo =
                std::fs::symlink_metadata(path).is_ok_and(|m| std::os::unix::fs::FileTypeExt::is_fifo(&m.file_type()));
            if fifo && std::fs::remove_file(path).is_ok() {
                directories.extend(path.parent().map(Path::to_owned));
            }
        }
        directories.dedup();
        for directory in directories {
            // Only an empty one goes; anything else in it is somebody else's.
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// What the copying of input ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputEnd {
    /// Standard input is at its end: the task's is to be closed too.
    Eof,
    /// The detach keys were typed.
    Detach,
}

/// Running copies between this process's streams and a task's.
#[derive(Debug, Default)]
pub struct Copies {
    outputs: Vec<oneshot::Receiver<()>>,
    held_input: Option<(File, bool)>,
    input: Option<oneshot::Receiver<InputEnd>>,
}

impl Copies {
    /// Opens the fifos of `streams` and starts to copy the output. With `detach_keys`, Ctrl-P Ctrl-Q ends the input.
    pub fn start(streams: &Streams, detach_keys: bool) -> Result<Self> {
        let mut copies = Self::default();
        if is_path(&streams.stdout) {
            copies.outputs.push(copy_output(&streams.stdout, stdout())?);
        }
        if is_path(&streams.stderr) && !streams.terminal {
            copies.outputs.push(copy_output(&streams.stderr, stderr())?);
        }
        if is_path(&streams.stdin) {
            let open = OpenOptions::new().read(true).write(true).open(&streams.stdin);
            let target = open.with_context(|| format!("cannot open fifo {}", streams.stdin))?;
            copies.held_input = Some((target, detach_keys));
        }
        Ok(copies)
    }

    /// Starts to copy the input. Only when the process runs, because only then the shim is sure to have opened its end:
    /// a short input, written and closed before, would be gone with the last open end of the fifo.
    pub fn start_input(&mut self) {
        self.input = self
            .held_input
            .take()
            .map(|(target, detach_keys)| copy_input(target, detach_keys));
    }

    /// Waits for the end of the input; never returns when there is none, or when it ended before.
    pub async fn input_end(&mut self) -> InputEnd {
        if let Some(input) = self.input.as_mut() {
            let end = input.await;
            self.input = None;
            if let Ok(end) = end {
                return end;
            }
        }
        std::future::pending().await
    }

    /// Waits for the end of the output, however long the process runs.
    pub async fn finish(self) {
        for output in self.outputs {
            // An error is a copy that is over, too.
            drop(output.await);
        }
    }

    /// Waits until all output has been written. To be called when the shim has closed its ends; should a process that
    /// outlives the task hold one, it gives up after ten seconds.
    pub async fn drain(self) {
        for output in self.outputs {
            if tokio::time::timeout(DRAIN, output).await.is_err() {
                eprintln!(
                    "ctr: output is still open {} s after the end of the task; leaving it",
                    DRAIN.as_secs()
                );
                return;
            }
        }
    }
}

fn is_path(stream: &str) -> bool {
    !stream.is_empty() && !stream.contains("://")
}

fn copy_output(path: &str, mut target: impl Write + Send + 'static) -> Result<oneshot::Receiver<()>> {
    let mut source = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
        .with_context(|| format!("cannot open fifo {path}"))?;
    let (done, finished) = oneshot::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(count @ 1..) = read_polled(&mut source, &mut buffer) {
            // `ctr run … | head`: SIGPIPE would end this process here, were it not ignored in Rust. The shim keeps a
            // reader of its own at the fifo, so the task would not learn that nobody reads, and it would hang with us.
            match target.write_all(&buffer[..count]).and_then(|()| target.flush()) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(BROKEN_PIPE),
                Err(_) => break,
            }
        }
        drop(source);
        let _ = done.send(());
    });
    Ok(finished)
}

fn copy_input(mut target: File, detach_keys: bool) -> oneshot::Receiver<InputEnd> {
    let (done, finished) = oneshot::channel();
    thread::spawn(move || {
        let mut keys = detach_keys.then(DetachKeys::default);
        let mut buffer = vec![0; 32 << 10];
        let end = loop {
            let count = match stdin().read(&mut buffer) {
                Ok(count @ 1..) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => break InputEnd::Eof,
            };
            let written = match keys.as_mut() {
                None => target.write_all(&buffer[..count]),
                Some(keys) => {
                    let typed = keys.feed(&buffer[..count]);
                    let written = target.write_all(&typed.bytes);
                    if typed.detach {
                        break InputEnd::Detach;
                    }
                    written
                }
            };
            if written.is_err() {
                break InputEnd::Eof;
            }
        };
        // Closed before the end is told: the shim, asked to close its own end, then sees no writer left.
        drop(target);
        let _ = done.send(end);
    });
    finished
}

/// Reads once a writer has written or all writers have gone (0).
fn read_polled(source: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        let mut fds = [PollFd::new(source.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match source.read(buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn output_waits_for_its_writer_and_ends_with_it() {
        let root = tempfile::tempdir().unwrap();
        let streams = Streams::make(Some(root.path()), "t", false).unwrap();
        struct Sink(mpsc::Sender<Vec<u8>>);
        impl Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.send(bytes.to_vec()).unwrap();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (sender, receiver) = mpsc::channel();
        let finished = copy_output(&streams.stdout, Sink(sender)).unwrap();
        // No writer yet: this is not the end of the output.
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        std::fs::write(&streams.stdout, b"hello").unwrap();
        finished.blocking_recv().unwrap();
        assert_eq!(receiver.iter().flatten().collect::<Vec<_>>(), b"hello");
        streams.remove();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_terminal_has_no_stderr_and_a_log_no_fifos() {
        let root = tempfile::tempdir().unwrap();
        let streams = Streams::make(Some(root.path()), "t", true).unwrap();
        assert!(streams.stderr.is_empty());
        let log = Streams::log("file:///tmp/log");
        assert!(!is_path(&log.stdout));
        log.remove();
    }
}
