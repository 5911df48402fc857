//! What a directory takes on disk.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::contract::Usage;
use crate::{Error, Result};

/// What everything under `directory`, itself included, takes on disk: allocated blocks, each inode once. Blocks.
///
/// What disappears meanwhile does not count: a container may be at work in it.
pub fn disk_usage(directory: &Path) -> Result<Usage> {
    let doing = |path: &Path, error: &io::Error| Error::io(format!("measure {}", path.display()), error);
    let mut usage = Usage::default();
    // Only what has several names can be met twice.
    let mut linked = HashSet::new();
    let top = std::fs::symlink_metadata(directory).map_err(|error| doing(directory, &error))?;
    let mut directories: Vec<PathBuf> = vec![directory.to_owned()];
    add(&mut usage, &top);
    while let Some(directory) = directories.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(doing(&directory, &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| doing(&directory, &error))?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(doing(&entry.path(), &error)),
            };
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.nlink() > 1 && !linked.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            add(&mut usage, &metadata);
        }
    }
    Ok(usage)
}

fn add(usage: &mut Usage, metadata: &std::fs::Metadata) {
    // stat(2) counts blocks of 512 bytes, whatever the file system's are.
    usage.size += metadata.blocks() * 512;
    usage.inodes += 1;
}
