//! Every child's end is collected here: the runtime's commands, and the containers' processes, which become children of the shim when the
//! command that started them ends (`PR_SET_CHILD_SUBREAPER`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::process::{WaitOptions, wait};
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; 128 and the signal for what a signal ended.
    pub status: u32,
    pub at: SystemTime,
}

#[derive(Default)]
pub struct Reaper {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    expected: HashMap<i32, oneshot::Sender<Exit>>,
    /// What ended while somebody was starting something whose pid was not known yet.
    early: HashMap<i32, Exit>,
    starting: usize,
}

/// While it lives, the ends of unknown processes are remembered.
pub struct Starting<'a>(&'a Reaper);

// === impl Reaper ===

impl Reaper {
    /// Call before starting something that makes processes whose pids one learns afterwards.
    pub fn starting(&self) -> Starting<'_> {
        self.lock().starting += 1;
        Starting(self)
    }

    /// The end of `pid`, which may have come already if a [`Starting`] is there.
    pub fn expect(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        match state.early.remove(&pid) {
            Some(exit) => drop(sender.send(exit)),
            None => drop(state.expected.insert(pid, sender)),
        }
        receiver
    }

    /// Collects all that has ended.
    pub fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => code,
                (None, Some(signal)) => 128 + signal,
                // Stopped or continued: not asked for.
                (None, None) => continue,
            };
            let exit = Exit {
                status: status as u32,
                at: SystemTime::now(),
            };
            let pid = pid.as_raw_nonzero().get();
            let mut state = self.lock();
            if let Some(sender) = state.expected.remove(&pid) {
                // Nobody waits for what was given up.
                let _ = sender.send(exit);
            } else if state.starting > 0 {
                state.early.insert(pid, exit);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.starting -= 1;
        if state.starting == 0 {
            state.early = HashMap::new();
        }
    }
}
