//! The database and its group commit.
//!
//! Writers queue their operation and take the commit lock in turn. Whoever gets it commits everything that is queued by then, so those
//! who waited behind a commit mostly find theirs done: the price of durability is paid once a batch. An operation checks first and
//! writes after, so one that is refused leaves nothing behind in its batch.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError,
    WriteTransaction,
};

use super::record::Record;
use crate::database::{self, Copies, Past, Schema, copy_table};
use crate::{Error, Result};

type Name = &'static str;
type Bytes = &'static [u8];

const RECORDS: TableDefinition<Name, Bytes> = TableDefinition::new("snapshots");
/// From a parent's id to its children's.
const CHILDREN: TableDefinition<(u64, u64), ()> = TableDefinition::new("children");
const FACTS: TableDefinition<Name, u64> = TableDefinition::new("facts");
/// Directories that nobody knows the record of: a damaged database was replaced, and they are kept.
const KEPT: TableDefinition<u64, ()> = TableDefinition::new("kept");

/// The id that the next snapshot gets, or a higher one.
pub(super) const NEXT_ID: Name = "next_id";
/// The first id that was ever given out here: directories with lower numbers belong to somebody else.
pub(super) const FIRST_ID: Name = "first_id";

/// The tables, for checks and copies.
pub(super) struct Contents;

impl Schema for Contents {
    // A record is some 200 bytes: a MiB holds the hot pages of thousands, and the kernel caches the rest.
    const CACHE: usize = 1 << 20;

    fn check(tables: &ReadTransaction) -> Result<()> {
        let table = match tables.open_table(RECORDS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            table => table.map_err(|error| failed("its records", error))?,
        };
        for entry in table.iter().map_err(|error| failed("its records", error))? {
            let (name, bytes) = entry.map_err(|error| failed("its records", error))?;
            Record::decode_from(name.value(), bytes.value())?;
        }
        Ok(())
    }

    fn copy(from: &ReadTransaction, to: &WriteTransaction) -> Result<(), redb::Error> {
        copy_table(RECORDS, from, to)?;
        copy_table(CHILDREN, from, to)?;
        copy_table(KEPT, from, to)?;
        copy_table(FACTS, from, to)
    }
}

/// The tables inside a write transaction.
pub(super) struct Tables<'t> {
    pub(super) records: Table<'t, Name, Bytes>,
    pub(super) children: Table<'t, (u64, u64), ()>,
    pub(super) facts: Table<'t, Name, u64>,
    pub(super) kept: Table<'t, u64, ()>,
}

/// Why an operation did not do what it was to.
pub(super) enum Refusal {
    /// The caller asked for what cannot be: only its own business.
    Caller(Error),
    /// The database failed, and with it the whole batch.
    Storage(redb::Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Caller(error)
    }
}

impl From<redb::StorageError> for Refusal {
    fn from(error: redb::StorageError) -> Self {
        Self::Storage(error.into())
    }
}

