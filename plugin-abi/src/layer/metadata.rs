//! Owner, mode, times and extended attributes of what a layer puts down.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
    fgetxattr, flistxattr, fsetxattr, futimens, lsetxattr, statat, utimensat,
};
use rustix::io::Errno;

use super::shown;
use super::tar::{Entry, EntryKind, Timestamp};

/// The most bytes of names, or of one value, the kernel has (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 64 << 10;

/// Sets what `entry` says on the open file it was written to.
pub(super) fn apply_to_file(file: &OwnedFd, entry: &Entry, same_owner: bool) -> io::Result<()> {
    if same_owner {
        fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    }
    for (name, value) in settable(entry) {
        tolerate(entry, name, fsetxattr(file, name, value, XattrFlags::empty()))?;
    }
    // After chown, which takes setuid and setgid away.
    fchmod(file, Mode::from_raw_mode(entry.mode))?;
    futimens(file, &times(entry))?;
    Ok(())
}

/// Sets what `entry` says on `name` in `parent`, on itself where it is a link. A directory's times are for the end.
pub(super) fn apply_at(parent: &OwnedFd, name: &[u8], entry: &Entry, same_owner: bool) -> io::Result<()> {
    if same_owner {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    for (key, value) in settable(entry) {
        tolerate(
            entry,
            key,
            lsetxattr(&proc_path(parent.as_fd(), name)[..], key, value, XattrFlags::empty()),
        )?;
    }
    // chmod follows links, and a hard link may be one more name of a symlink (CVE-2021-32760).
    let symlink = match entry.kind {
        EntryKind::Symlink => true,
        EntryKind::HardLink => {
            let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
        }
        _ => false,
    };
    if !symlink {
        chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
    }
    if entry.kind != EntryKind::Directory {
        utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// The path by which the kernel finds `name` in `parent` again, for calls that take no descriptor.
pub(super) fn proc_path(parent: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name].concat()
}

/// The attributes that a layer may set. `trusted.*` and `user.overlay.*` are the kernel's and the snapshotter's own: a layer that
/// set them could make an overlay show what it should not.
fn settable(entry: &Entry) -> impl Iterator<Item = (&[u8], &[u8])> {
    entry
        .xattrs
        .iter()
        .map(|(name, value)| (&name[..], &value[..]))
        .filter(|(name, _)| {
            let reserved = is_reserved(name);
            if reserved {
                tracing::warn!(
                    path = shown(&entry.path),
                    xattr = shown(name),
                    "a layer may not set this attribute: left out"
                );
            }
            !reserved
        })
}

/// Whether an attribute is none of a layer's business.
pub(super) fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.")
}

/// An attribute that this file system does not know, or that this kind of file cannot have, is no reason to refuse a layer.
fn tolerate(entry: &Entry, name: &[u8], result: rustix::io::Result<()>) -> io::Result<()> {
    let plain = matches!(entry.kind, EntryKind::File | EntryKind::Directory | EntryKind::HardLink);
    match result {
        Ok(()) => Ok(()),
        Err(error) if error == Errno::NOTSUP || (error == Errno::PERM && name.starts_with(b"user.") && !plain) => {
            tracing::warn!(path = shown(&entry.path), xattr = shown(name), %error, "an extended attribute was left out");
            Ok(())
        }
        Err(error) => Err(io::Error::new(
            io::Error::from(error).kind(),
            format!("set the extended attribute {}: {error}", shown(name)),
        )),
    }
}

/// The times that `entry` says; the access time is never before the modification.
pub(super) fn times(entry: &Entry) -> Timestamps {
    let mtime = bounded(entry.mtime);
    Timestamps {
        last_access: timespec(bounded(entry.atime.unwrap_or_default().max(entry.mtime))).max(timespec(mtime)),
        last_modification: timespec(mtime),
    }
}

/// As containerd: what is before 1970 or past what 64 bits of nanoseconds hold is 1970.
fn bounded(time: Timestamp) -> Timestamp {
    const END: i64 = i64::MAX / 1_000_000_000;
    if (0..END).contains(&time.seconds) {
        time
    } else {
        Timestamp::default()
    }
}

fn timespec(time: Timestamp) -> Timespec {
    Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanos.into(),
    }
}

/// Gives `to` the owner, mode and attributes of the lower layer's directory `from`, as a copy-up of overlayfs would; returns its times.
pub(super) fn copy_up(from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<Timestamps> {
    let stat = rustix::fs::fstat(from)?;
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    for name in xattr_names(from)? {
        if is_reserved(&name) {
            continue;
        }
        let mut value = Vec::with_capacity(XATTR_MAX);
        match fgetxattr(from, &name[..], rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => fsetxattr(to, &name[..], &value, XattrFlags::empty())?,
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(stat_times(&stat))
}

fn xattr_names(file: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut list = Vec::with_capacity(XATTR_MAX);
    match flistxattr(file, rustix::buffer::spare_capacity(&mut list)) {
        Ok(_) => Ok(split_names(&list)),
        Err(Errno::NOTSUP) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The names in a list that the kernel gave: each ends in a NUL.
pub(super) fn split_names(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

/// The times in a `stat`.
fn stat_times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec.cast_signed(),
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec.cast_signed(),
        },
    }
}
