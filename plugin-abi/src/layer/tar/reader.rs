//! Reads an archive entry by entry, straight out of the buffers it arrives in.

use std::io::{self, BufRead};

use super::super::invalid;
use super::header::{self, Header};
use super::{BLOCK, Entry, EntryKind, Extent, Timestamp, XATTR_PREFIX, pax, sparse};

/// The most that long names, PAX records and sparse maps of one entry may take. As in Go's reader, so that what containerd takes is taken.
const MAX_EXTENSION: u64 = 1 << 20;

/// An archive being read.
pub(in crate::layer) struct Archive<R> {
    source: R,
    /// Stored bytes of the current entry that were not read yet, and the padding behind them.
    left: u64,
    padding: u64,
}

/// What came in front of an entry's own header.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Vec<u8>,
}

// === impl Archive ===

impl<R: BufRead> Archive<R> {
    pub(in crate::layer) fn new(source: R) -> Self {
        Self {
            source,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry, or `None` at the end. What was not read of the one before is skipped.
    pub(in crate::layer) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip(self.left + self.padding)?;
            (self.left, self.padding) = (0, 0);
            let Some(block) = self.header_block()? else {
                return Ok(None);
            };
            let header = header::parse(&block)?;
            let stored = u64::try_from(header.size).unwrap_or(0);
            match header.kind {
                b'x' => extensions.pax = self.extension(stored)?,
                b'L' => extensions.long_name = Some(header::text(&self.extension(stored)?).to_vec()),
                b'K' => extensions.long_link = Some(header::text(&self.extension(stored)?).to_vec()),
                // Global records: containerd leaves them out of account, and so must who wants the same tree.
                b'g' => (self.left, self.padding) = (stored, super::padding(stored)),
                _ => return self.entry(&block, header, &extensions).map(Some),
            }
        }
    }

    /// Streams the data of `entry`, which must be the current one, to `sink` with the offset each piece belongs at.
    pub(in crate::layer) fn copy_data(
        &mut self,
        entry: &Entry,
        mut sink: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let whole = [Extent {
            offset: 0,
            length: entry.size,
        }];
        for run in entry.sparse.as_deref().unwrap_or(&whole) {
            let (mut offset, mut length) = (run.offset, run.length);
            while length > 0 {
                let chunk = self.source.fill_buf()?;
                if chunk.is_empty() {
                    return Err(truncated());
                }
                let n = chunk.len().min(usize::try_from(length).unwrap_or(usize::MAX));
                sink(offset, &chunk[..n])?;
                self.source.consume(n);
                offset += n as u64;
                length -= n as u64;
                self.left -= n as u64;
            }
        }
        Ok(())
    }

    /// Reads what follows the end, which belongs to the diff_id.
    pub(in crate::layer) fn drain(&mut self) -> io::Result<()> {
        loop {
            let n = self.source.fill_buf()?.len();
            if n == 0 {
                return Ok(());
            }
            self.source.consume(n);
        }
    }

