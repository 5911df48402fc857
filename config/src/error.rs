//! The one error of this crate: every way a configuration can fail to load.

use std::io;
use std::path::{Path, PathBuf};

/// Why a configuration could not be loaded, migrated or used. The message names the file and what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file of the configuration could not be read.
    #[error("cannot read configuration file {}: {source}{}", path.display(), imported_by.as_ref().map(|p| format!(" (imported by {})", p.display())).unwrap_or_default())]
    Read {
        /// The file.
        path: PathBuf,
        /// The file that imports it, when it is not the main file.
        imported_by: Option<PathBuf>,
        /// The reason.
        source: io::Error,
    },
    /// Something at a place in a file: not TOML, a wrong type, a bad duration, an unknown isolation.
    #[error("{file}:{line}:{column}: {message}")]
    Text {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong, with what to write instead.
        message: String,
    },
    /// What the files say together cannot be meant.
    #[error("{file}: {message}")]
    Invalid {
        /// The file.
        file: String,
        /// The key and what is wrong with it.
        message: String,
    },
    /// A version this build does not know, or not an integer.
    #[error(
        "{file}: configuration version {found} is not known; use 1 to {}",
        crate::LATEST_VERSION
    )]
    Version {
        /// The file.
        file: String,
        /// What the file says.
        found: String,
    },
    /// An imported file declares a newer version than the main file; containerd refuses it, since the main file's
    /// version decides how everything is read.
    #[error(
        "{}: drop-in version {found} is higher than version {root} of the main file; migrate the main file first",
        path.display()
    )]
    DropInVersion {
        /// The imported file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The main file's version.
        root: i64,
    },
    /// A file imports itself, directly or through others.
    #[error("import cycle: {}", chain.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" -> "))]
    ImportCycle {
        /// The files from the first of the cycle to its repetition.
        chain: Vec<PathBuf>,
    },
    /// An `imports` entry is not a valid pattern.
    #[error("{}: import pattern {pattern:?}: {message}", file.display())]
    ImportPattern {
        /// The file whose `imports` it is.
        file: PathBuf,
        /// The entry.
        pattern: String,
        /// What is wrong.
        message: String,
    },
    /// Two settings cannot hold together.
    #[error("{0}")]
    Unusable(String),
}

impl ConfigError {
    /// Is it that `path` itself does not exist? containerd then runs on its defaults.
    pub fn is_missing(&self, path: &Path) -> bool {
        matches!(self, Self::Read { path: p, source, imported_by: None } if p == path && source.kind() == io::ErrorKind::NotFound)
    }
}
