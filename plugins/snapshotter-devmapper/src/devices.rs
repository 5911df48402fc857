//! The records of the thin devices that are ours: which number in the pool belongs to which snapshot.
//!
//! ```text
//!   reserve ─▶ making ──created──▶ made ──forget──▶ gone, its number free again
//!                 │
//!                 └──abandon──▶ gone, its number faulty: a crash left open whether the pool has it, and who made it
//! ```
//!
//! A record is durable before the pool hears of the device, so that no device of ours is ever without one. Whether a device is active or
//! suspended is not recorded: the kernel knows.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use orlop_plugin::{Error, Result};
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};

use crate::config::FileSystem;

/// By the id of a snapshot: its device's number, whether the pool has made it, its size, what it had mapped when it was committed, and its file system.
type Row = (u32, bool, u64, Option<u64>, &'static str);
const DEVICES: TableDefinition<u64, Row> = TableDefinition::new("devices");
/// Numbers that were given back.
const FREE: TableDefinition<u32, ()> = TableDefinition::new("free");
/// Numbers that are not used again, and why.
const FAULTY: TableDefinition<u32, &str> = TableDefinition::new("faulty");
const FACTS: TableDefinition<&str, u32> = TableDefinition::new("facts");
/// The number after the highest that was given out.
const NEXT: &str = "next";
/// A device's number in a pool has 24 bits.
const LAST_NUMBER: u32 = 0x00ff_ffff;
/// A record is some 40 bytes.
const CACHE_BYTES: usize = 1 << 20;

/// A thin device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// Its number in the pool.
    pub(crate) number: u32,
    /// Whether the pool has made it; otherwise a crash came between.
    pub(crate) made: bool,
    /// In bytes.
    pub(crate) size: u64,
    /// The bytes that were mapped when it was committed, its parent's included.
    pub(crate) committed: Option<u64>,
    pub(crate) file_system: FileSystem,
}

/// The tables inside a write transaction.
struct Tables<'t> {
    devices: Table<'t, u64, Row>,
    free: Table<'t, u32, ()>,
    faulty: Table<'t, u32, &'static str>,
    facts: Table<'t, &'static str, u32>,
}

/// The database with the records of one pool.
pub(crate) struct Devices {
    path: PathBuf,
    database: RwLock<Option<Arc<Database>>>,
}

// === impl Devices ===

impl Devices {
    /// Opens `ROOT/devices-POOL.redb`, or makes it. Blocks.
    pub(crate) fn open(root: &Path, pool: &str) -> Result<Self> {
        let path = root.join(format!("devices-{pool}.redb"));
        let doing = format!("open the device records {}", path.display());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::io(&doing, &error))?;
        let database = FileBackend::new(file)
            .and_then(|file| {
                Database::builder()
                    .set_cache_size(CACHE_BYTES)
                    .create_with_backend(file)
            })
            .map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => Error::unavailable(format!(
                    "{doing}: somebody else has them open; is a second daemon running on the same root?"
                )),
                other => failed(&doing, other),
            })?;
        let devices = Self {
            path,
            database: RwLock::new(Some(Arc::new(database))),
        };
        // Reading needs the tables.
        devices.write(|_| Ok(()))?;
        Ok(devices)
    }

    /// Lets go of the file. What is asked for afterwards is `Unavailable`.
    pub(crate) fn close(&self) {
        self.database.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The device of snapshot `id`, if it has one in this pool.
    pub(crate) fn find(&self, id: u64) -> Result<Option<Device>> {
        let database = self.database()?;
        lookup(&database, id).map_err(|error| self.failed(error))
    }

    /// The device of snapshot `id`.
    pub(crate) fn get(&self, id: u64) -> Result<Device> {
        self.find(id)?.ok_or_else(|| {
            Error::failed_precondition(format!(
                "snapshot number {id} has no device in {}: was it made in another pool?",
                self.path.display()
            ))
        })
    }

    /// Records that a device will be made for snapshot `id`, and gives it a number that none of ours has.
    pub(crate) fn reserve(&self, id: u64, size: u64, file_system: FileSystem) -> Result<u32> {
        let number = self.write(|tables| {
            let number = tables.number()?;
            if let Some(number) = number {
                let row = (number, false, size, None, file_system.name());
                tables.devices.insert(id, row)?;
            }
            Ok(number)
        })?;
        number.ok_or_else(|| {
            Error::resource_exhausted(format!("{} has no number left for another device", self.path.display()))
        })
    }

    /// Records that the pool has made it.
    pub(crate) fn created(&self, id: u64) -> Result<()> {
        self.change(id, |device| device.made = true)
    }

    /// Records what it has mapped when it is committed; `None` when it is not, after all.
    pub(crate) fn committed(&self, id: u64, mapped: Option<u64>) -> Result<()> {
        self.change(id, |device| device.committed = mapped)
    }

    /// Removes the record; the pool has no such device any more, and its number may be used again.
    pub(crate) fn forget(&self, id: u64) -> Result<()> {
        self.write(|tables| {
            let number = tables.devices.remove(id)?.map(|row| row.value().0);
            if let Some(number) = number {
                tables.free.insert(number, ())?;
            }
            Ok(())
        })
    }

    /// Removes the record of a device that may or may not be there, and never uses its number again.
    pub(crate) fn abandon(&self, id: u64, why: &str) -> Result<()> {
        self.write(|tables| {
            let number = tables.devices.remove(id)?.map(|row| row.value().0);
            if let Some(number) = number {
                tables.faulty.insert(number, why)?;
            }
            Ok(())
        })
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Device)) -> Result<()> {
        self.write(|tables| {
            let found = tables.devices.get(id)?.map(|row| device(row.value()));
            if let Some(mut found) = found {
                change(&mut found);
                let row = (
                    found.number,
                    found.made,
                    found.size,
                    found.committed,
                    found.file_system.name(),
                );
                tables.devices.insert(id, row)?;
            }
            Ok(())
        })
    }

    fn write<T>(&self, work: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error>) -> Result<T> {
        let database = self.database()?;
        transact(&database, work).map_err(|error| self.failed(error))
    }

    fn database(&self) -> Result<Arc<Database>> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database
            .clone()
            .ok_or_else(|| Error::unavailable("the snapshotter is shutting down"))
    }

    fn failed(&self, error: redb::Error) -> Error {
        failed(&format!("the device records {}", self.path.display()), error)
    }
}

