//! The rolling copies: taken beside the writers, verified before they count.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase};

use super::verify::{Verdict, guarded, verify};
use super::{Schema, open_file, seconds_now, sync_directory};
use crate::{Error, Result};

/// The directory of the copies, beside the database.
const DIRECTORY: &str = "backup";

/// How many are kept.
const KEPT: usize = 2;

/// How long after the first write of a burst a copy is taken: an import is one burst.
const SETTLE: Duration = Duration::from_secs(5);

/// How long there is from one copy to the next while there are writes.
const INTERVAL: Duration = Duration::from_secs(300);

/// A thread that copies needs a few pages of redb's and a short stack.
const STACK: usize = 256 << 10;

/// Takes the copies of one database: a while after it was written, by a thread that is there only while a copy is due, and at the end.
pub struct Copies {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    copy: fn(&Database, &Path) -> Result<()>,
    state: Mutex<State>,
    ending: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether something was written since the last copy.
    due: bool,
    last: Option<Instant>,
    thread: Option<JoinHandle<()>>,
    ended: bool,
}

// === impl Copies ===

impl Copies {
    /// The copies of the database at `path`.
    pub fn of<S: Schema>(path: &Path) -> Self {
        Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                copy: take::<S>,
                state: Mutex::default(),
                ending: Condvar::new(),
            }),
        }
    }

    /// Tells of a commit. Quick.
    pub fn written(&self, database: &Arc<Database>) {
        let mut state = self.inner.state();
        state.due = true;
        if state.thread.is_some() || state.ended {
            return;
        }
        let until_next = state
            .last
            .map_or(SETTLE, |last| INTERVAL.saturating_sub(last.elapsed()).max(SETTLE));
        let (inner, database) = (Arc::clone(&self.inner), Arc::downgrade(database));
        let thread = std::thread::Builder::new()
            .name("backup".to_owned())
            .stack_size(STACK)
            .spawn(move || inner.run(until_next, &database));
        match thread {
            Ok(thread) => state.thread = Some(thread),
            Err(error) => tracing::warn!(%error, "no thread for a copy of the database"),
        }
    }

    /// Takes the last copy, if one is due, after the last write. Blocks. Nothing holds the database afterwards.
    pub fn end(&self, database: &Database) {
        let thread = {
            let mut state = self.inner.state();
            state.ended = true;
            state.thread.take()
        };
        self.inner.ending.notify_all();
        if let Some(thread) = thread {
            // It logs what fails, and catches its panics.
            let _ = thread.join();
        }
        let due = self.inner.state().due;
        if due {
            self.inner.copy(database);
        }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.inner.state().ended = true;
        self.inner.ending.notify_all();
    }
}

// === impl Inner ===

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Plain values, which every holder leaves whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies when it is time, until nothing was written meanwhile.
    fn run(&self, first: Duration, database: &Weak<Database>) {
        let mut pause = first;
        loop {
            let (state, _) = self
                .ending
                .wait_timeout_while(self.state(), pause, |state| !state.ended)
                .unwrap_or_else(PoisonError::into_inner);
            let ended = state.ended;
            drop(state);
            let database = if ended { None } else { database.upgrade() };
            if let Some(database) = &database {
                self.copy(database);
            }
            let mut state = self.state();
            if database.is_none() || !state.due {
                if !state.ended {
                    state.thread = None;
                }
                return;
            }
            pause = INTERVAL;
        }
    }

    fn copy(&self, database: &Database) {
        {
            let mut state = self.state();
            (state.due, state.last) = (false, Some(Instant::now()));
        }
        if let Err(error) = (self.copy)(database, &self.path) {
            tracing::warn!(%error, database = %self.path.display(), "no copy of the database could be taken; the next write tries again later");
        }
    }
}

/// The copies of the database at `path`, newest first, each with the time it was taken.
pub(super) fn all(path: &Path) -> Result<Vec<(SystemTime, PathBuf)>> {
    let directory = directory(path);
    let doing = |error| Error::io(format!("list {}", directory.display()), &error);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(doing(error)),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(doing)?;
        let number = entry.file_name().to_str().and_then(|copy| {
            let number = copy.strip_prefix(&name)?.strip_prefix('.')?;
            number.parse::<u64>().ok()
        });
        found.extend(number.map(|number| (UNIX_EPOCH + Duration::from_secs(number), entry.path())));
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

fn directory(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new(".")).join(DIRECTORY)
}

/// Takes a copy of what is committed now: written to a file of its own, verified, durable, and only then under a name that counts.
pub(super) fn take<S: Schema>(database: &Database, path: &Path) -> Result<()> {
    let directory = directory(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(|error| Error::io(format!("make the directory {}", directory.display()), &error))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unfinished = directory.join(format!("{name}.unfinished"));
    remove(&unfinished)?;
    guarded(|| {
        let from = database.begin_read().map_err(redb::Error::from)?;
        let copy = open_file::<S>(&unfinished, false)?;
        let mut to = copy.begin_write().map_err(redb::Error::from)?;
        to.set_quick_repair(true);
        S::copy(&from, &to)?;
        to.commit().map_err(redb::Error::from)?;
        Ok(())
    })?;
    match verify::<S>(&unfinished)? {
        Verdict::Sound => {}
        Verdict::Mendable(reason) | Verdict::Damaged(reason) => {
            return Err(Error::data_loss(format!(
                "the copy that was just written is damaged: {reason}"
            )));
        }
    }
    // A second that has its copy already takes the next one's name.
    let newest = all(path)?.first().map_or(0, |(taken, _)| seconds(*taken));
    let number = seconds_now().max(newest + 1);
    finish(&unfinished, &directory.join(format!("{name}.{number}")))?;
    for (_, old) in all(path)?.into_iter().skip(KEPT) {
        remove(&old)?;
    }
    Ok(())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Copies a file, durably: `to` is there whole or not at all.
pub(super) fn duplicate(from: &Path, to: &Path) -> Result<()> {
    let unfinished = super::with_suffix(to, ".unfinished");
    std::fs::copy(from, &unfinished)
        .map_err(|error| Error::io(format!("copy {} to {}", from.display(), unfinished.display()), &error))?;
    finish(&unfinished, to)
}

fn finish(unfinished: &Path, name: &Path) -> Result<()> {
    let doing = |error| Error::io(format!("write {}", name.display()), &error);
    File::open(unfinished).and_then(|file| file.sync_all()).map_err(doing)?;
    std::fs::rename(unfinished, name).map_err(doing)?;
    sync_directory(name.parent().unwrap_or(Path::new(".")))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}
