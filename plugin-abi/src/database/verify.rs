//! Whether a database is whole, found out without changing it.

use std::fs::File;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::ReadableDatabase;
use redb::backends::FileBackend;

use super::overlay::Overlay;
use super::{Schema, builder};
use crate::contract::Code;
use crate::{Error, Result, panic_message};

/// What a check finds.
pub(super) enum Verdict {
    /// Every page and every record is whole.
    Sound,
    /// The last commit is damaged; redb can go back to the one before.
    Mendable(String),
    /// There is nothing to go back to.
    Damaged(String),
}

/// Why a database cannot be used as it is.
pub(super) enum Trouble {
    /// The file is not what was written.
    Damaged(String),
    /// Something else is in the way: it is in use, the disk fails, its schema is newer.
    Refused(Error),
}

// === impl Trouble ===

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error.code {
            Code::DataLoss => Self::Damaged(error.message),
            _ => Self::Refused(error),
        }
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Damaged(reason) => Self::data_loss(reason),
            Trouble::Refused(error) => error,
        }
    }
}

impl From<redb::Error> for Trouble {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::Refused(Error::unavailable(
                "another process has it open; is a second daemon running on the same root?",
            )),
            // A file that is too short, or that begins with something else.
            redb::Error::Io(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput
                ) =>
            {
                Self::Refused(Error::io("read the file", &error))
            }
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<redb::DatabaseError> for Trouble {
    fn from(error: redb::DatabaseError) -> Self {
        redb::Error::from(error).into()
    }
}

/// Runs what may panic over a damaged file.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    // What the work holds is dropped by the unwinding, and nothing else of it is used again.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(Trouble::Damaged(panic_message(&*panic))))
}

/// Checks the file at `path`, which exists.
pub(super) fn verify<S: Schema>(path: &Path) -> Result<Verdict> {
    let reason = match attempt::<S>(path, false) {
        Ok(()) => return Ok(Verdict::Sound),
        Err(Trouble::Refused(error)) => return Err(error),
        Err(Trouble::Damaged(reason)) => reason,
    };
    match attempt::<S>(path, true) {
        Ok(()) => Ok(Verdict::Mendable(reason)),
        Err(Trouble::Refused(error)) => Err(error),
        Err(Trouble::Damaged(_)) => Ok(Verdict::Damaged(reason)),
    }
}

fn attempt<S: Schema>(path: &Path, mend: bool) -> Result<(), Trouble> {
    guarded(|| {
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| Error::io("open the file", &error))?;
        let mut database = builder::<S>(mend).create_with_backend(Overlay::over(FileBackend::new(file)?)?)?;
        if !mend && !database.check_integrity()? {
            return Err(Trouble::Damaged(
                "its pages are not what its last commit wrote".to_owned(),
            ));
        }
        let tables = database.begin_read().map_err(redb::Error::from)?;
        Ok(S::check(&tables)?)
    })
}
