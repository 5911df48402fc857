//! What differs between two directories: both walked at once, by descriptor, names in order of their bytes.
//!
//! Two files are the same when containerd (continuity's `fs.Changes`) says so: owner, mode, device and capabilities; for what is no
//! directory size and modification time too, and the content where both times were cut to whole seconds, as archives cut them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, lgetxattr, llistxattr, open, openat, readlinkat, statat};
use rustix::io::Errno;

use super::metadata::{is_reserved, proc_path, split_names};
use super::remove::{DIRECTORY, names};
use super::whiteout::join;
use super::{MAX_DEPTH, explain, invalid, shown};
use crate::Result;

/// Bytes compared at once.
const COMPARE_CHUNK: usize = 64 << 10;

/// The most bytes of an attribute's value (`XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 64 << 10;

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Nothing. Told, because it may be another name of a file that did change.
    Unmodified,
    /// It is new.
    Added,
    /// It differs.
    Modified,
    /// It is gone, with all that was under it.
    Deleted,
}

/// One file that is in either directory.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    /// What became of it.
    pub kind: ChangeKind,
    /// Its path, relative to both roots.
    pub path: &'a [u8],
    /// What stands behind the path in the upper directory; nothing for what is gone.
    pub upper: Option<Upper<'a>>,
}

/// A file of the upper directory.
#[derive(Clone, Copy)]
pub struct Upper<'a> {
    /// The open directory it is in.
    pub directory: &'a OwnedFd,
    /// Its name there.
    pub name: &'a [u8],
    /// What `lstat` says of it.
    pub stat: &'a Stat,
}

/// Calls `each` for every file in `lower` (none: an empty directory) or `upper`, parents before what is in them.
pub fn changes(lower: Option<&Path>, upper: &Path, mut each: impl FnMut(Change<'_>) -> io::Result<()>) -> Result<()> {
    let open_root = |path: &Path| {
        open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|error| explain(format!("open {} to compare it", path.display()), error.into()))
    };
    let lower_root = lower.map(open_root).transpose()?;
    let upper_root = open_root(upper)?;
    let doing = || match lower {
        Some(lower) => format!("compare {} with {}", upper.display(), lower.display()),
        None => format!("walk {}", upper.display()),
    };
    walk(lower_root.as_ref(), &upper_root, b"", 0, &mut each).map_err(|error| explain(doing(), error))
}

