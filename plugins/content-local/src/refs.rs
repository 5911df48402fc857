//! Who writes which ingest: one writer a reference.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use orlop_plugin::contract::IngestStatus;
use orlop_plugin::{Error, Result};
use tokio::sync::Notify;

/// How long a second writer waits for the first one to let go. A client that gives a stream up and comes back at once may well
/// arrive before its old stream has ended here; containerd waits about as long.
const PATIENCE: Duration = Duration::from_millis(500);

/// The ingests being written, by the name of their directory.
#[derive(Default)]
pub(crate) struct Refs {
    active: Mutex<HashMap<String, Arc<Active>>>,
    released: Notify,
}

/// An ingest being written, as others see it.
pub(crate) struct Active {
    name: String,
    status: Mutex<IngestStatus>,
    aborted: Mutex<bool>,
}

/// The right to write an ingest, given back when dropped.
pub(crate) struct Held {
    refs: Arc<Refs>,
    active: Arc<Active>,
}

// === impl Refs ===

impl Refs {
    /// Takes the right to write the ingest `name`, waiting a moment for another writer to end.
    pub(crate) async fn hold(self: &Arc<Self>, name: &str, reference: &str) -> Result<Held> {
        let wait = async {
            loop {
                let released = self.released.notified();
                tokio::pin!(released);
                // Listening must begin before looking, or a release in between is missed.
                released.as_mut().enable();
                if let Some(held) = self.try_hold(name, reference) {
                    return held;
                }
                released.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.map_err(|_| {
            Error::unavailable(format!(
                "ingest {reference:?} is being written by another client: try again when it has ended"
            ))
        })
    }

    /// The same without waiting.
    pub(crate) fn try_hold(self: &Arc<Self>, name: &str, reference: &str) -> Option<Held> {
        let mut all = self.lock();
        if all.contains_key(name) {
            return None;
        }
        let now = SystemTime::now();
        let active = Arc::new(Active {
            name: name.to_owned(),
            status: Mutex::new(IngestStatus {
                reference: reference.to_owned(),
                started: now,
                updated: now,
                offset: 0,
                total: 0,
                expected: None,
            }),
            aborted: Mutex::new(false),
        });
        all.insert(name.to_owned(), active.clone());
        Some(Held {
            refs: self.clone(),
            active,
        })
    }

    /// The ingest `name`, if it is being written.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Active>> {
        self.lock().get(name).cloned()
    }

    /// Every ingest being written, by the name of its directory.
    pub(crate) fn all(&self) -> HashMap<String, Arc<Active>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Active>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Active ===

impl Active {
    /// How far it is.
    pub(crate) fn status(&self) -> IngestStatus {
        self.lock_status().clone()
    }

    /// The same for others than its writer: nothing once it was aborted, though the writer may not have noticed.
    pub(crate) fn shown(&self) -> Option<IngestStatus> {
        // While the guard is held somebody works on the files: it is still there.
        let aborted = self.aborted.try_lock().is_ok_and(|aborted| *aborted);
        (!aborted).then(|| self.status())
    }

    /// Replaces what is known of it.
    pub(crate) fn set(&self, status: IngestStatus) {
        *self.lock_status() = status;
    }

    /// It has `offset` bytes from now on.
    pub(crate) fn advance(&self, offset: u64) {
        let mut status = self.lock_status();
        status.offset = offset;
        status.updated = SystemTime::now();
    }

    /// Whether it was aborted. What makes or names files keeps the guard meanwhile, so that an abort comes before or after.
    pub(crate) fn aborted(&self) -> MutexGuard<'_, bool> {
        self.aborted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of a writer whose ingest is gone.
    pub(crate) fn gone(&self) -> Error {
        Error::not_found(format!("ingest {:?} was aborted", self.lock_status().reference))
    }

    fn lock_status(&self) -> MutexGuard<'_, IngestStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Held ===

impl Held {
    /// What is held.
    pub(crate) fn active(&self) -> &Arc<Active> {
        &self.active
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.refs.lock().remove(&self.active.name);
        self.refs.released.notify_waiters();
    }
}