    /// Puts an entry together from its header and what came in front.
    fn entry(&mut self, block: &[u8; BLOCK], header: Header, extensions: &Extensions) -> io::Result<Entry> {
        let records = pax::records(&extensions.pax)?;
        let mut entry = Entry {
            kind: EntryKind::File,
            path: extensions.long_name.clone().unwrap_or(header.name),
            link: extensions.long_link.clone().unwrap_or(header.link),
            // Writers may put the file type bits in here too.
            mode: (header.mode & 0o7777) as u32,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Timestamp {
                seconds: header.mtime,
                nanos: 0,
            },
            atime: header.atime,
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        };
        let (mut uid, mut gid, mut stored) = (header.uid, header.gid, header.size);
        let mut sparse_records = SparseRecords::default();
        for (key, value) in records {
            // An empty value takes a record of a global header back; there is none here.
            if value.is_empty() && !key.starts_with(XATTR_PREFIX) {
                continue;
            }
            match key {
                b"path" => entry.path = value.to_vec(),
                b"linkpath" => entry.link = value.to_vec(),
                b"size" => stored = pax::integer(value)?,
                b"uid" => uid = pax::integer(value)?,
                b"gid" => gid = pax::integer(value)?,
                b"mtime" => entry.mtime = pax::timestamp(value)?,
                b"atime" => entry.atime = Some(pax::timestamp(value)?),
                _ => {
                    if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                        entry.xattrs.push((name.to_vec(), value.to_vec()));
                    } else {
                        sparse_records.take(key, value)?;
                    }
                }
            }
        }
        if entry.path.contains(&0) || entry.link.contains(&0) {
            return Err(invalid("a path in the archive has a NUL in it"));
        }
        entry.uid = id("uid", uid)?;
        entry.gid = id("gid", gid)?;
        entry.kind = match header.kind {
            // Version 7 marked directories by a slash only.
            0 if entry.path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                return Err(invalid(format!(
                    "{:?} is an entry of the unknown tar type {:?}",
                    String::from_utf8_lossy(&entry.path),
                    char::from(other)
                )));
            }
        };
        if entry.kind != EntryKind::File {
            // Writers put the size of the link's target here; no data follows.
            entry.device = (device_number(header.device.0)?, device_number(header.device.1)?);
            return Ok(entry);
        }
        entry.size = u64::try_from(stored).map_err(|_| invalid("an entry has a negative size"))?;
        (self.left, self.padding) = (entry.size, super::padding(entry.size));
        if header.kind == b'S' {
            let (mut extents, mut more) = sparse::gnu_header(block)?;
            let mut taken = 0;
            while more {
                taken += BLOCK as u64;
                if taken > MAX_EXTENSION {
                    return Err(too_long("a sparse map", taken));
                }
                let (next, yet_more) = sparse::gnu_extension(&self.block()?)?;
                extents.extend(next);
                more = yet_more;
            }
            entry.size = sparse::gnu_size(block)?;
            entry.sparse = Some(extents);
        } else if let Some(found) = sparse_records.finish()? {
            if let Some(name) = found.name {
                entry.path = name;
            }
            entry.size = found.size.unwrap_or(entry.size);
            entry.sparse = Some(match found.extents {
                Some(extents) => extents,
                None => self.sparse_map()?,
            });
        }
        if let Some(extents) = &entry.sparse {
            sparse::check(extents, entry.size, self.left)?;
        }
        Ok(entry)
    }

    /// The sparse map in front of the data (PAX 1.0).
    fn sparse_map(&mut self) -> io::Result<Vec<Extent>> {
        let mut text = Vec::new();
        loop {
            if self.left < BLOCK as u64 {
                return Err(invalid("a sparse map is longer than its entry"));
            }
            text.extend_from_slice(&self.block()?);
            self.left -= BLOCK as u64;
            if text.len() as u64 > MAX_EXTENSION {
                return Err(too_long("a sparse map", text.len() as u64));
            }
            // Only a block that ends the map makes it worth taking apart.
            if let Some(extents) = sparse::pax_1_0(&text)? {
                return Ok(extents);
            }
        }
    }

    /// The body of an entry that extends the next one.
    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(too_long("a long name or PAX header", size));
        }
        let mut body = vec![0; usize::try_from(size).map_err(|_| too_long("a PAX header", size))?];
        self.read_exact(&mut body)?;
        self.padding = super::padding(size);
        Ok(body)
    }

    /// The next header, or `None` at the end: two blocks of zeros, or nothing more.
    fn header_block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        if self.source.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let block = self.block()?;
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        if self.source.fill_buf()?.is_empty() || self.block()? == [0; BLOCK] {
            return Ok(None);
        }
        Err(invalid("a block of zeros stands between the entries of the archive"))
    }

    fn block(&mut self) -> io::Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        self.read_exact(&mut block)?;
        Ok(block)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.source.read_exact(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                truncated()
            } else {
                error
            }
        })
    }

    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let have = self.source.fill_buf()?.len();
            if have == 0 {
                return Err(truncated());
            }
            let n = have.min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.source.consume(n);
            bytes -= n as u64;
        }
        Ok(())
    }
}

/// The GNU.sparse records of one entry.
#[derive(Default)]
struct SparseRecords {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// Version 0.0 and 0.1: the map itself.
    extents: Option<Vec<Extent>>,
    /// Version 0.0 repeats two keys; here their values in turn.
    numbers: Vec<Vec<u8>>,
    major: Option<i64>,
}

// === impl SparseRecords ===

impl SparseRecords {
    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match key {
            b"GNU.sparse.name" => self.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                let size =
                    u64::try_from(pax::integer(value)?).map_err(|_| invalid("a sparse file has a negative size"))?;
                self.size = Some(size);
            }
            b"GNU.sparse.map" => self.extents = Some(sparse::pairs(value.split(|&b| b == b','))?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.numbers.push(value.to_vec()),
            b"GNU.sparse.major" => self.major = Some(pax::integer(value)?),
            _ => {}
        }
        Ok(())
    }

    /// The records, when the entry is sparse; without extents when the map stands in front of the data.
    fn finish(mut self) -> io::Result<Option<Self>> {
        if !self.numbers.is_empty() {
            self.extents = Some(sparse::pairs(self.numbers.iter().map(Vec::as_slice))?);
        }
        Ok((self.extents.is_some() || self.major == Some(1)).then_some(self))
    }
}

/// A user or group id: 4294967295 would mean "leave it".
fn id(what: &str, value: i64) -> io::Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|&id| id != u32::MAX)
        .ok_or_else(|| invalid(format!("{what} {value} is no id")))
}

fn device_number(value: i64) -> io::Result<u32> {
    u32::try_from(value).map_err(|_| invalid(format!("{value} is no device number")))
}

fn truncated() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the archive ends in the middle of an entry",
    )
}

fn too_long(what: &str, size: u64) -> io::Error {
    invalid(format!(
        "{what} of the archive takes {size} bytes; at most {MAX_EXTENSION} are read"
    ))
}
