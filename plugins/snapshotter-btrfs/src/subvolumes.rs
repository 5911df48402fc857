//! What a snapshot is made of, and how it is mounted.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use orlop_plugin::contract::{Mount, SnapshotKind, Usage};
use orlop_plugin::snapshots::{Directories, Layers, Snapshot, remove_tree};
use orlop_plugin::{Error, Result};

use crate::ioctl::{self, TOP_INODE};
use crate::usage::added;

/// What may be written.
const OWN: &str = "fs";
/// What children stand on.
const COMMITTED: &str = "committed";

/// Snapshots as subvolumes.
pub(crate) struct Subvolumes {
    device: String,
}

fn own(directories: &Directories, id: u64) -> PathBuf {
    directories.of(id).join(OWN)
}

fn committed(directories: &Directories, id: u64) -> PathBuf {
    directories.of(id).join(COMMITTED)
}

/// Removes the subvolume `path`, if it is there, with those that a container made in it.
fn remove(path: &Path) -> Result<()> {
    let result = match ioctl::destroy(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            remove_inside(path).and_then(|()| ioctl::destroy(path))
        }
        result => result,
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove the subvolume {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}

/// Removes every subvolume below `directory`, the deepest first.
fn remove_inside(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let path = entry.path();
            remove_inside(&path)?;
            // Nothing else on btrfs has this number.
            if entry.metadata()?.ino() == TOP_INODE {
                ioctl::destroy(&path)?;
            }
        }
    }
    Ok(())
}

// === impl Subvolumes ===

impl Subvolumes {
    /// On the file system of `device`.
    pub(crate) fn on(device: PathBuf) -> Self {
        Self {
            device: device.display().to_string(),
        }
    }
}

impl Layers for Subvolumes {
    // The number of a subvolume is asked of the file system.
    const MOUNTS_BLOCK: bool = true;

    fn make(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        let path = own(directories, snapshot.id);
        let doing = || format!("make the subvolume {}", path.display());
        match (snapshot.info.kind, snapshot.parents.first()) {
            (SnapshotKind::Active, Some(parent)) => ioctl::snapshot(&committed(directories, *parent), &path, false)
                .map_err(|error| Error::io(doing(), &error)),
            // A view shows its parent itself.
            (_, Some(_)) => Ok(()),
            (_, None) => ioctl::create(&path)
                // Whatever the process's umask is: it is the root of a mount.
                .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o755)))
                .map_err(|error| Error::io(doing(), &error)),
        }
    }

    fn mounts(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Vec<Mount>> {
        let view = snapshot.info.kind == SnapshotKind::View;
        let shown = match snapshot.parents.first() {
            Some(parent) if view => committed(directories, *parent),
            _ => own(directories, snapshot.id),
        };
        let id = ioctl::id(&shown).map_err(|error| {
            Error::io(
                format!("ask for the number of the subvolume {}", shown.display()),
                &error,
            )
        })?;
        let mut options = vec![format!("subvolid={id}")];
        if view {
            options.push("ro".to_owned());
        }
        Ok(vec![Mount {
            kind: "btrfs".to_owned(),
            source: self.device.clone(),
            target: String::new(),
            options,
        }])
    }

    fn usage(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Usage> {
        let below = snapshot.parents.first().map(|parent| committed(directories, *parent));
        added(&own(directories, snapshot.id), below.as_deref())
    }

    fn commit(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Usage> {
        let path = committed(directories, snapshot.id);
        // A crash may have left one, from before the record was renamed.
        remove(&path)?;
        ioctl::snapshot(&own(directories, snapshot.id), &path, true)
            .map_err(|error| Error::io(format!("make the subvolume {}", path.display()), &error))?;
        let below = snapshot.parents.first().map(|parent| committed(directories, *parent));
        added(&path, below.as_deref())
    }

    fn revert(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        remove(&committed(directories, snapshot.id))
    }

    fn settle(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        remove(&own(directories, snapshot.id))
    }

    fn unmake(&self, directory: &Path) -> Result<()> {
        remove(&directory.join(OWN))?;
        remove(&directory.join(COMMITTED))?;
        remove_tree(directory)
    }
}
