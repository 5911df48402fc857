//! Opening a redb database so that a damaged file costs as little as it can.
//!
//! ```text
//!   ROOT/meta.redb                       the database
//!   ROOT/meta.redb.closed                size and time of the file as an orderly end left it
//!   ROOT/meta.redb.rebuild               there while its owner has not yet rebuilt what a restored database lacks
//!   ROOT/meta.redb.damaged-SECONDS       a damaged file, moved aside: nothing here ever removes it
//!   ROOT/backup/meta.redb.SECONDS        verified copies, the newest two
//! ```
//!
//! ```text
//!   open ─┬─ closed in order, untouched since ──────────────▶ opened, nothing is read
//!         ├─ checked: every page and every record is whole ─▶ opened
//!         ├─ its last commit is damaged, the one before not ▶ copied aside, mended in place
//!         ├─ damaged or gone, a copy is whole ──────────────▶ moved aside, the newest whole copy takes its place
//!         └─ damaged, and no copy is whole ─────────────────▶ moved aside, an empty one takes its place
//! ```
//!
//! What happened is the [`Past`] of an opened database, and is logged. Its owner rebuilds what it can from what else is on disk, and then
//! calls [`rebuilt`]; until it did, every opening tells it again. A check reads
//! the whole file (about a GB/s); it happens after a crash, and never after an orderly end. It runs over a view of the file that keeps
//! what redb would write in memory ([`overlay`]), so that looking changes nothing. redb may panic on a file that was damaged by somebody else:
//! such a panic is caught and is one more sign of damage.

mod copies;
mod overlay;
#[cfg(test)]
mod tests;
mod verify;

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::backends::FileBackend;
use redb::{
    Builder, Database, Key, ReadTransaction, ReadableTable, TableDefinition, TableError, Value, WriteTransaction,
};

use crate::{Error, Result};
pub use copies::Copies;
use verify::{Trouble, Verdict, guarded, verify};

/// What is in a database: how to read all of it, and how to copy it.
pub trait Schema: 'static {
    /// Bytes of redb's cache. Its own default is a gigabyte.
    const CACHE: usize;

    /// Reads and decodes every record. `DataLoss` says that something is damaged; any other error, that the database cannot be used.
    fn check(tables: &ReadTransaction) -> Result<()>;

    /// Copies every table.
    fn copy(from: &ReadTransaction, to: &WriteTransaction) -> Result<(), redb::Error>;
}

/// What opening a database found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Past {
    /// It is as it was left.
    Whole,
    /// There was none, and no copy of one.
    New,
    /// Its last commit was damaged; it is as it was a commit before.
    Mended {
        /// What was found.
        reason: String,
        /// Where the file is as it was found.
        aside: PathBuf,
    },
    /// A copy took its place.
    Restored {
        /// What was found.
        reason: String,
        /// Where the damaged file is; none if it was gone.
        aside: Option<PathBuf>,
        /// The copy.
        copy: PathBuf,
        /// When the copy was taken.
        taken: SystemTime,
    },
    /// An earlier opening was one of the others, and what it called for was not done to its end.
    Unfinished {
        /// What happened then.
        report: String,
    },
    /// It was damaged and no copy was whole: it is empty.
    Lost {
        /// What was found.
        reason: String,
        /// Where the damaged file is; none if it was gone.
        aside: Option<PathBuf>,
    },
}

/// What is known of a database without opening it for use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

// === impl Past ===

impl Past {
    /// Whether something that was acknowledged may be missing.
    pub fn lost_something(&self) -> bool {
        !matches!(self, Self::Whole | Self::New)
    }

    /// What happened, for people; nothing when nothing did.
    pub fn report(&self) -> Option<String> {
        let moved = |aside: &Option<PathBuf>| match aside {
            Some(aside) => format!("the damaged file is kept as {}", aside.display()),
            None => "the file was gone".to_owned(),
        };
        Some(match self {
            Self::Whole | Self::New => return None,
            Self::Unfinished { report } => format!("it was not rebuilt to the end yet: {report}"),
            Self::Mended { reason, aside } => format!(
                "it was damaged ({reason}) and is as it was one commit before; the damaged file is kept as {}",
                aside.display()
            ),
            Self::Restored {
                reason,
                aside,
                copy,
                taken,
            } => format!(
                "it was damaged ({reason}) and was restored from {}, taken {} seconds ago: what was written since is missing; {}",
                copy.display(),
                taken.elapsed().unwrap_or_default().as_secs(),
                moved(aside)
            ),
            Self::Lost { reason, aside } => format!(
                "it was damaged ({reason}) and there is no whole copy of it: it starts empty; {}",
                moved(aside)
            ),
        })
    }
}

