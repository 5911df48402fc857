//! The tar format, as far as layers need it: read in all its dialects, written as ustar with PAX records.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub(super) use reader::Archive;
pub(super) use writer::{EntryHeader, TRAILER, padding};

/// The unit of the format, in bytes.
const BLOCK: usize = 512;

/// The prefix of the PAX records that hold extended attributes.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// A point in time: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timestamp {
    pub(super) seconds: i64,
    pub(super) nanos: u32,
}

/// A run of stored bytes of a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// One entry of an archive, its headers put together.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: EntryKind,
    /// As written: it may be absolute or go up.
    pub(super) path: Vec<u8>,
    /// The target of a symlink, the path of a hard link's other name.
    pub(super) link: Vec<u8>,
    /// Permissions with setuid, setgid and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The length of the file, holes counted.
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
    pub(super) atime: Option<Timestamp>,
    /// Major and minor.
    pub(super) device: (u32, u32),
    /// Extended attributes by name.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The stored runs of a sparse file.
    pub(super) sparse: Option<Vec<Extent>>,
}
