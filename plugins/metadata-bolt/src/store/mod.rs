//! The database: one redb table of records, read without waiting and written in shared commits.
//!
//! - **Writing** is a closure over a [`Draft`]. Closures that arrive while a commit is under way share the next one, so that the price
//!   of durability (two fsyncs) is paid once a batch. Whoever finds no one committing leads, on the blocking pool, until the queue
//!   is empty: there is no thread while nobody writes. A closure runs alone; if it fails or panics its draft is dropped and the
//!   others of the batch never notice. It is acknowledged after the commit.
//! - **Reading** goes to the [`View`] published after each commit. Point reads are done where they are asked for: they touch a handful of
//!   pages that the cache or the kernel mostly has. Scans belong on the blocking pool ([`Store::read`], [`Store::stream`]).
//! - **Opening** is quick after a crash too (redb's quick repair), and refuses a database of a newer schema.

mod commit;
mod draft;
mod key;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use orlop_plugin::contract::BoxStream;
use orlop_plugin::{Error, Result, blocking, panic_message};
use redb::backends::FileBackend;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{Semaphore, oneshot, watch};

pub(crate) use draft::{Draft, Reader, View, decode};
pub(crate) use key::{Key, Kind, Prefix, no_nul};

use crate::record::SequenceRecord;
use commit::{Job, Queue};

const OBJECTS: TableDefinition<draft::Bytes, draft::Bytes> = TableDefinition::new("objects");
const FACTS: TableDefinition<&str, u64> = TableDefinition::new("facts");

/// The layout of keys and records. A database of a lower version is migrated when it is opened, one of a higher version refused.
const SCHEMA_VERSION: u64 = 1;
const SCHEMA_VERSION_FACT: &str = "schema_version";

/// redb's own default is a gigabyte. Hot pages fit in this; the kernel caches the rest.
const CACHE_BYTES: usize = 4 << 20;

/// How many backend ids one commit reserves.
const ID_BLOCK: u64 = 4096;

/// How many records a stream reads at a time.
const STREAM_CHUNK: usize = 256;

/// What was changed since the database was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) mutations: u64,
    pub(crate) deletions: u64,
}

/// The database. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
    /// A leader holds a permit for as long as it holds the database.
    leading: Arc<Semaphore>,
}

/// More than there can be leaders: one, and others that are just going.
const LEADERS: u32 = 1024;

struct Inner {
    database: Database,
    view: RwLock<Arc<View>>,
    queue: Mutex<Queue>,
    arrived: Condvar,
    totals: watch::Sender<Totals>,
    /// Noted keys while garbage is collected. Only the leader touches it.
    journal: Mutex<Option<Vec<Key>>>,
    ids: Mutex<std::ops::Range<u64>>,
}

/// An error of the database, with the code that fits.
fn failed(doing: &str, error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error) => Error::io(doing, &error),
        redb::Error::PreviousIo => Error::internal(format!(
            "{doing}: an earlier write to the disk failed, and the database stays closed until the daemon is restarted"
        )),
        redb::Error::Corrupted(what) => Error::data_loss(format!("{doing}: the database is damaged: {what}")),
        other => Error::internal(format!("{doing}: {other}")),
    }
}

/// A lock whose holder panicked guards plain values that every holder leaves whole.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Store ===

