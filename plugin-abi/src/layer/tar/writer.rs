//! Writes headers: ustar, with a PAX header in front when a field does not fit. Pure.

use super::{BLOCK, EntryKind, Timestamp, XATTR_PREFIX, pax};

/// The end of an archive.
pub(in crate::layer) const TRAILER: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The largest number that eleven octal digits hold: sizes from 8 GiB on need a PAX record.
const MAX_OCTAL_11: u64 = 0o77_777_777_777;
/// The largest number that seven octal digits hold.
const MAX_OCTAL_7: u64 = 0o7_777_777;

/// What a header says.
#[derive(Clone, Debug)]
pub(in crate::layer) struct EntryHeader {
    pub(in crate::layer) kind: EntryKind,
    pub(in crate::layer) path: Vec<u8>,
    pub(in crate::layer) link: Vec<u8>,
    pub(in crate::layer) mode: u32,
    pub(in crate::layer) uid: u32,
    pub(in crate::layer) gid: u32,
    pub(in crate::layer) size: u64,
    pub(in crate::layer) mtime: Timestamp,
    pub(in crate::layer) device: (u32, u32),
    pub(in crate::layer) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// How many zeros follow `size` bytes of data.
pub(in crate::layer) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

// === impl EntryHeader ===

impl EntryHeader {
    /// The blocks of the header.
    pub(in crate::layer) fn to_blocks(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let (prefix, name) = split_name(&self.path).unwrap_or_else(|| {
            pax::push_record(&mut records, b"path", &self.path);
            (b"", ascii_end(&self.path))
        });
        let link = if self.link.len() <= 100 && self.link.is_ascii() {
            &self.link[..]
        } else {
            pax::push_record(&mut records, b"linkpath", &self.link);
            ascii_end(&self.link)
        };
        let mut fitting = |key: &str, value: u64, max: u64| {
            if value <= max {
                return value;
            }
            pax::push_record(&mut records, key.as_bytes(), value.to_string().as_bytes());
            0
        };
        let uid = fitting("uid", self.uid.into(), MAX_OCTAL_7);
        let gid = fitting("gid", self.gid.into(), MAX_OCTAL_7);
        let size = fitting("size", self.size, MAX_OCTAL_11);
        let seconds = u64::try_from(self.mtime.seconds).unwrap_or(0);
        if self.mtime.seconds < 0 || seconds > MAX_OCTAL_11 {
            pax::push_record(&mut records, b"mtime", self.mtime.seconds.to_string().as_bytes());
        }
        for (name, value) in &self.xattrs {
            pax::push_record(&mut records, &[XATTR_PREFIX, name].concat(), value);
        }

        let mut blocks = Vec::with_capacity(BLOCK);
        if !records.is_empty() {
            let last = self
                .path
                .rsplit(|&b| b == b'/')
                .find(|part| !part.is_empty())
                .unwrap_or(b"x");
            let name = [b"PaxHeaders.0/", &ascii_end(last)[..ascii_end(last).len().min(80)]].concat();
            blocks.extend(block(
                b'x',
                &name,
                b"",
                b"",
                0o644,
                0,
                0,
                records.len() as u64,
                0,
                (0, 0),
            ));
            let padding = padding(records.len() as u64) as usize;
            blocks.append(&mut records);
            blocks.resize(blocks.len() + padding, 0);
        }
        let kind = match self.kind {
            EntryKind::File => b'0',
            EntryKind::HardLink => b'1',
            EntryKind::Symlink => b'2',
            EntryKind::CharDevice => b'3',
            EntryKind::BlockDevice => b'4',
            EntryKind::Directory => b'5',
            EntryKind::Fifo => b'6',
        };
        blocks.extend(block(
            kind,
            name,
            prefix,
            link,
            self.mode,
            uid,
            gid,
            size,
            if seconds > MAX_OCTAL_11 { 0 } else { seconds },
            self.device,
        ));
        blocks
    }
}

/// A path as ustar's prefix and name, when it fits.
fn split_name(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // The earliest slash that leaves a short enough name; a name must not be empty.
    let from = path.len().checked_sub(101)?;
    let at = from + path[from..path.len() - 1].iter().position(|&b| b == b'/')?;
    (at <= 155 && at > 0).then(|| (&path[..at], &path[at + 1..]))
}

/// What stands in the ustar field of a path that a PAX record gives in full: readers without PAX see a part of it.
fn ascii_end(path: &[u8]) -> &[u8] {
    let end = &path[path.len().saturating_sub(100)..];
    if end.is_ascii() { end } else { b"x" }
}

#[expect(clippy::too_many_arguments, reason = "one a field of the block")]
fn block(
    kind: u8,
    name: &[u8],
    prefix: &[u8],
    link: &[u8],
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    device: (u32, u32),
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, format!("{uid:07o}\0").as_bytes());
    put(116, format!("{gid:07o}\0").as_bytes());
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, format!("{mtime:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link);
    put(257, b"ustar\x0000");
    // Linux's majors have 12 bits and its minors 20: both fit.
    put(329, format!("{:07o}\0", device.0).as_bytes());
    put(337, format!("{:07o}\0", device.1).as_bytes());
    put(345, prefix);
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::super::{Archive, Entry};
    use super::*;

    fn header(path: &[u8]) -> EntryHeader {
        EntryHeader {
            kind: EntryKind::Symlink,
            path: path.to_vec(),
            link: b"target".to_vec(),
            mode: 0o4755,
            uid: 1000,
            gid: 3_000_000,
            size: 0,
            mtime: Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            },
            device: (0, 0),
            xattrs: vec![(b"user.x".to_vec(), b"\0\n=".to_vec())],
        }
    }

    fn read(blocks: &[u8]) -> Entry {
        Archive::new(blocks).next().expect("valid").expect("an entry")
    }

    #[test]
    fn what_is_written_is_read() {
        let long = [b"d/".repeat(60), b"f".repeat(120)].concat();
        let split = [
            b"d".repeat(99),
            b"/".to_vec(),
            b"e".repeat(50),
            b"/".to_vec(),
            b"f".repeat(90),
        ]
        .concat();
        for path in [&b"a/b"[..], "ä/ö".as_bytes(), &long, &split, b"\xff\xfe"] {
            let mut written = header(path);
            written.link = path.repeat(3);
            let entry = read(&written.to_blocks());
            assert_eq!((&entry.path, &entry.link), (&written.path, &written.link));
            assert_eq!((entry.mode, entry.uid, entry.gid), (0o4755, 1000, 3_000_000));
            assert_eq!((entry.mtime, &entry.xattrs), (written.mtime, &written.xattrs));
        }
    }

    #[test]
    fn big_and_early_values_take_records() {
        let mut written = header(b"big");
        written.kind = EntryKind::File;
        written.size = 1 << 40;
        written.mtime.seconds = -5;
        let entry = read(&written.to_blocks());
        assert_eq!((entry.size, entry.mtime.seconds), (1 << 40, -5));
    }
}
