//! Removes trees by descriptor, so that no symlink leads anywhere else.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::{Errno, Result};

use super::MAX_DEPTH;

/// How a directory is opened: the directory itself, never what a symlink leads to.
pub(super) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Removes `name` in `parent` and everything under it. What is not there is fine.
pub(super) fn remove_tree(parent: impl AsFd, name: &[u8]) -> Result<()> {
    remove_below(parent.as_fd(), name, 0)
}

fn remove_below(parent: std::os::fd::BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says ISDIR, POSIX says PERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    if depth == MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    let directory = openat(parent, name, DIRECTORY, Mode::empty())?;
    for child in names(&directory)? {
        remove_below(directory.as_fd(), &child, depth + 1)?;
    }
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// The names in a directory, in order of their bytes.
pub(super) fn names(directory: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