// === impl Tables ===

impl Tables<'_> {
    /// A number that is free: one that was given back, or the next one. `None` when all are taken.
    fn number(&mut self) -> Result<Option<u32>, redb::Error> {
        let freed = self.free.first()?.map(|(number, _)| number.value());
        if let Some(number) = freed {
            self.free.remove(number)?;
            return Ok(Some(number));
        }
        let next = self.facts.get(NEXT)?.map_or(1, |next| next.value());
        if next > LAST_NUMBER {
            return Ok(None);
        }
        self.facts.insert(NEXT, next + 1)?;
        Ok(Some(next))
    }
}

fn transact<T>(
    database: &Database,
    work: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error>,
) -> Result<T, redb::Error> {
    let mut transaction = database.begin_write()?;
    // Opening after a crash must not walk the whole file.
    transaction.set_quick_repair(true);
    let done = work(&mut Tables {
        devices: transaction.open_table(DEVICES)?,
        free: transaction.open_table(FREE)?,
        faulty: transaction.open_table(FAULTY)?,
        facts: transaction.open_table(FACTS)?,
    })?;
    transaction.commit()?;
    Ok(done)
}

fn lookup(database: &Database, id: u64) -> Result<Option<Device>, redb::Error> {
    let row = database.begin_read()?.open_table(DEVICES)?.get(id)?;
    Ok(row.map(|row| device(row.value())))
}

fn device((number, made, size, committed, file_system): (u32, bool, u64, Option<u64>, &str)) -> Device {
    Device {
        number,
        made,
        size,
        committed,
        // Only names of file systems are ever written.
        file_system: FileSystem::named(file_system).unwrap_or(FileSystem::Ext4),
    }
}

/// An error of the database, with the code that fits.
fn failed(what: &str, error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error) => Error::io(what, &error),
        redb::Error::Corrupted(details) => Error::data_loss(format!("{what}: the file is damaged: {details}")),
        other => Error::internal(format!("{what}: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_unless_they_are_faulty() {
        let root = tempfile::tempdir().expect("a directory");
        let devices = Devices::open(root.path(), "thin").expect("opened");
        let reserve = |id| devices.reserve(id, 512, FileSystem::Xfs).expect("reserved");
        assert_eq!((reserve(10), reserve(11), reserve(12)), (1, 2, 3));
        devices.created(11).expect("recorded");
        devices.committed(11, Some(4096)).expect("recorded");
        let expected = Device {
            number: 2,
            made: true,
            size: 512,
            committed: Some(4096),
            file_system: FileSystem::Xfs,
        };
        assert_eq!(devices.get(11), Ok(expected.clone()));
        assert!(!devices.get(12).expect("there").made);
        devices.forget(10).expect("forgotten");
        devices.abandon(12, "a crash").expect("abandoned");
        assert_eq!(devices.find(12), Ok(None));
        assert_eq!((reserve(13), reserve(14)), (1, 4), "1 was given back, 3 is faulty");
        devices.close();
        assert!(devices.find(11).is_err());

        let again = Devices::open(root.path(), "thin").expect("opened again");
        assert_eq!(again.get(11), Ok(expected));
        assert_eq!(again.reserve(15, 512, FileSystem::Ext4), Ok(5));
        let other = Devices::open(root.path(), "other").expect("opened");
        let absent = other.get(11).expect_err("another pool");
        assert!(absent.message.contains("another pool"), "{absent}");
    }
}
