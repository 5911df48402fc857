//! Naming a blob durably: one sync of the directory serves everyone who waits for it.
//!
//! A name is visible as soon as it is linked, and durable only after the directory is synced. Who finds a blob in between (and might
//! write a record that refers to it) waits for the sync, too.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use orlop_plugin::contract::Digest;

/// The directory of the blobs.
pub(crate) struct BlobDirectory {
    file: File,
    rounds: Mutex<Rounds>,
    ended: Condvar,
}

#[derive(Default)]
struct Rounds {
    /// How many writers are about to make a name, or have made it, and did not see it durable yet.
    unsynced: HashMap<Digest, usize>,
    /// Syncs begun.
    begun: u64,
    /// Syncs ended.
    ended: u64,
    /// The last sync that failed.
    failed: u64,
}

// === impl BlobDirectory ===

impl BlobDirectory {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            rounds: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// `digest` is about to be named: whoever sees the name waits. [`Self::conclude`] follows.
    pub(crate) fn announce(&self, digest: &Digest) {
        *self.lock().unsynced.entry(digest.clone()).or_default() += 1;
    }

    /// Makes the name of `digest`, announced and made before, durable. After a failure those who see the name try for themselves.
    pub(crate) fn conclude(&self, digest: &Digest) -> io::Result<()> {
        let mut rounds = self.sync(self.lock())?;
        if let Some(writers) = rounds.unsynced.get_mut(digest) {
            *writers -= 1;
            if *writers == 0 {
                rounds.unsynced.remove(digest);
            }
        }
        Ok(())
    }

    /// Returns once the name of `digest`, seen before, is durable: at once for one that was so already.
    pub(crate) fn settle(&self, digest: &Digest) -> io::Result<()> {
        let rounds = self.lock();
        if rounds.unsynced.contains_key(digest) {
            drop(self.sync(rounds)?);
        }
        Ok(())
    }

    /// Returns after a sync that began after this call.
    fn sync<'a>(&'a self, mut rounds: MutexGuard<'a, Rounds>) -> io::Result<MutexGuard<'a, Rounds>> {
        // The sync under way may have begun before the name was there: the next one counts.
        let round = rounds.begun + 1;
        while rounds.ended < round {
            if rounds.begun > rounds.ended {
                rounds = self.ended.wait(rounds).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            rounds.begun += 1;
            drop(rounds);
            let synced = self.file.sync_all();
            rounds = self.lock();
            rounds.ended = rounds.begun;
            if synced.is_err() {
                rounds.failed = rounds.ended;
            }
            self.ended.notify_all();
            synced?;
        }
        if rounds.failed >= round {
            return Err(io::Error::other("syncing the directory of the blobs failed"));
        }
        Ok(rounds)
    }

    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_waiters_are_served_by_few_syncs() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = BlobDirectory::open(root.path()).expect("opened");
        std::thread::scope(|scope| {
            for thread in 0_u8..16 {
                let directory = &directory;
                scope.spawn(move || {
                    for turn in 0_u8..20 {
                        let mut bytes = [0; 32];
                        bytes[..2].copy_from_slice(&[thread, turn]);
                        let digest = Digest::from_sha256(bytes);
                        directory.announce(&digest);
                        directory.settle(&digest).expect("synced for who sees it");
                        directory.conclude(&digest).expect("synced");
                        directory.settle(&digest).expect("synced before");
                    }
                });
            }
        });
        let rounds = directory.rounds.lock().expect("not poisoned");
        assert!(rounds.unsynced.is_empty());
        assert_eq!(rounds.begun, rounds.ended);
        assert!(rounds.begun <= 640);
    }
}
