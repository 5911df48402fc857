//! The database: one redb table of records, read without waiting and written in shared commits.
//!
//! - **Writing** is a closure over a [`Draft`]. Closures that arrive while a commit is under way share the next one, so that the price
//!   of durability (two fsyncs) is paid once a batch. Whoever finds no one committing leads, on the blocking pool, until the queue
//!   is empty: there is no thread while nobody writes. A closure runs alone; if it fails or panics its draft is dropped and the
//!   others of the batch never notice. It is acknowledged after the commit.
//! - **Reading** goes to the [`View`] published after each commit. Point reads are done where they are asked for: they touch a handful of
//!   pages that the cache or the kernel mostly has. Scans belong on the blocking pool ([`Store::read`], [`Store::stream`]).
//! - **Opening** checks the file unless it was closed in order, takes a copy's records where it is damaged ([`orlop_plugin::database`]; what is
//!   missing then is rebuilt by [`crate::recovery`]), and refuses a database of a newer schema.

mod commit;
mod draft;
mod key;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use orlop_plugin::contract::BoxStream;
use orlop_plugin::database::{self, Copies, Past, Schema, copy_table};
use orlop_plugin::{Error, Result, blocking, panic_message};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};
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
    path: PathBuf,
    /// There until it is dropped.
    database: Option<Arc<Database>>,
    copies: Copies,
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
    /// Opens the database at `path`, made now if it is not there, and says whether it was damaged. Blocks.
    pub(crate) fn open(path: &Path) -> Result<(Self, Past)> {
        let (database, past) = database::open::<Contents>(path)?;
        Ok((Self::over(database, path)?, past))
    }

    fn over(database: Database, path: &Path) -> Result<Self> {
        prepare(&database)
            .map_err(|error| error.context(format_args!("open the metadata database {}", path.display())))?;
        let view = Arc::new(current(&database)?);
        let inner = Arc::new(Inner {
            path: path.to_owned(),
            database: Some(Arc::new(database)),
            copies: Copies::of::<Contents>(path),
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
        let inner = Arc::clone(&self.inner);
        let copied = blocking(move || {
            if let Some(database) = &inner.database {
                inner.copies.end(database);
            }
            // Whatever is read meanwhile, nothing is written any more.
            database::note_closed(&inner.path);
            Ok(())
        });
        if let Err(error) = copied.await {
            tracing::warn!(%error, "the last copy of the metadata was not taken");
        }
    }

    /// Says that what a damaged database lacked has been rebuilt.
    pub(crate) fn rebuilt(&self) {
        database::rebuilt(&self.inner.path);
    }

    /// Stops noting what is stored.
    pub(crate) fn stop_journal(&self) {
        *lock(&self.inner.journal) = None;
    }
}

/// The tables, for checks and copies.
pub(crate) struct Contents;

impl Schema for Contents {
    // Hot pages fit in this; the kernel caches the rest.
    const CACHE: usize = 4 << 20;

    fn check(tables: &ReadTransaction) -> Result<()> {
        let objects = match tables.open_table(OBJECTS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            objects => objects.map_err(|e| failed("read the metadata", e))?,
        };
        let facts = tables.open_table(FACTS).map_err(|e| failed("read its facts", e))?;
        let version = facts
            .get(SCHEMA_VERSION_FACT)
            .map_err(|e| failed("read its version", e))?;
        supported(version.map_or(SCHEMA_VERSION, |version| version.value()))?;
        View(objects).scan(&Prefix::all(), &mut |key, value| crate::record::check(&key, value))
    }

    fn copy(from: &ReadTransaction, to: &WriteTransaction) -> Result<(), redb::Error> {
        copy_table(OBJECTS, from, to)?;
        copy_table(FACTS, from, to)
    }
}

fn supported(version: u64) -> Result<()> {
    if version > SCHEMA_VERSION {
        return Err(Error::failed_precondition(format!(
            "its schema has version {version}, and this daemon knows versions up to {SCHEMA_VERSION}: start a newer daemon"
        )));
    }
    Ok(())
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
            Some(version) => supported(version)?,
            None => facts
                .insert(SCHEMA_VERSION_FACT, SCHEMA_VERSION)
                .map(drop)
                .map_err(|e| failed("write its version", e))?,
        }
        version.is_none()
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
    fn database(&self) -> Result<&Arc<Database>> {
        self.database
            .as_ref()
            .ok_or_else(|| Error::unavailable("the metadata store is shutting down"))
    }

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

impl Drop for Inner {
    fn drop(&mut self) {
        // redb writes once more when it closes.
        if let Some(database) = self.database.take().and_then(Arc::into_inner) {
            let closed = lock(&self.queue).closed();
            drop(database);
            if closed {
                database::note_closed(&self.path);
            }
        }
    }
}

#[cfg(test)]
mod tests;
