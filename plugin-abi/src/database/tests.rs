//! Files that are cut, flipped and overwritten, and a disk that loses what was not synced.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use redb::{ReadableDatabase, StorageBackend};

use super::*;

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");

/// Numbers, each with as many bytes that say the same.
struct Numbers;

impl Schema for Numbers {
    const CACHE: usize = 1 << 20;

    fn check(tables: &ReadTransaction) -> Result<()> {
        for (number, bytes) in read(tables) {
            if bytes != value(number) {
                return Err(Error::data_loss(format!("record {number} is damaged")));
            }
        }
        Ok(())
    }

    fn copy(from: &ReadTransaction, to: &WriteTransaction) -> Result<(), redb::Error> {
        copy_table(RECORDS, from, to)
    }
}

fn value(number: u64) -> Vec<u8> {
    vec![number as u8; (number % 700) as usize]
}

fn read(tables: &ReadTransaction) -> BTreeMap<u64, Vec<u8>> {
    let table = match tables.open_table(RECORDS) {
        Err(TableError::TableDoesNotExist(_)) => return BTreeMap::new(),
        table => table.expect("a table"),
    };
    let entries = table.iter().expect("read");
    entries
        .map(|entry| entry.expect("read"))
        .map(|(number, bytes)| (number.value(), bytes.value().to_vec()))
        .collect()
}

/// The highest number, when all from 1 on are there: a commit adds one.
fn height(database: &Database) -> u64 {
    let tables = database.begin_read().expect("begun");
    let records = read(&tables);
    let height = records.len() as u64;
    assert!(records.into_keys().eq(1..=height), "a record in the middle is missing");
    height
}

/// Adds numbers, a commit each.
fn add(database: &Database, count: u64) {
    let from = height(database);
    for number in from + 1..=from + count {
        commit(database, number);
    }
}

fn commit(database: &Database, number: u64) {
    let mut transaction = database.begin_write().expect("begun");
    transaction.set_quick_repair(true);
    {
        let mut table = transaction.open_table(RECORDS).expect("a table");
        table.insert(number, value(number).as_slice()).expect("written");
    }
    transaction.commit().expect("committed");
}

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a directory"),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("meta.redb")
    }

    fn open(&self) -> (Database, Past) {
        open::<Numbers>(&self.path()).expect("opened")
    }

    fn copy(&self, database: &Database) {
        copies::take::<Numbers>(database, &self.path()).expect("copied");
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).expect("listed");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("listed").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }
}

#[test]
fn an_orderly_end_needs_no_check_and_a_crash_is_whole() {
    let place = Place::new();
    let (database, past) = place.open();
    assert_eq!(past, Past::New);
    add(&database, 20);
    // What a kill leaves: the file as it is while it is open.
    let crashed = Place::new();
    std::fs::copy(place.path(), crashed.path()).expect("copied");
    drop(database);
    note_closed(&place.path());
    for place in [place, crashed] {
        let (database, past) = place.open();
        assert_eq!((past, height(&database)), (Past::Whole, 20));
        assert_eq!(place.names(), ["meta.redb"]);
        let busy = [
            open::<Numbers>(&place.path()).map(drop).expect_err("it is open"),
            check::<Numbers>(&place.path()).map(drop).expect_err("it is open"),
        ];
        assert_eq!(busy.map(|error| error.code), [crate::contract::Code::Unavailable; 2]);
        assert_eq!(place.names(), ["meta.redb"], "what somebody has open is not moved");
    }
}

