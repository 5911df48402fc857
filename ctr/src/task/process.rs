//! One process of a task, its first one or an exec, as calls of the daemon; and the loop that stays with it to its end.

use super::stdio::{Copies, InputEnd};
use crate::client::Client;
use crate::console::{RawConsole, Size};
use anyhow::{Context, Result};
use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, DeleteTaskRequest, KillRequest, ResizePtyRequest, StartRequest, WaitRequest,
};
use containerd_client::tonic::{Code, Status};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that are handed on to a task without a terminal. SIGCHLD and SIGURG are this process's own business.
const FORWARDED: &[i32] = &[
    nix::libc::SIGHUP,
    nix::libc::SIGINT,
    nix::libc::SIGQUIT,
    nix::libc::SIGTERM,
    nix::libc::SIGUSR1,
    nix::libc::SIGUSR2,
    nix::libc::SIGCONT,
    nix::libc::SIGTSTP,
    nix::libc::SIGWINCH,
];

/// A process: the container's first when `exec_id` is empty.
#[derive(Debug, Clone)]
pub struct Process {
    client: Client,
    container_id: String,
    exec_id: String,
}

/// How the time with a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with this status.
    Exited(u32),
    /// The detach keys were typed; it runs on.
    Detached,
}

impl Process {
    /// The first process of a container.
    pub fn init(client: &Client, container_id: &str) -> Self {
        Self::exec(client, container_id, "")
    }

    /// A process added to a container.
    pub fn exec(client: &Client, container_id: &str, exec_id: &str) -> Self {
        Self {
            client: client.clone(),
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
        }
    }

    /// Starts it; answers its process id.
    pub async fn start(&self) -> Result<u32, Status> {
        let request = StartRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
        };
        Ok(self
            .client
            .tasks()
            .start(self.client.request(request))
            .await?
            .into_inner()
            .pid)
    }

    /// Its exit status, once it has one. The future is independent of `self`; it is made *before* the start, so that no
    /// exit is missed.
    pub fn wait(&self) -> BoxFuture<'static, Result<u32, Status>> {
        let process = self.clone();
        let call = tokio::spawn(async move {
            let request = WaitRequest {
                container_id: process.container_id,
                exec_id: process.exec_id,
            };
            let answer = process.client.tasks().wait(process.client.request(request)).await?;
            Ok(answer.into_inner().exit_status)
        });
        async move {
            call.await
                .unwrap_or_else(|error| Err(Status::internal(error.to_string())))
        }
        .boxed()
    }

    /// Signals it, or with `all` every process of the container.
    pub async fn kill(&self, signal: u32, all: bool) -> Result<(), Status> {
        let request = KillRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            signal,
            all,
        };
        self.client.tasks().kill(self.client.request(request)).await.map(drop)
    }

    /// Tells it its terminal's size.
    pub async fn resize(&self, size: Size) -> Result<(), Status> {
        let request = ResizePtyRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            width: size.width,
            height: size.height,
        };
        self.client
            .tasks()
            .resize_pty(self.client.request(request))
            .await
            .map(drop)
    }

    /// Closes its standard input.
    pub async fn close_stdin(&self) -> Result<(), Status> {
        let request = CloseIoRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            stdin: true,
        };
        self.client
            .tasks()
            .close_io(self.client.request(request))
            .await
            .map(drop)
    }

    /// Deletes it: the task itself when it is the first process. Answers its exit status.
    pub async fn delete(&self) -> Result<u32, Status> {
        let container_id = self.container_id.clone();
        let answer = if self.exec_id.is_empty() {
            self.client
                .tasks()
                .delete(self.client.request(DeleteTaskRequest { container_id }))
                .await?
        } else {
            let request = DeleteProcessRequest {
                container_id,
                exec_id: self.exec_id.clone(),
            };
            self.client.tasks().delete_process(self.client.request(request)).await?
        };
        Ok(answer.into_inner().exit_status)
    }

    /// Kills it and waits for its end; a process that is gone already is a success.
    pub async fn kill_and_wait(&self) -> Result<(), Status> {
        let wait = self.wait();
        match self.kill(nix::libc::SIGKILL as u32, self.exec_id.is_empty()).await {
            Ok(()) => wait.await.map(drop),
            // Some shims answer so although they killed it, or because it has ended.
            Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) => Ok(()),
            Err(status) => Err(status),
        }
    }

    /// Stays with a started process: feeds it our input and closes it after ours, keeps its terminal's size or hands on signals, until
    /// it exits or the user detaches.
    pub async fn attend(
        &self,
        console: Option<&RawConsole>,
        copies: &mut Copies,
        mut wait: BoxFuture<'static, Result<u32, Status>>,
    ) -> Result<Outcome> {
        copies.start_input();
        let mut signals = match console {
            Some(console) => {
                self.fit(console).await;
                listen(&[nix::libc::SIGWINCH])?
            }
            None => listen(FORWARDED)?,
        };
        loop {
            tokio::select! {
                status = &mut wait => return Ok(Outcome::Exited(status?)),
                end = copies.input_end() => match end {
                    InputEnd::Detach => return Ok(Outcome::Detached),
                    // The process may have ended meanwhile: its exit, not this, is what counts.
                    InputEnd::Eof => drop(self.close_stdin().await),
                },
                Some(number) = signals.recv() => match console {
                    Some(console) => self.fit(console).await,
                    None => match self.kill(number, false).await {
                        Err(status) if status.code() != Code::NotFound => {
                            eprintln!("ctr: cannot forward signal {number}: {}", status.message());
                        }
                        _ => {}
                    },
                },
            }
        }
    }

    async fn fit(&self, console: &RawConsole) {
        match console.size() {
            Ok(size) => {
                // Mostly because the process has just ended, which is about to be told anyway.
                if let Err(status) = self.resize(size).await {
                    self.client
                        .debug(|| format!("cannot resize the task's terminal: {}\r", status.message()));
                }
            }
            // In raw mode a new line needs its carriage return.
            Err(error) => eprint!("ctr: {error:#}\r\n"),
        }
    }
}

/// Collects signals into one queue.
fn listen(numbers: &[i32]) -> Result<mpsc::Receiver<u32>> {
    let (sender, receiver) = mpsc::channel(64);
    for &number in numbers {
        let mut stream =
            signal(SignalKind::from_raw(number)).with_context(|| format!("cannot listen for signal {number}"))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(number as u32).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}