/// What one caller does inside the shared transaction.
type Work = dyn FnOnce(&mut Tables<'_>) -> Result<(), redb::Error> + Send;

/// An operation that waits for its commit.
struct Job {
    /// Runs it; the error is the database's.
    run: Box<Work>,
    /// Takes its success back.
    fail: Box<dyn FnOnce(Error) + Send>,
    /// Directories whose entries must be durable before it is.
    made: Vec<PathBuf>,
}

/// The database of one snapshotter.
pub(super) struct Store {
    path: PathBuf,
    database: RwLock<Option<Arc<Database>>>,
    queue: Mutex<Vec<Job>>,
    commit: Mutex<()>,
    copies: Copies,
}

/// A lock whose holder panicked guards plain values that every holder leaves whole.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Store ===

impl Store {
    /// Opens the database at `path`, or makes it: then ids begin at `first_id()`. Also says whether it was damaged. Blocks.
    pub(super) fn open(path: &Path, first_id: impl FnOnce() -> Result<u64>) -> Result<(Self, Past)> {
        let (database, past) = database::open::<Contents>(path)?;
        let store = Self::over(database, path);
        if store.fact(FIRST_ID)?.is_none() {
            let first = first_id()?;
            store.write(Vec::new(), move |tables| {
                tables.facts.insert(FIRST_ID, first)?;
                tables.facts.insert(NEXT_ID, first)?;
                Ok(())
            })?;
        }
        Ok((store, past))
    }

    fn over(database: Database, path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            database: RwLock::new(Some(Arc::new(database))),
            queue: Mutex::default(),
            commit: Mutex::default(),
            copies: Copies::of::<Contents>(path),
        }
    }

    /// Says that what a damaged database lacked has been rebuilt.
    pub(super) fn rebuilt(&self) {
        database::rebuilt(&self.path);
    }

    /// Takes a last copy and lets go of the file. What is asked for afterwards is `Unavailable`.
    pub(super) fn close(&self) {
        // After the commit under way, and before any other.
        let turn = lock(&self.commit);
        let closed = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(turn);
        let Some(database) = closed else { return };
        self.copies.end(&database);
        // A reader that still has it closes it, and the next opening checks.
        if let Some(database) = Arc::into_inner(database) {
            drop(database);
            database::note_closed(&self.path);
        }
    }

    fn database(&self) -> Result<Arc<Database>> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database
            .clone()
            .ok_or_else(|| Error::unavailable("the snapshotter is shutting down"))
    }

    fn failed(&self, error: impl Into<redb::Error>) -> Error {
        failed(&format!("the snapshot records {}", self.path.display()), error)
    }

    /// Reads the records as they are now.
    pub(super) fn read<T>(&self, read: impl FnOnce(&ReadOnlyTable<Name, Bytes>) -> Result<T, Refusal>) -> Result<T> {
        let database = self.database()?;
        let transaction = database.begin_read().map_err(|error| self.failed(error))?;
        let table = transaction.open_table(RECORDS).map_err(|error| self.failed(error))?;
        read(&table).map_err(|refusal| match refusal {
            Refusal::Caller(error) => error,
            Refusal::Storage(error) => self.failed(error),
        })
    }

    /// The directories that nobody knows the record of and that are kept.
    pub(super) fn kept(&self) -> Result<BTreeSet<u64>> {
        let database = self.database()?;
        let transaction = database.begin_read().map_err(|error| self.failed(error))?;
        let table = match transaction.open_table(KEPT) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeSet::new()),
            Err(error) => return Err(self.failed(error)),
        };
        let mut kept = BTreeSet::new();
        for entry in table.iter().map_err(|error| self.failed(error))? {
            kept.insert(entry.map_err(|error| self.failed(error))?.0.value());
        }
        Ok(kept)
    }

    /// A number that is kept beside the records; none in a new database.
    pub(super) fn fact(&self, name: &str) -> Result<Option<u64>> {
        let database = self.database()?;
        let transaction = database.begin_read().map_err(|error| self.failed(error))?;
        let table = match transaction.open_table(FACTS) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        let fact = table.get(name).map_err(|error| self.failed(error))?;
        Ok(fact.map(|fact| fact.value()))
    }

    /// Runs `work` in the next commit and returns after it, durable. The directories in `made` are made durable before. Blocks.
    pub(super) fn write<T: Send + 'static>(
        &self,
        made: Vec<PathBuf>,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T> {
        let outcome: Arc<Mutex<Option<Result<T>>>> = Arc::default();
        let (ours, to_fail) = (Arc::clone(&outcome), Arc::clone(&outcome));
        lock(&self.queue).push(Job {
            run: Box::new(move |tables| {
                let result = match work(tables) {
                    Ok(value) => Ok(value),
                    Err(Refusal::Caller(error)) => Err(error),
                    Err(Refusal::Storage(error)) => return Err(error),
                };
                *lock(&ours) = Some(result);
                Ok(())
            }),
            fail: Box::new(move |error| {
                let mut outcome = lock(&to_fail);
                if !matches!(*outcome, Some(Err(_))) {
                    *outcome = Some(Err(error));
                }
            }),
            made,
        });
        let turn = lock(&self.commit);
        if lock(&outcome).is_none() {
            self.commit_queue();
        }
        drop(turn);
        let outcome = lock(&outcome).take();
        // Only a panic inside the batch leaves none.
        outcome.unwrap_or_else(|| {
            Err(Error::internal(
                "a change of the snapshot records panicked, and none of its batch was made",
            ))
        })
    }

    /// Commits everything that is queued and tells every caller. The commit lock is held.
    fn commit_queue(&self) {
        let jobs = std::mem::take(&mut *lock(&self.queue));
        let mut fails = Vec::with_capacity(jobs.len());
        let mut runs = Vec::with_capacity(jobs.len());
        let mut made = BTreeSet::new();
        for job in jobs {
            fails.push(job.fail);
            runs.push(job.run);
            made.extend(job.made);
        }
        let committed = sync(&made).and_then(|()| {
            let database = self.database()?;
            commit(&database, runs).map_err(|error| self.failed(error))?;
            self.copies.written(&database);
            Ok(())
        });
        if let Err(error) = committed {
            for fail in fails {
                fail(error.clone());
            }
        }
    }
}

type Run = Box<dyn FnOnce(&mut Tables<'_>) -> Result<(), redb::Error> + Send>;

fn commit(database: &Database, runs: Vec<Run>) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    // Opening after a crash must not walk the whole file.
    transaction.set_quick_repair(true);
    {
        let mut tables = Tables {
            records: transaction.open_table(RECORDS)?,
            children: transaction.open_table(CHILDREN)?,
            facts: transaction.open_table(FACTS)?,
            kept: transaction.open_table(KEPT)?,
        };
        for run in runs {
            run(&mut tables)?;
        }
    }
    Ok(transaction.commit()?)
}

/// Makes the entries of directories durable; one that is gone again needs nothing.
fn sync(directories: &BTreeSet<PathBuf>) -> Result<()> {
    for directory in directories {
        match File::open(directory).and_then(|directory| directory.sync_all()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("sync the directory {}", directory.display()), &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// An error of the database, with the code that fits.
fn failed(what: &str, error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error) => Error::io(what, &error),
        redb::Error::PreviousIo => Error::internal(format!(
            "{what}: an earlier write to the disk failed, and they stay closed until the daemon is restarted"
        )),
        redb::Error::Corrupted(details) => Error::data_loss(format!("{what}: the file is damaged: {details}")),
        other => Error::internal(format!("{what}: {other}")),
    }
}

/// The record called `name`, as it lies in a table.
pub(super) fn find(
    table: &impl ReadableTable<Name, Bytes>,
    name: &str,
) -> Result<Option<super::record::Record>, Refusal> {
    match table.get(name)? {
        Some(bytes) => Ok(Some(super::record::Record::decode_from(name, bytes.value())?)),
        None => Ok(None),
    }
}