fn walk(
    lower: Option<&OwnedFd>,
    upper: &OwnedFd,
    path: &[u8],
    depth: usize,
    each: &mut impl FnMut(Change<'_>) -> io::Result<()>,
) -> io::Result<()> {
    if depth == MAX_DEPTH {
        return Err(invalid(format!(
            "{} is more than {MAX_DEPTH} directories deep",
            shown(path)
        )));
    }
    let at = |error: io::Error, name: &[u8]| -> io::Error {
        if error.get_ref().is_some() {
            return error;
        }
        io::Error::new(error.kind(), format!("{}: {error}", shown(&join(path, name))))
    };
    let was = lower
        .map(names)
        .transpose()
        .map_err(|error| at(error.into(), b"."))?
        .unwrap_or_default();
    let is = names(upper).map_err(|error| at(error.into(), b"."))?;
    let (mut was, mut is) = (was.iter().peekable(), is.iter().peekable());
    loop {
        let (old, new) = match (was.peek(), is.peek()) {
            (None, None) => return Ok(()),
            (Some(_), None) => (was.next(), None),
            (None, Some(_)) => (None, is.next()),
            (Some(old), Some(new)) => match old.cmp(new) {
                std::cmp::Ordering::Less => (was.next(), None),
                std::cmp::Ordering::Greater => (None, is.next()),
                std::cmp::Ordering::Equal => (was.next(), is.next()),
            },
        };
        let Some(name) = new else {
            let name = old.map_or(&b""[..], Vec::as_slice);
            each(Change {
                kind: ChangeKind::Deleted,
                path: &join(path, name),
                upper: None,
            })?;
            continue;
        };
        let stat = stat_of(upper, name).map_err(|error| at(error.into(), name))?;
        let old = match (old, lower) {
            (Some(_), Some(lower)) => Some((lower, stat_of(lower, name).map_err(|error| at(error.into(), name))?)),
            _ => None,
        };
        let kind = match &old {
            None => ChangeKind::Added,
            Some((lower, old)) => {
                if same(lower, old, upper, &stat, name).map_err(|error| at(error, name))? {
                    ChangeKind::Unmodified
                } else {
                    ChangeKind::Modified
                }
            }
        };
        let child = join(path, name);
        each(Change {
            kind,
            path: &child,
            upper: Some(Upper {
                directory: upper,
                name,
                stat: &stat,
            }),
        })?;
        if is_directory(&stat) {
            let open = |parent: &OwnedFd| openat(parent, &name[..], DIRECTORY, Mode::empty());
            let below = match &old {
                Some((lower, old)) if is_directory(old) => Some(open(lower).map_err(|error| at(error.into(), name))?),
                _ => None,
            };
            let above = open(upper).map_err(|error| at(error.into(), name))?;
            walk(below.as_ref(), &above, &child, depth + 1, each)?;
        }
    }
}

fn stat_of(directory: &OwnedFd, name: &[u8]) -> rustix::io::Result<Stat> {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Whether `name` is the same in both directories.
fn same(lower: &OwnedFd, old: &Stat, upper: &OwnedFd, new: &Stat, name: &[u8]) -> io::Result<bool> {
    if old.st_dev == new.st_dev && old.st_ino == new.st_ino {
        return Ok(true);
    }
    if (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev) {
        return Ok(false);
    }
    if is_directory(new) {
        return Ok(xattrs(lower, name, old)? == xattrs(upper, name, new)?);
    }
    if (old.st_size, old.st_mtime, old.st_mtime_nsec) != (new.st_size, new.st_mtime, new.st_mtime_nsec) {
        return Ok(false);
    }
    if xattrs(lower, name, old)? != xattrs(upper, name, new)? {
        return Ok(false);
    }
    if new.st_mtime_nsec != 0 {
        return Ok(true);
    }
    match FileType::from_raw_mode(new.st_mode) {
        FileType::Symlink => Ok(readlinkat(lower, name, Vec::new())? == readlinkat(upper, name, Vec::new())?),
        FileType::RegularFile if new.st_size > 0 => same_content(&open_file(lower, name)?, &open_file(upper, name)?),
        _ => Ok(true),
    }
}

/// Opens a file to read it, never through a symlink.
pub(super) fn open_file(directory: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat(directory, name, flags, Mode::empty())
}

/// Reads until `buffer` is full or the file ends.
pub(super) fn read_full(file: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::retry_on_intr(|| rustix::io::read(file, &mut buffer[filled..]))? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

fn same_content(old: &OwnedFd, new: &OwnedFd) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; COMPARE_CHUNK], vec![0; COMPARE_CHUNK]);
    loop {
        let (n, m) = (read_full(old, &mut left)?, read_full(new, &mut right)?);
        if left[..n] != right[..m] {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}

/// The attributes that belong in a layer, in order of their names: capabilities, and what users set. Labels of security modules and
/// access control lists are this machine's.
pub(super) fn xattrs(directory: &OwnedFd, name: &[u8], stat: &Stat) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    use std::os::fd::AsFd;
    if !matches!(
        FileType::from_raw_mode(stat.st_mode),
        FileType::RegularFile | FileType::Directory
    ) {
        return Ok(Vec::new());
    }
    let path = proc_path(directory.as_fd(), name);
    let mut list = [0; 4096];
    let list = match llistxattr(&path[..], &mut list[..]) {
        Ok(n) => list[..n].to_vec(),
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            let mut list = Vec::with_capacity(XATTR_MAX);
            llistxattr(&path[..], rustix::buffer::spare_capacity(&mut list))?;
            list
        }
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for key in split_names(&list) {
        let ours = key == b"security.capability" || (key.starts_with(b"user.") && !is_reserved(&key));
        if !ours {
            continue;
        }
        let mut value = Vec::with_capacity(XATTR_MAX);
        match lgetxattr(&path[..], &key[..], rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => found.push((key, value)),
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.sort_unstable();
    Ok(found)
}