/// Opens the database at `path`, whatever its state is, and says what that was; makes it if it is not there. Blocks.
///
/// Fails when another process has it open (`Unavailable`), when the file cannot be read or written, and when [`Schema::check`]
/// refuses what it finds: none of these is damage.
pub fn open<S: Schema>(path: &Path) -> Result<(Database, Past)> {
    let (database, past) = open_as_it_is::<S>(path)
        .map_err(|error| error.context(format_args!("open the database {}", path.display())))?;
    let past = match std::fs::read_to_string(with_suffix(path, REBUILD)) {
        Ok(report) if !past.lost_something() => Past::Unfinished { report },
        _ => past,
    };
    if let Some(report) = past.report() {
        tracing::error!(database = %path.display(), "{report}");
    }
    Ok((database, past))
}

/// Says that what a database lacked has been rebuilt, as far as it can be.
pub fn rebuilt(path: &Path) {
    let _ = std::fs::remove_file(with_suffix(path, REBUILD));
}

/// Remembers, before anything is changed, that there will be something to rebuild.
fn call_for_rebuild(path: &Path, past: &Past) -> Result<()> {
    let file = with_suffix(path, REBUILD);
    std::fs::write(&file, past.report().unwrap_or_default())
        .map_err(|error| Error::io(format!("write {}", file.display()), &error))?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

fn open_as_it_is<S: Schema>(path: &Path) -> Result<(Database, Past)> {
    let untouched = closed_in_order(path);
    forget_closed(path);
    if length(path)? == 0 {
        return if copies::all(path)?.is_empty() {
            Ok((plain::<S>(path)?, Past::New))
        } else {
            restore::<S>(path, "the file is gone or empty".to_owned())
        };
    }
    if untouched {
        match guarded(|| open_file::<S>(path, false)) {
            Ok(database) => return Ok((database, Past::Whole)),
            Err(Trouble::Refused(error)) => return Err(error),
            // The check says more.
            Err(Trouble::Damaged(_)) => {}
        }
    }
    match verify::<S>(path)? {
        Verdict::Sound => Ok((plain::<S>(path)?, Past::Whole)),
        Verdict::Mendable(reason) => {
            let aside = aside(path);
            copies::duplicate(path, &aside)?;
            let past = Past::Mended { reason, aside };
            call_for_rebuild(path, &past)?;
            Ok((guarded(|| open_file::<S>(path, true))?, past))
        }
        Verdict::Damaged(reason) => restore::<S>(path, reason),
    }
}

/// Checks the database at `path` and its copies without changing anything. Blocks. `Unavailable` when a process has it open.
pub fn check<S: Schema>(path: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut find = |path: &Path, problem: String| {
        findings.push(Finding {
            path: path.to_owned(),
            problem,
        });
    };
    let copies = copies::all(path)?;
    if length(path)? == 0 {
        if !copies.is_empty() {
            find(path, "the file is gone or empty, and there are copies of it".to_owned());
        }
    } else {
        match verify::<S>(path)? {
            Verdict::Sound => {}
            Verdict::Mendable(reason) => find(
                path,
                format!("its last commit is damaged, the one before is whole: {reason}"),
            ),
            Verdict::Damaged(reason) => find(path, format!("damaged: {reason}")),
        }
    }
    for (_, copy) in copies {
        match verify::<S>(&copy)? {
            Verdict::Sound => {}
            Verdict::Mendable(reason) | Verdict::Damaged(reason) => {
                find(&copy, format!("this copy is damaged: {reason}"));
            }
        }
    }
    Ok(findings)
}

/// Mends the database at `path` as [`open`] does, moves damaged copies aside and sees to it that there is a whole one. Says what it did, a
/// sentence each. Blocks. `Unavailable` when a process has it open.
pub fn repair<S: Schema>(path: &Path) -> Result<Vec<String>> {
    let mut done = Vec::new();
    if length(path)? == 0 && copies::all(path)?.is_empty() {
        return Ok(done);
    }
    let (database, past) = open::<S>(path)?;
    done.extend(past.report().map(|report| format!("{}: {report}", path.display())));
    let mut whole = 0;
    for (_, copy) in copies::all(path)? {
        match verify::<S>(&copy)? {
            Verdict::Sound => whole += 1,
            Verdict::Mendable(reason) | Verdict::Damaged(reason) => {
                let aside = aside(&copy);
                std::fs::rename(&copy, &aside).map_err(|error| {
                    Error::io(format!("move the damaged copy aside to {}", aside.display()), &error)
                })?;
                done.push(format!(
                    "{}: this copy was damaged ({reason}) and is now {}",
                    copy.display(),
                    aside.display()
                ));
            }
        }
    }
    if whole == 0 {
        copies::take::<S>(&database, path)?;
        done.push(format!("{}: a copy was taken", path.display()));
    }
    drop(database);
    note_closed(path);
    Ok(done)
}

/// Copies every record of a table, if there is that table.
pub fn copy_table<K: Key + 'static, V: Value + 'static>(
    table: TableDefinition<'_, K, V>,
    from: &ReadTransaction,
    to: &WriteTransaction,
) -> Result<(), redb::Error> {
    let source = match from.open_table(table) {
        Ok(source) => source,
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut target = to.open_table(table)?;
    for entry in source.iter()? {
        let (key, value) = entry?;
        target.insert(key.value(), value.value())?;
    }
    Ok(())
}

/// Puts the newest whole copy, or an empty database, where a damaged one was.
fn restore<S: Schema>(path: &Path, reason: String) -> Result<(Database, Past)> {
    let mut whole = None;
    for (taken, copy) in copies::all(path)? {
        match verify::<S>(&copy) {
            Ok(Verdict::Sound) => {
                whole = Some((taken, copy));
                break;
            }
            Ok(Verdict::Mendable(reason) | Verdict::Damaged(reason)) => {
                tracing::error!(copy = %copy.display(), reason, "a copy of the database is damaged too");
            }
            Err(error) => tracing::error!(copy = %copy.display(), %error, "a copy of the database cannot be used"),
        }
    }
    let aside = (length(path)? > 0).then(|| aside(path));
    let past = match &whole {
        Some((taken, copy)) => Past::Restored {
            reason,
            aside: aside.clone(),
            copy: copy.clone(),
            taken: *taken,
        },
        None => Past::Lost {
            reason,
            aside: aside.clone(),
        },
    };
    call_for_rebuild(path, &past)?;
    if let Some(aside) = aside {
        std::fs::rename(path, &aside)
            .map_err(|error| Error::io(format!("move the damaged file aside to {}", aside.display()), &error))?;
    }
    if let Some((_, copy)) = whole {
        copies::duplicate(&copy, path)?;
    }
    Ok((plain::<S>(path)?, past))
}

fn plain<S: Schema>(path: &Path) -> Result<Database> {
    Ok(guarded(|| open_file::<S>(path, false))?)
}

fn open_file<S: Schema>(path: &Path, mend: bool) -> Result<Database, Trouble> {
    // Container specifications hold secrets: only root may read the file.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| Error::io("open the file", &error))?;
    let database = builder::<S>(mend).create_with_backend(FileBackend::new(file)?)?;
    Ok(database)
}

fn builder<S: Schema>(mend: bool) -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(S::CACHE);
    builder.set_check_integrity_on_open(mend);
    builder
}

/// The file's size in bytes; zero when it is not there.
fn length(path: &Path) -> Result<u64> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::io("look at the file", &error)),
    }
}

