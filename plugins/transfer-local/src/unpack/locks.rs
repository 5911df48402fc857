//! Locks by name, made when asked for and gone when nobody holds them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Locks by name.
#[derive(Default)]
pub struct KeyedLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

// === impl KeyedLocks ===

impl KeyedLocks {
    /// Waits for the lock `key`.
    pub async fn lock(&self, key: String) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let lock = locks.get(&key).and_then(Weak::upgrade).unwrap_or_default();
            locks.insert(key, Arc::downgrade(&lock));
            lock
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_key_is_locked_once_and_forgotten() {
        let locks = KeyedLocks::default();
        let held = locks.lock("a".to_owned()).await;
        assert!(locks.lock("a".to_owned()).now_or_never().is_none());
        assert!(locks.lock("b".to_owned()).now_or_never().is_some());
        drop(held);
        assert!(locks.lock("a".to_owned()).now_or_never().is_some());
        drop(locks.lock("c".to_owned()).await);
        assert_eq!(locks.0.lock().expect("unpoisoned").len(), 1);
    }
}