#[test]
fn the_newest_whole_copy_is_taken_and_the_damaged_file_kept() {
    let place = Place::new();
    let (database, _) = place.open();
    for _ in 0..3 {
        add(&database, 10);
        place.copy(&database);
    }
    add(&database, 5);
    drop(database);
    let copies: Vec<PathBuf> = copies::all(&place.path())
        .expect("listed")
        .into_iter()
        .map(|(_, copy)| copy)
        .collect();
    assert_eq!(copies.len(), 2, "two are kept");
    std::fs::write(&copies[0], "x".repeat(20_000)).expect("damaged");
    std::fs::write(place.path(), "y".repeat(20_000)).expect("damaged");
    let found = check::<Numbers>(&place.path()).expect("checked");
    assert_eq!(
        found.iter().map(|finding| &finding.path).collect::<Vec<_>>(),
        [&place.path(), &copies[0]]
    );
    let (database, past) = place.open();
    assert_eq!(height(&database), 20, "the copy before the last");
    let Past::Restored {
        aside: Some(aside),
        copy,
        ..
    } = past
    else {
        panic!("{past:?}")
    };
    assert_eq!(
        (copy, std::fs::read(aside).expect("kept").len()),
        (copies[1].clone(), 20_000)
    );
    drop(database);
    // The owner has not rebuilt yet, and is told again.
    let (database, past) = place.open();
    assert!(matches!(past, Past::Unfinished { .. }), "{past:?}");
    drop(database);
    rebuilt(&place.path());
    assert_eq!(place.open().1, Past::Whole);
}

#[test]
fn a_file_that_is_gone_comes_back_from_its_copy() {
    let place = Place::new();
    let (database, _) = place.open();
    add(&database, 7);
    place.copy(&database);
    drop(database);
    for emptied in [false, true] {
        if emptied {
            std::fs::write(place.path(), "").expect("emptied");
        } else {
            std::fs::remove_file(place.path()).expect("removed");
        }
        let (database, past) = place.open();
        assert!(matches!(past, Past::Restored { aside: None, .. }), "{past:?}");
        assert_eq!(height(&database), 7);
    }
}

#[test]
fn copies_are_taken_at_the_end_when_something_was_written() {
    let place = Place::new();
    let (database, _) = place.open();
    let database = Arc::new(database);
    let copies = Copies::of::<Numbers>(&place.path());
    add(&database, 3);
    copies.written(&database);
    copies.end(&database);
    assert_eq!(copies::all(&place.path()).expect("listed").len(), 1);
    assert_eq!(Arc::strong_count(&database), 1, "nobody else holds it");
    let copies = Copies::of::<Numbers>(&place.path());
    copies.end(&database);
    assert_eq!(
        copies::all(&place.path()).expect("listed").len(),
        1,
        "nothing was written"
    );
}