/// A free name for what is damaged.
fn aside(path: &Path) -> PathBuf {
    let name = with_suffix(path, &format!(".damaged-{}", seconds_now()));
    let mut free = name.clone();
    let mut number = 1;
    while free.exists() {
        number += 1;
        free = with_suffix(&name, &format!("-{number}"));
    }
    free
}

fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

// === the mark of an orderly end ===

const CLOSED: &str = ".closed";
const REBUILD: &str = ".rebuild";

/// Remembers that the file at `path` is complete as it is: nobody writes to it any more. Without it the next opening checks the file.
pub fn note_closed(path: &Path) {
    if let Some(state) = state(path)
        && let Err(error) = std::fs::write(with_suffix(path, CLOSED), state)
    {
        tracing::debug!(%error, database = %path.display(), "the next start will check the database");
    }
}

fn closed_in_order(path: &Path) -> bool {
    let noted = std::fs::read_to_string(with_suffix(path, CLOSED)).ok();
    noted.is_some() && noted == state(path)
}

fn forget_closed(path: &Path) {
    let _ = std::fs::remove_file(with_suffix(path, CLOSED));
}

/// What changes whenever the file does.
fn state(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(format!(
        "{} {} {}.{:09}\n",
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    ))
}

/// Makes the names in a directory durable.
fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| Error::io(format!("sync the directory {}", directory.display()), &error))
}
