//! Mounts that last as long as a piece of work.

use std::path::{Path, PathBuf};

use super::{Lazy, mount_all, read_only, unmount_all};
use crate::contract::Mount;
use crate::{Error, Result};

/// What is done with mounted files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They are read only: nothing is mounted so that it could be written.
    Read,
    /// They are changed.
    Write,
}

/// Mounts on a temporary directory, undone when this is dropped; or the directory that they stand for, where that needs no mount.
#[derive(Debug)]
pub struct TempMount {
    path: PathBuf,
    /// What was mounted; `None` when `path` is not ours.
    mounts: Option<Vec<Mount>>,
}

/// The directory that `mounts` show as it is: the source of the one bind mount that they are. `None` when they must be performed,
/// because they are something else, or read-only and wanted for writing.
pub fn direct_directory(mounts: &[Mount], access: Access) -> Option<&Path> {
    let [only] = mounts else { return None };
    let plain = only
        .options
        .iter()
        .all(|option| matches!(option.as_str(), "bind" | "rbind" | "rw") || (option == "ro" && access == Access::Read));
    let bind = only.kind == "bind" || only.options.iter().any(|option| option == "bind" || option == "rbind");
    let source = Path::new(&only.source);
    (plain && bind && only.target.trim_matches('/').is_empty() && source.is_absolute() && source.is_dir())
        .then_some(source)
}

// === impl TempMount ===

impl TempMount {
    /// Performs `mounts` on a temporary directory.
    pub fn new(mounts: &[Mount], access: Access) -> Result<Self> {
        let mounts = match access {
            Access::Read => read_only(mounts),
            Access::Write => mounts.to_vec(),
        };
        let parent = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = nix::unistd::mkdtemp(&parent.join("orlop-mount-XXXXXX"))
            .map_err(|error| Error::io(format!("make a mount point in {}", parent.display()), &error.into()))?;
        // From here on, whatever is mounted is unmounted again.
        let mounted = Self {
            path,
            mounts: Some(mounts),
        };
        mount_all(mounted.mounts.as_deref().unwrap_or_default(), &mounted.path)?;
        Ok(mounted)
    }

    /// The directory that `mounts` show, mounted only if need be. Who asks to read must not write: nothing else may stop it.
    pub fn direct_or_new(mounts: &[Mount], access: Access) -> Result<Self> {
        match direct_directory(mounts, access) {
            Some(directory) => Ok(Self {
                path: directory.to_owned(),
                mounts: None,
            }),
            None => Self::new(mounts, access),
        }
    }

    /// Where the files are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Undoes it, and says if that failed, as a drop cannot.
    pub fn unmount(mut self) -> Result<()> {
        self.undo()
    }

    fn undo(&mut self) -> Result<()> {
        let Some(mounts) = self.mounts.take() else {
            return Ok(());
        };
        unmount_all(&mounts, &self.path, Lazy::WhenBusy)?;
        // Never a whole tree: were something still mounted, its files would go.
        std::fs::remove_dir(&self.path)
            .map_err(|error| Error::io(format!("remove the mount point {}", self.path.display()), &error))
    }
}

impl Drop for TempMount {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::error!(%error, "a temporary mount stays behind");
        }
    }
}