impl Store {
    /// Opens the database at `path`, made now if it is not there. Blocks.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let doing = format!("open the metadata database {}", path.display());
        // Container specifications hold secrets: only root may read the file.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| Error::io(&doing, &error))?;
        let database = FileBackend::new(file)
            .and_then(|file| {
                Database::builder()
                    .set_cache_size(CACHE_BYTES)
                    .create_with_backend(file)
            })
            .map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => Error::unavailable(format!(
                    "{doing}: another process has it open; is a second daemon running on the same root?"
                )),
                other => failed(&doing, other),
            })?;
        prepare(&database).map_err(|error| error.context(&doing))?;
        let view = Arc::new(current(&database)?);
        let inner = Arc::new(Inner {
            database,
            view: RwLock::new(view),
            queue: Mutex::default(),
            arrived: Condvar::new(),
            totals: watch::Sender::default(),
            journal: Mutex::default(),
            ids: Mutex::new(0..0),
        });
        Ok(Self {
            inner,
            leading: Arc::new(Semaphore::new(LEADERS as usize)),
        })
    }

    /// What is committed now.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.inner.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How much was changed, and news of it.
    pub(crate) fn totals(&self) -> watch::Receiver<Totals> {
        self.inner.totals.subscribe()
    }

    /// Runs `work` in the next commit and returns after it: what it drafted is durable then, or, if it or the commit failed,
    /// not there at all.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Draft<'_>) -> Result<T> + Send + 'static,
    {
        self.submit(true, work).await
    }

    /// Like [`Store::write`], but does not count as a change: for garbage collection's own.
    pub(crate) async fn write_quietly<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Draft<'_>) -> Result<T> + Send + 'static,
    {
        self.submit(false, work).await
    }

    async fn submit<T, F>(&self, counts: bool, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Draft<'_>) -> Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let run = move |draft: Result<&mut Draft<'_>>| {
            let result = draft.and_then(|draft| {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(draft))).unwrap_or_else(|panic| {
                    Err(Error::internal(format!(
                        "a metadata operation panicked: {}",
                        panic_message(&*panic)
                    )))
                })
            });
            let succeeded = result.is_ok();
            let acknowledge = move |committed: Result<()>| {
                // A caller that has gone needs no answer.
                let _ = answer.send(result.and_then(|value| committed.map(|()| value)));
            };
            (succeeded, Box::new(acknowledge) as commit::Acknowledge)
        };
        if self.inner.enqueue(Job {
            counts,
            run: Box::new(run),
        })? {
            let inner = Arc::clone(&self.inner);
            // There is none only while the store is closed, which nobody waits for any more then.
            let permit = Arc::clone(&self.leading).try_acquire_owned().ok();
            tokio::task::spawn_blocking(move || {
                inner.lead();
                drop(inner);
                drop(permit);
            });
        }
        answered.await.map_err(|_| {
            Error::unavailable("the metadata was not written: the store is shutting down, or failed (see the log)")
        })?
    }

    /// Runs `work` over the current view on the blocking pool.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&View) -> Result<T> + Send + 'static,
    {
        let view = self.view();
        blocking(move || work(&view)).await
    }

    /// Streams what `pick` makes of the records of `prefix`, all as of now, in key order.
    pub(crate) fn stream<T, F>(&self, prefix: Prefix, pick: F) -> BoxStream<T>
    where
        T: Send + 'static,
        F: Fn(&Key, &[u8]) -> Result<Option<T>> + Send + Sync + 'static,
    {
        use futures_util::{StreamExt, TryStreamExt, stream};
        let pick = Arc::new(pick);
        let start = Some((self.view(), prefix.start().to_vec()));
        let chunks = stream::try_unfold(start, move |position| {
            let (prefix, pick) = (prefix.clone(), Arc::clone(&pick));
            async move {
                let Some((view, from)) = position else { return Ok(None) };
                blocking(move || {
                    let (mut items, mut read, mut next) = (Vec::new(), 0, None);
                    view.scan_from(&prefix, &from, &mut |key, value| {
                        if read == STREAM_CHUNK {
                            next = Some(key.to_vec());
                            return Ok(std::ops::ControlFlow::Break(()));
                        }
                        read += 1;
                        items.extend(pick(&Key::from_bytes(key)?, value)?);
                        Ok(std::ops::ControlFlow::Continue(()))
                    })?;
                    Ok(Some((items, next.map(|next| (view, next)))))
                })
                .await
            }
        });
        chunks
            .map_ok(|items| stream::iter(items.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    /// An id that was never given out before, not even by an earlier run: it keeps names apart in the backends.
    pub(crate) async fn next_id(&self) -> Result<u64> {
        loop {
            if let Some(id) = lock(&self.inner.ids).next() {
                return Ok(id);
            }
            let reserved = self
                .write_quietly(|draft| {
                    let last = draft.load::<SequenceRecord>(&Key::sequence())?.unwrap_or_default().last;
                    draft.put(Key::sequence(), &SequenceRecord { last: last + ID_BLOCK });
                    Ok(last + 1..last + 1 + ID_BLOCK)
                })
                .await?;
            // Two that ran out together each reserve a block; the ids of the one that is replaced are never used.
            *lock(&self.inner.ids) = reserved;
        }
    }

    /// Returns once all operations are committed and nobody commits any more; later ones are refused.
    pub(crate) async fn close(&self) {
        // What was queued before it is committed with it or before it.
        let last = self.write_quietly(|_| Ok(()));
        if let Err(error) = last.await {
            tracing::warn!(%error, "the last commit of the metadata failed");
        }
        self.inner.close();
        drop(self.leading.acquire_many(LEADERS).await);
    }

    /// Stops noting what is stored.
    pub(crate) fn stop_journal(&self) {
        *lock(&self.inner.journal) = None;
    }
}

/// Makes the tables, and checks the version of the schema.
fn prepare(database: &Database) -> Result<()> {
    let mut transaction = begin(database)?;
    transaction.set_quick_repair(true);
    let fresh = {
        let mut facts = transaction.open_table(FACTS).map_err(|e| failed("read its facts", e))?;
        let version = facts
            .get(SCHEMA_VERSION_FACT)
            .map_err(|e| failed("read its version", e))?
            .map(|v| v.value());
        match version {
            Some(version) if version > SCHEMA_VERSION => {
                return Err(Error::failed_precondition(format!(
                    "its schema has version {version}, and this daemon knows versions up to {SCHEMA_VERSION}: start a newer daemon"
                )));
            }
            Some(_) => false,
            None => {
                facts
                    .insert(SCHEMA_VERSION_FACT, SCHEMA_VERSION)
                    .map_err(|e| failed("write its version", e))?;
                true
            }
        }
    };
    if !fresh {
        return transaction.abort().map_err(|e| failed("end its first transaction", e));
    }
    transaction
        .open_table(OBJECTS)
        .map_err(|e| failed("make its table", e))?;
    transaction.commit().map_err(|e| failed("commit its tables", e))
}

fn begin(database: &Database) -> Result<redb::WriteTransaction> {
    let mut transaction = database
        .begin_write()
        .map_err(|e| failed("begin a metadata transaction", e))?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(|error| Error::internal(format!("begin a metadata transaction: {error}")))?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

fn current(database: &Database) -> Result<View> {
    let transaction = database.begin_read().map_err(|e| failed("read the metadata", e))?;
    Ok(View(
        transaction
            .open_table(OBJECTS)
            .map_err(|e| failed("read the metadata", e))?,
    ))
}

/// How long the leader waits for the clients it has just answered, at most.
const MAX_PATIENCE: Duration = Duration::from_micros(500);

impl Inner {
    /// Commits batch after batch until nobody waits.
    fn lead(&self) {
        let (mut recent, mut patience) = (1, Duration::ZERO);
        while let Some(batch) = self.next_batch(recent, patience) {
            recent = batch.len();
            let begun = Instant::now();
            // Operations catch their own panics; one of the database must not leave everybody waiting for a leader that is gone.
            let run = std::panic::AssertUnwindSafe(|| self.run(batch));
            if let Err(panic) = std::panic::catch_unwind(run) {
                tracing::error!(panic = panic_message(&*panic), "a commit of the metadata panicked");
            }
            patience = (begun.elapsed() / 4).min(MAX_PATIENCE);
        }
    }
}

#[cfg(test)]
mod tests;