#[derive(Clone, Debug)]
enum Damage {
    /// To this part of its length.
    Cut(f64),
    /// Bytes at these places, by these.
    Flip(Vec<(f64, u8)>),
    /// This much from this place on.
    Garbage(f64, usize),
    /// The first bytes.
    Head(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = 0.0..1.0f64;
    prop_oneof![
        place.clone().prop_map(Damage::Cut),
        prop::collection::vec((place.clone(), 1u8..), 1..20).prop_map(Damage::Flip),
        (place, 1usize..50_000).prop_map(|(place, length)| Damage::Garbage(place, length)),
        prop::collection::vec(any::<u8>(), 1..400).prop_map(Damage::Head),
    ]
}

impl Damage {
    fn inflict(&self, bytes: &mut Vec<u8>) {
        let at = |bytes: &[u8], place: f64| (place * bytes.len() as f64) as usize;
        match self {
            Self::Cut(place) => bytes.truncate(at(bytes, *place)),
            Self::Flip(flips) => {
                for (place, by) in flips {
                    let at = at(bytes, *place);
                    bytes[at] ^= by;
                }
            }
            Self::Garbage(place, length) => {
                let from = at(bytes, *place);
                for (number, byte) in bytes[from..].iter_mut().take(*length).enumerate() {
                    *byte = ((number * 7919) >> 3) as u8;
                }
            }
            Self::Head(head) => {
                for (byte, new) in bytes.iter_mut().zip(head) {
                    *byte = *new;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever is done to the file: it opens, and has all that was committed, all but the last commit, or what the copy has.
    #[test]
    fn a_damaged_file_opens(copied in 0u64..30, more in 0u64..30, in_order in any::<bool>(), damage in damage()) {
        let place = Place::new();
        let (database, _) = place.open();
        add(&database, copied);
        place.copy(&database);
        add(&database, more);
        let all = copied + more;
        let mut bytes = std::fs::read(place.path()).expect("read");
        drop(database);
        if in_order {
            bytes = std::fs::read(place.path()).expect("read");
        }
        note_closed(&place.path());
        damage.inflict(&mut bytes);
        std::fs::write(place.path(), &bytes).expect("damaged");
        let (database, past) = place.open();
        let height = height(&database);
        match &past {
            Past::Whole => prop_assert_eq!(height, all),
            Past::Mended { aside, .. } => {
                prop_assert!(height == all || height + 1 == all, "{} of {}", height, all);
                prop_assert_eq!(std::fs::read(aside).expect("kept"), bytes);
            }
            Past::Restored { aside, .. } => {
                prop_assert_eq!(height, copied);
                if let Some(aside) = aside {
                    prop_assert_eq!(std::fs::read(aside).expect("kept"), bytes);
                }
            }
            other => prop_assert!(false, "{:?}", other),
        }
        // It goes on.
        add(&database, 3);
        drop(database);
        prop_assert_eq!(super::check::<Numbers>(&place.path()).expect("checked"), vec![]);
    }
}

// === a disk that loses ===

#[derive(Clone, Debug)]
enum Operation {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

/// A file in memory that remembers how it came to be.
#[derive(Clone, Debug, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    operations: Arc<Mutex<Vec<Operation>>>,
}

fn apply(bytes: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Write(offset, data) => {
            let (from, end) = (*offset as usize, *offset as usize + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[from..end].copy_from_slice(data);
        }
        Operation::Length(length) => bytes.resize(*length as usize, 0),
        Operation::Sync => {}
    }
}

impl Disk {
    fn run(&self, operation: Operation) {
        apply(&mut self.bytes.lock().expect("whole"), &operation);
        self.operations.lock().expect("whole").push(operation);
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.bytes.lock().expect("whole").len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        let bytes = self.bytes.lock().expect("whole");
        let end = offset as usize + out.len();
        let found = bytes.get(offset as usize..end).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }
    fn set_len(&self, length: u64) -> Result<(), std::io::Error> {
        self.run(Operation::Length(length));
        Ok(())
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.run(Operation::Sync);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.run(Operation::Write(offset, data.to_vec()));
        Ok(())
    }
}

/// A small generator: the same losses every time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// Some of the operations, in another order, writes torn at sectors.
fn lose(unsynced: &[Operation], chance: &mut Chance) -> Vec<Operation> {
    let mut kept = Vec::new();
    for operation in unsynced {
        match (chance.below(3), operation) {
            (0, _) => {}
            (1, Operation::Write(offset, data)) if data.len() > 512 => {
                let whole = chance.below(data.len() / 512) * 512;
                kept.push(Operation::Write(*offset, data[..whole].to_vec()));
            }
            _ => kept.insert(chance.below(kept.len() + 1), operation.clone()),
        }
    }
    kept
}

#[test]
fn power_may_go_at_every_point() {
    let disk = Disk::default();
    let database = builder::<Numbers>(false)
        .create_with_backend(disk.clone())
        .expect("made");
    // How many operations there were when a commit was acknowledged.
    let mut acknowledged = Vec::new();
    for number in 1..=12 {
        commit(&database, number);
        acknowledged.push(disk.operations.lock().expect("whole").len());
    }
    drop(database);
    let operations = disk.operations.lock().expect("whole").clone();
    let mut chance = Chance(1);
    let (mut durable, mut synced) = (Vec::new(), 0);
    for point in acknowledged[0]..=operations.len() {
        let last_sync = operations[..point]
            .iter()
            .rposition(|operation| matches!(operation, Operation::Sync));
        let last_sync = last_sync.map_or(0, |at| at + 1);
        for operation in &operations[synced..last_sync] {
            apply(&mut durable, operation);
        }
        synced = last_sync;
        let promised = acknowledged.iter().filter(|at| **at <= point).count() as u64;
        for _ in 0..4 {
            let mut bytes = durable.clone();
            for operation in lose(&operations[synced..point], &mut chance) {
                apply(&mut bytes, &operation);
            }
            let place = Place::new();
            std::fs::write(place.path(), &bytes).expect("written");
            let (database, past) = place.open();
            let height = height(&database);
            assert!(
                (promised..=promised + 1).contains(&height),
                "{height} of {promised} acknowledged commits after {point} of {} operations: {past:?}",
                operations.len()
            );
            assert_eq!(past, Past::Whole, "after {point} of {} operations", operations.len());
        }
    }
}
