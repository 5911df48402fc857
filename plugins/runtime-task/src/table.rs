//! Which tasks there are, by namespace and id, and which names are taken by tasks that come or go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orlop_plugin::{Error, Result};
use tokio::sync::watch;

use crate::task::Task;

type Key = (String, String);

/// The tasks of all namespaces.
#[derive(Default)]
pub struct Table(Mutex<BTreeMap<Key, Slot>>);

enum Slot {
    /// The task is there.
    Living(Arc<Task>),
    /// It is not, yet or any more; the other end is dropped when that is decided.
    Changing(Change, watch::Receiver<()>),
}

/// Why a name is taken though there is no task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is being created.
    Creating,
    /// A daemon before this one had it; its shim is being asked.
    Loading,
    /// It is gone, its shim is about to be.
    Ending,
}

/// A name that is taken. Dropped, it is free again.
pub struct Reservation {
    table: Arc<Table>,
    key: Key,
    _decided: watch::Sender<()>,
}

// === impl Table ===

impl Table {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<Key, Slot>> {
        // No code that can panic runs under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name for a task to be created. `AlreadyExists` when there is one; waits for one that is just ending.
    pub async fn reserve(self: &Arc<Self>, namespace: &str, id: &str) -> Result<Reservation> {
        let key = (namespace.to_owned(), id.to_owned());
        loop {
            let mut undecided = {
                let mut slots = self.slots();
                match slots.get(&key) {
                    None => return Ok(self.take(&mut slots, key, Change::Creating)),
                    Some(Slot::Living(_) | Slot::Changing(Change::Creating, _)) => {
                        return Err(Error::already_exists(format!("task {id}: already exists")));
                    }
                    Some(Slot::Changing(_, undecided)) => undecided.clone(),
                }
            };
            while undecided.changed().await.is_ok() {}
        }
    }

    /// Takes a name for a task that an earlier daemon had. Only at the start, when there is no other.
    pub fn reserve_loading(self: &Arc<Self>, namespace: &str, id: &str) -> Reservation {
        let key = (namespace.to_owned(), id.to_owned());
        self.take(&mut self.slots(), key, Change::Loading)
    }

    fn take(self: &Arc<Self>, slots: &mut BTreeMap<Key, Slot>, key: Key, change: Change) -> Reservation {
        let (decided, undecided) = watch::channel(());
        slots.insert(key.clone(), Slot::Changing(change, undecided));
        Reservation {
            table: self.clone(),
            key,
            _decided: decided,
        }
    }

    /// The task `id`. Waits while it is being loaded.
    pub async fn get(&self, namespace: &str, id: &str) -> Result<Arc<Task>> {
        let key = (namespace.to_owned(), id.to_owned());
        loop {
            let mut undecided = match self.slots().get(&key) {
                Some(Slot::Living(task)) => return Ok(task.clone()),
                Some(Slot::Changing(Change::Loading, undecided)) => undecided.clone(),
                None | Some(Slot::Changing(..)) => return Err(Error::not_found(format!("task {id}: not found"))),
            };
            while undecided.changed().await.is_ok() {}
        }
    }

    /// All tasks of a namespace, by id. Waits while some are being loaded.
    pub async fn list(&self, namespace: &str) -> Vec<Arc<Task>> {
        loop {
            let (mut living, mut loading) = (Vec::new(), None);
            for (_, slot) in self.slots().iter().filter(|((of, _), _)| of == namespace) {
                match slot {
                    Slot::Living(task) => living.push(task.clone()),
                    Slot::Changing(Change::Loading, undecided) => loading = Some(undecided.clone()),
                    Slot::Changing(..) => {}
                }
            }
            match loading {
                None => return living,
                Some(mut undecided) => while undecided.changed().await.is_ok() {},
            }
        }
    }

    /// Takes a task away and keeps its name until its shim has ended; `None` when that is done already.
    pub fn retire(self: &Arc<Self>, task: &Arc<Task>) -> Option<Reservation> {
        let key = (task.bundle.namespace.clone(), task.bundle.id.clone());
        let mut slots = self.slots();
        match slots.get(&key) {
            Some(Slot::Living(living)) if Arc::ptr_eq(living, task) => Some(self.take(&mut slots, key, Change::Ending)),
            _ => None,
        }
    }

    /// Whether a task is served at this address.
    pub fn serves(&self, address: &str) -> bool {
        self.slots()
            .values()
            .any(|slot| matches!(slot, Slot::Living(task) if task.bootstrap.address == address))
    }

    /// Does `work` while nobody can take this name; `None` when it is taken.
    pub fn unless_taken<T>(&self, namespace: &str, id: &str, work: impl FnOnce() -> T) -> Option<T> {
        let slots = self.slots();
        let free = !slots.contains_key(&(namespace.to_owned(), id.to_owned()));
        free.then(work)
    }

    /// Forgets all tasks, and says which there were.
    pub fn clear(&self) -> Vec<Arc<Task>> {
        std::mem::take(&mut *self.slots())
            .into_values()
            .filter_map(|slot| match slot {
                Slot::Living(task) => Some(task),
                Slot::Changing(..) => None,
            })
            .collect()
    }
}

// === impl Reservation ===

impl Reservation {
    /// The task is there: whoever waited for it goes on.
    pub fn fill(self, task: Arc<Task>) {
        self.table.slots().insert(self.key.clone(), Slot::Living(task));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut slots = self.table.slots();
        if matches!(slots.get(&self.key), Some(Slot::Changing(..))) {
            slots.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_taken_once_and_free_again() {
        let table = Arc::new(Table::default());
        let creating = table.reserve("ns", "box").await.expect("free");
        assert!(
            table
                .reserve("ns", "box")
                .await
                .is_err_and(|error| error.is_already_exists())
        );
        assert!(
            table.reserve("other", "box").await.is_ok(),
            "another namespace is another name"
        );
        assert!(table.get("ns", "box").await.is_err_and(|error| error.is_not_found()));
        drop(creating);
        assert!(table.reserve("ns", "box").await.is_ok());
    }

    #[tokio::test]
    async fn who_asks_while_loading_waits_for_the_answer() {
        let table = Arc::new(Table::default());
        let loading = table.reserve_loading("ns", "box");
        let waiting = tokio::spawn({
            let table = table.clone();
            async move {
                let reserved = table.reserve("ns", "box").await.map(drop);
                (
                    reserved,
                    table.get("ns", "box").await.map(drop),
                    table.list("ns").await.len(),
                )
            }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert_eq!(table.list("other").await.len(), 0, "others do not wait");
        drop(loading);
        let (reserved, got, listed) = waiting.await.expect("joined");
        assert!(reserved.is_ok() && got.is_err_and(|error| error.is_not_found()) && listed == 0);
    }
}
