//! One program of a pipeline.

use std::io::{PipeReader, Write};
use std::os::fd::AsRawFd;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::libc;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use orlop_plugin::{Error, Result, blocking};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::Step;

/// The most that is kept of what a program says on stderr.
const SAID_LIMIT: u64 = 16 << 10;

/// Where a program finds its payload: Go's first `ExtraFiles`.
const PAYLOAD_FD: i32 = 3;

/// A program that runs. It and its process group are killed when this is dropped before it ended.
pub(super) struct Program {
    id: String,
    path: String,
    // In this order: while the child was not waited for, its id is its own.
    group: Option<Pid>,
    child: Child,
    said: Arc<Mutex<Vec<u8>>>,
    listening: Option<JoinHandle<()>>,
}

// === impl Program ===

impl Program {
    /// Starts the program of `step`, reading from `stdin`, or, without one, from the end of a pipe that is returned.
    ///
    /// `FailedPrecondition` when it does not start, whatever the reason.
    pub(super) async fn start(
        step: Step,
        stdin: Option<Stdio>,
        payload: Option<Vec<u8>>,
    ) -> Result<(Self, Option<ChildStdin>, ChildStdout)> {
        let Step { processor, media_type } = step;
        let (id, path) = (processor.id.clone(), processor.path.clone());
        let failed = move |error: std::io::Error| {
            Error::failed_precondition(format!(
                "start {path:?}, the stream processor {id} of [stream_processors]: {error}"
            ))
        };
        let payload = payload.map(pipe_with).transpose().map_err(&failed)?;
        let mut command = Command::new(&processor.path);
        command
            .args(&processor.args)
            .envs(processor.env.iter().filter_map(|entry| entry.split_once('=')))
            .env("STREAM_PROCESSOR_MEDIATYPE", media_type)
            .stdin(stdin.unwrap_or_else(Stdio::piped))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(payload) = &payload {
            hand_over(&mut command, payload);
        }
        let mut child = blocking(move || {
            let spawned = command.spawn().map_err(failed);
            drop(payload);
            spawned
        })
        .await?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let listening = child
            .stderr
            .take()
            .map(|stderr| tokio::spawn(listen(stderr, said.clone())));
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let program = Self {
            id: processor.id,
            path: processor.path,
            // No process has an id that does not fit.
            group: child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw),
            child,
            said,
            listening,
        };
        let stdout = stdout.ok_or_else(|| Error::internal("a child has no stdout though one was asked for"))?;
        Ok((program, stdin, stdout))
    }

    /// Waits for its end, once its stdout is at its own. `FailedPrecondition` when it says that it failed.
    pub(super) async fn end(&mut self) -> Result<()> {
        if let Some(listening) = self.listening.take() {
            // It does not panic, and nobody aborts it.
            let _ = listening.await;
        }
        let status = self.child.wait().await;
        self.group = None;
        let status: ExitStatus =
            status.map_err(|error| Error::internal(format!("wait for the stream processor {}: {error}", self.id)))?;
        if status.success() {
            return Ok(());
        }
        let said = self.said();
        let said = if said.is_empty() { "it said nothing" } else { &said };
        Err(Error::failed_precondition(format!(
            "the stream processor {} ({}) failed: {status}: {said}",
            self.id, self.path
        )))
    }

    /// What it has said on stderr so far.
    pub(super) fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&said).trim().to_owned()
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // It may have ended just now.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Reads all of stderr, so that the program never waits for us, and keeps the beginning.
async fn listen(mut stderr: impl AsyncRead + Unpin, said: Arc<Mutex<Vec<u8>>>) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stderr.read(&mut piece).await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let room = (SAID_LIMIT as usize).saturating_sub(said.len());
        said.extend_from_slice(&piece[..length.min(room)]);
    }
}

/// A pipe that `payload` comes out of.
fn pipe_with(payload: Vec<u8>) -> std::io::Result<PipeReader> {
    let (reader, mut writer) = std::io::pipe()?;
    // It ends with the last reader, which is the program: a payload that nobody reads is no fault.
    tokio::task::spawn_blocking(move || drop(writer.write_all(&payload)));
    Ok(reader)
}

/// Makes `payload` descriptor 3 of the program.
#[expect(unsafe_code, reason = "which descriptors a child gets can be said in no other way")]
fn hand_over(command: &mut Command, payload: &PipeReader) {
    let payload = payload.as_raw_fd();
    // SAFETY: between fork and exec this calls dup2 and fcntl only, which are async-signal-safe, and touches no memory but its own.
    // `payload` is open, as the caller keeps it until the child was started.
    unsafe {
        command.pre_exec(move || {
            let done = if payload == PAYLOAD_FD {
                libc::fcntl(payload, libc::F_SETFD, 0)
            } else {
                libc::dup2(payload, PAYLOAD_FD)
            };
            if done < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
