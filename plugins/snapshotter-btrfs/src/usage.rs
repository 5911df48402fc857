//! What a subvolume has that the one below has not.

use std::collections::HashSet;
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use orlop_plugin::contract::Usage;
use orlop_plugin::{Error, Result};

/// What everything under `top` takes on disk that is not, unchanged and under the same name, under `below` as well. Blocks.
///
/// An inode keeps its number in a snapshot, and any change moves its change time: no contents are compared. A file that was changed in part
/// counts whole.
pub(crate) fn added(top: &Path, below: Option<&Path>) -> Result<Usage> {
    let failed = |path: &Path, error: &io::Error| Error::io(format!("measure {}", path.display()), error);
    let mut usage = Usage::default();
    // Only what has several names can be met twice.
    let mut linked = HashSet::new();
    let mut directories = vec![PathBuf::new()];
    let mut count = |relative: &Path, metadata: &Metadata| {
        if metadata.nlink() > 1 && !metadata.is_dir() && !linked.insert(metadata.ino()) {
            return;
        }
        let before = below.and_then(|below| below.join(relative).symlink_metadata().ok());
        if !before.is_some_and(|before| same(&before, metadata)) {
            // stat(2) counts blocks of 512 bytes, whatever the file system's are.
            usage.size += metadata.blocks() * 512;
            usage.inodes += 1;
        }
    };
    count(
        Path::new(""),
        &top.symlink_metadata().map_err(|error| failed(top, &error))?,
    );
    while let Some(relative) = directories.pop() {
        let directory = top.join(&relative);
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            // A container may be at work in it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&directory, &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| failed(&directory, &error))?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&entry.path(), &error)),
            };
            let relative = relative.join(entry.file_name());
            count(&relative, &metadata);
            if metadata.is_dir() {
                directories.push(relative);
            }
        }
    }
    Ok(usage)
}

fn same(before: &Metadata, now: &Metadata) -> bool {
    let identity = |metadata: &Metadata| (metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec());
    identity(before) == identity(now)
}
