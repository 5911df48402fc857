//! A process of a container, its first or one that `exec` added: what is known of it, from its creation to its deletion.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::Status;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::console::Console;
use crate::error::{Error, Result};
use crate::reaper::Exit;
use crate::stdio::{Held, Streams};

/// How long a deletion waits for a terminal's last bytes, when something else still has it open.
const DRAIN: Duration = Duration::from_secs(10);

/// Where a process is in its life: created → running ⇄ paused → stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Created,
    Running,
    Paused,
    Stopped,
}

pub struct Process {
    /// Empty for the container's first.
    pub exec_id: String,
    pub streams: Streams,
    state: Mutex<State>,
    exit: watch::Sender<Option<Exit>>,
}

struct State {
    phase: Phase,
    pid: i32,
    console: Option<Console>,
    held: Held,
    copies: Vec<JoinHandle<()>>,
}

// === impl Phase ===

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    pub fn status(self) -> Status {
        match self {
            Self::Created => Status::CREATED,
            Self::Running => Status::RUNNING,
            Self::Paused => Status::PAUSED,
            Self::Stopped => Status::STOPPED,
        }
    }
}

// === impl Process ===

impl Process {
    pub fn new(exec_id: &str, streams: Streams) -> Self {
        Self {
            exec_id: exec_id.to_owned(),
            streams,
            state: Mutex::new(State {
                phase: Phase::Created,
                pid: 0,
                console: None,
                held: Held::default(),
                copies: Vec::new(),
            }),
            exit: watch::Sender::new(None),
        }
    }

    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    pub fn pid(&self) -> i32 {
        self.lock().pid
    }

    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Fails unless it is in one of `phases`.
    pub fn require(&self, doing: &str, phases: &[Phase]) -> Result<()> {
        let phase = self.phase();
        if phases.contains(&phase) {
            return Ok(());
        }
        Err(Error::failed_precondition(format!(
            "cannot {doing} a {} process",
            phase.name()
        )))
    }

    /// An end that has come already is not undone.
    pub fn set_phase(&self, phase: Phase) {
        let mut state = self.lock();
        if state.phase != Phase::Stopped {
            state.phase = phase;
        }
    }

    pub fn set_pid(&self, pid: i32) {
        self.lock().pid = pid;
    }

    pub fn set_streams(&self, held: Held) {
        self.lock().held = held;
    }

    pub fn set_console(&self, console: Console, copies: Vec<JoinHandle<()>>, held: Held) {
        let mut state = self.lock();
        state.console = Some(console);
        state.copies = copies;
        state.held = held;
    }

    /// It has ended: who waits is told, and its outputs end when the last process that has them does.
    pub fn ended(&self, exit: Exit) {
        let mut state = self.lock();
        state.phase = Phase::Stopped;
        // A terminal's output is let go when all of it is copied.
        if state.console.is_none() {
            state.held = Held::default();
        }
        if let Some(output) = state.copies.first()
            && output.is_finished()
        {
            state.held.output = Vec::new();
        }
        drop(state);
        self.exit.send_replace(Some(exit));
    }

    /// Returns once it has ended, at once if it has.
    pub async fn wait(&self) -> Result<Exit> {
        let mut exits = self.exit.subscribe();
        let exit = exits.wait_for(Option::is_some).await;
        exit.ok()
            .and_then(|exit| *exit)
            .ok_or_else(|| Error::unknown("the shim is ending"))
    }

    /// Nothing more comes from the client.
    pub fn close_input(&self) {
        let input: Option<OwnedFd> = self.lock().held.input.take();
        drop(input);
    }

    pub fn resize(&self, columns: u32, rows: u32) -> Result<()> {
        let console = self.lock().console.clone();
        match console {
            Some(console) => console.resize(columns as u16, rows as u16),
            None => Ok(()),
        }
    }

    /// Waits for the last bytes, and lets go of everything.
    pub async fn drain(&self) {
        let (copies, console) = {
            let mut state = self.lock();
            (std::mem::take(&mut state.copies), state.console.take())
        };
        let mut copies = copies.into_iter();
        if let Some(mut output) = copies.next()
            && tokio::time::timeout(DRAIN, &mut output).await.is_err()
        {
            crate::log(
                "warning",
                "a terminal is still open after its process has ended: its output is cut off",
            );
            output.abort();
        }
        for input in copies {
            input.abort();
        }
        drop(console);
        self.lock().held = Held::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
