//! What is between a backend and its record: names that garbage collection must not take for garbage.
//!
//! A blob or a snapshot exists in its backend a moment before its record is committed. Whoever makes one *holds* its name from before
//! the backend is told until after the record is there; whoever removes one from a backend must *claim* the name, look at the
//! records again, and only then remove it. A hold waits for a claim, so what is adopted is never being removed, and a claim is refused
//! while there is a hold. There is no further lock between the API and garbage collection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The name of a blob of the content store.
pub(crate) fn blob(digest: &str) -> String {
    format!("blob {digest}")
}

/// The name of an ingest of the content store.
pub(crate) fn ingest(backend: &str) -> String {
    format!("ingest {backend}")
}

/// The name of a snapshot of a snapshotter.
pub(crate) fn snapshot(snapshotter: &str, backend: &str) -> String {
    format!("snapshot {snapshotter} {backend}")
}

/// The name of a commit of a snapshot, told by the active one.
pub(crate) fn commit(snapshotter: &str, backend: &str) -> String {
    format!("commit {snapshotter} {backend}")
}

/// The name of a record of a snapshot that is about to be.
pub(crate) fn snapshot_record(ns: &str, snapshotter: &str, key: &str) -> String {
    format!("record {ns} {snapshotter} {key}")
}

/// The names in flight.
#[derive(Clone, Default)]
pub(crate) struct InFlight(Arc<Shared>);

#[derive(Default)]
struct Shared {
    names: Mutex<HashMap<String, Use>>,
    freed: Notify,
}

enum Use {
    Held(usize),
    Claimed,
}

/// A name in use until this is dropped.
pub(crate) struct InUse {
    shared: Arc<Shared>,
    name: String,
}

// === impl InFlight ===

impl InFlight {
    /// Holds `name`, together with others who hold it; waits while it is claimed.
    pub(crate) async fn hold(&self, name: String) -> InUse {
        self.acquire(name, |used| match used {
            None => Some(Use::Held(1)),
            Some(Use::Held(holders)) => Some(Use::Held(holders + 1)),
            Some(Use::Claimed) => None,
        })
        .await
    }

    /// Claims `name` alone; waits while it is in use.
    pub(crate) async fn claim(&self, name: String) -> InUse {
        self.acquire(name, |used| used.is_none().then_some(Use::Claimed)).await
    }

    /// Claims `name` alone, unless it is in use.
    pub(crate) fn try_claim(&self, name: String) -> Option<InUse> {
        self.try_acquire(&name, |used| used.is_none().then_some(Use::Claimed))
            .then(|| InUse {
                shared: Arc::clone(&self.0),
                name,
            })
    }

    async fn acquire(&self, name: String, next: impl Fn(Option<&Use>) -> Option<Use>) -> InUse {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            // Registered before the look, so that what is freed in between is not missed.
            freed.as_mut().enable();
            if self.try_acquire(&name, &next) {
                return InUse {
                    shared: Arc::clone(&self.0),
                    name,
                };
            }
            freed.await;
        }
    }

    fn try_acquire(&self, name: &str, next: impl Fn(Option<&Use>) -> Option<Use>) -> bool {
        let mut names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        match next(names.get(name)) {
            Some(used) => {
                names.insert(name.to_owned(), used);
                true
            }
            None => false,
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get_mut(&self.name) {
            Some(Use::Held(holders)) if *holders > 1 => *holders -= 1,
            _ => {
                names.remove(&self.name);
                self.shared.freed.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_claim_excludes_holds_and_holds_share() {
        let names = InFlight::default();
        let first = names.hold("x".into()).await;
        let second = names.hold("x".into()).await;
        assert!(names.try_claim("x".into()).is_none());
        assert!(names.try_claim("y".into()).is_some());
        drop(first);
        assert!(names.try_claim("x".into()).is_none());
        drop(second);
        let claim = names.try_claim("x".into()).expect("nobody holds it");
        assert!(names.hold("x".into()).now_or_never().is_none(), "held although claimed");
        let holder = tokio::spawn({
            let names = names.clone();
            async move { names.hold("x".into()).await }
        });
        tokio::task::yield_now().await;
        drop(claim);
        let held = holder.await.expect("no panic");
        let claimer = tokio::spawn({
            let names = names.clone();
            async move { names.claim("x".into()).await }
        });
        tokio::task::yield_now().await;
        drop(held);
        drop(claimer.await.expect("no panic"));
        assert!(names.0.names.lock().expect("whole").is_empty());
    }
}
