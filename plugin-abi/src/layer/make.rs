//! Making a layer: the changes between two directories as a tar with whiteouts.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, major, minor, open, readlinkat, statat};
use sha2::{Digest as _, Sha256};

use super::changes::{self, Change, ChangeKind, Upper, changes};
use super::compression::Compression;
use super::tar::{EntryHeader, EntryKind, TRAILER, Timestamp, padding};
use super::whiteout::{self, join, split};
use super::{explain, invalid, shown};
use crate::contract::Digest;
use crate::{Error, Result};

/// How much of the tar goes to the compressor at once.
const CHUNK: usize = 256 << 10;

/// How a layer is made.
#[derive(Clone, Debug, Default)]
pub struct MakeOptions {
    /// No file in the layer is younger than this.
    pub clamp_mtime: Option<SystemTime>,
}

/// A layer that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The digest of the tar before it was compressed.
    pub diff_id: Digest,
    /// The length of the tar before it was compressed, in bytes.
    pub size: u64,
}

/// Writes what turns `lower` (none: an empty directory) into `upper` as a layer to `sink`. The same trees make the same bytes.
///
/// As in containerd, times are cut to whole seconds, sockets are left out, and names that a hard link shares are links in the layer.
pub fn make<W: Write + Send>(
    lower: Option<&Path>,
    upper: &Path,
    options: &MakeOptions,
    compression: Compression,
    sink: W,
) -> Result<Made> {
    let doing = || format!("make a layer of {}", upper.display());
    let root = open(
        upper,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| explain(doing(), error.into()))?;
    std::thread::scope(|scope| {
        let (chunks, to_compress) = sync_channel::<Vec<u8>>(3);
        let compressor = scope.spawn(move || -> io::Result<()> {
            let mut writer = compression.writer(sink)?;
            for chunk in to_compress {
                // The tar's end is not the layer's when the walk failed: an empty chunk says that it did not.
                if chunk.is_empty() {
                    return writer.finish()?.flush();
                }
                writer.write_all(&chunk)?;
            }
            Ok(())
        });
        let mut layer = LayerWriter {
            tar: TarSink {
                chunks,
                buffer: Vec::with_capacity(CHUNK),
                used: 0,
                sha256: Sha256::new(),
                size: 0,
            },
            root,
            clamp: options.clamp_mtime.map(timestamp),
            links: HashMap::new(),
            waiting: HashMap::new(),
            directories: HashSet::new(),
        };
        let walked = changes(lower, upper, |change| layer.change(change));
        let made = walked.and_then(|()| layer.finish().map_err(|error| explain(doing(), error)));
        // The compressor's error is the cause of the walk's, when both have one.
        match compressor.join() {
            Ok(Ok(())) => made,
            Ok(Err(error)) => Err(explain(doing(), error)),
            Err(panic) => Err(Error::internal(format!(
                "compressing a layer panicked: {}",
                crate::panic_message(&*panic)
            ))),
        }
    })
}

/// Turns changes into entries.
struct LayerWriter {
    tar: TarSink,
    root: std::os::fd::OwnedFd,
    clamp: Option<Timestamp>,
    /// The first name in the layer of each file with several, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Unmodified names of files with several: they go in after all when another of their names does.
    waiting: HashMap<(u64, u64), Vec<Vec<u8>>>,
    /// Directories that are in the layer.
    directories: HashSet<Vec<u8>>,
}

// === impl LayerWriter ===

impl LayerWriter {
    fn change(&mut self, change: Change<'_>) -> io::Result<()> {
        let Some(upper) = change.upper else {
            return self.whiteout(change.path);
        };
        let Some(kind) = entry_kind(upper.stat) else {
            return Ok(());
        };
        let inode = (upper.stat.st_dev, upper.stat.st_ino);
        let several = kind != EntryKind::Directory && upper.stat.st_nlink > 1;
        if several {
            if let Some(first) = self.links.get(&inode).cloned() {
                let header = self.header(change.path, EntryKind::HardLink, first, upper)?;
                return self.entry(&header);
            }
            if change.kind == ChangeKind::Unmodified {
                self.waiting.entry(inode).or_default().push(change.path.to_vec());
                return Ok(());
            }
        } else if change.kind == ChangeKind::Unmodified {
            return Ok(());
        }
        let link = if kind == EntryKind::Symlink {
            readlinkat(upper.directory, upper.name, Vec::new())?.into_bytes()
        } else {
            Vec::new()
        };
        let header = self.header(change.path, kind, link, upper)?;
        self.entry(&header)?;
        if kind == EntryKind::File && header.size > 0 {
            self.content(upper, header.size)?;
        }
        if several {
            self.links.insert(inode, change.path.to_vec());
            for name in self.waiting.remove(&inode).unwrap_or_default() {
                let header = self.header(&name, EntryKind::HardLink, change.path.to_vec(), upper)?;
                self.entry(&header)?;
            }
        }
        Ok(())
    }

    /// As containerd 2 writes them: nobody's, of 1970, so that they do not depend on when they were written.
    fn whiteout(&mut self, path: &[u8]) -> io::Result<()> {
        let (directory, name) = split(path);
        self.entry(&EntryHeader {
            kind: EntryKind::File,
            path: join(directory, &[whiteout::PREFIX, name].concat()),
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Timestamp::default(),
            device: (0, 0),
            xattrs: Vec::new(),
        })
    }

    fn header(&self, path: &[u8], kind: EntryKind, link: Vec<u8>, upper: Upper<'_>) -> io::Result<EntryHeader> {
        let stat = upper.stat;
        let mtime = Timestamp {
            seconds: stat.st_mtime,
            nanos: 0,
        };
        let mut path = path.to_vec();
        if kind == EntryKind::Directory {
            path.push(b'/');
        }
        let device = matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        Ok(EntryHeader {
            kind,
            path,
            link,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: if kind == EntryKind::File {
                stat.st_size.cast_unsigned()
            } else {
                0
            },
            mtime: self
                .clamp
                .map_or(mtime, |clamp| mtime.min(Timestamp { nanos: 0, ..clamp })),
            device: if device {
                (major(stat.st_rdev), minor(stat.st_rdev))
            } else {
                (0, 0)
            },
            xattrs: changes::xattrs(upper.directory, upper.name, stat)?,
        })
    }

    /// Writes a header, its parents' before it: who applies the layer must not have to guess what those are.
    fn entry(&mut self, header: &EntryHeader) -> io::Result<()> {
        let name = header.path.strip_suffix(b"/").unwrap_or(&header.path).to_vec();
        self.parents(split(&name).0)?;
        if header.kind == EntryKind::Directory {
            self.directories.insert(name);
        }
        self.tar.put(&header.to_blocks())
    }

    fn parents(&mut self, path: &[u8]) -> io::Result<()> {
        if path.is_empty() || self.directories.contains(path) {
            return Ok(());
        }
        self.parents(split(path).0)?;
        let stat = statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW)?;
        let upper = Upper {
            directory: &self.root,
            name: path,
            stat: &stat,
        };
        let header = self.header(path, EntryKind::Directory, Vec::new(), upper)?;
        self.directories.insert(path.to_vec());
        self.tar.put(&header.to_blocks())
    }

    fn content(&mut self, upper: Upper<'_>, size: u64) -> io::Result<()> {
        let file = changes::open_file(upper.directory, upper.name)?;
        let mut left = size;
        while left > 0 {
            let space = self.tar.space()?;
            let wanted = space.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = changes::read_full(&file, &mut space[..wanted])?;
            if n == 0 {
                return Err(invalid(format!(
                    "{} became shorter while it was read",
                    shown(upper.name)
                )));
            }
            self.tar.filled(n);
            left -= n as u64;
        }
        self.tar.put(&TRAILER[..padding(size) as usize])
    }

    fn finish(mut self) -> io::Result<Made> {
        self.tar.put(&TRAILER)?;
        self.tar.finish()
    }
}

/// The kind of entry that a file becomes; sockets have none.
fn entry_kind(stat: &Stat) -> Option<EntryKind> {
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        FileType::CharacterDevice => EntryKind::CharDevice,
        FileType::BlockDevice => EntryKind::BlockDevice,
        FileType::Fifo => EntryKind::Fifo,
        FileType::Socket | FileType::Unknown => return None,
    })
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos(),
    }
}

/// The tar on its way to the compressor, hashed as it goes.
struct TarSink {
    chunks: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    /// How much of the buffer counts while a file is read into the rest.
    used: usize,
    sha256: Sha256,
    size: u64,
}

// === impl TarSink ===

impl TarSink {
    fn put(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            if self.buffer.len() == CHUNK {
                self.send()?;
            }
            let n = data.len().min(CHUNK - self.buffer.len());
            self.buffer.extend_from_slice(&data[..n]);
            data = &data[n..];
        }
        Ok(())
    }

    /// Room to read a file into; say with [`Self::filled`] how much of it counts.
    fn space(&mut self) -> io::Result<&mut [u8]> {
        if self.buffer.len() == CHUNK {
            self.send()?;
        }
        let used = self.buffer.len();
        self.buffer.resize(CHUNK, 0);
        self.used = used;
        Ok(&mut self.buffer[used..])
    }

    fn filled(&mut self, n: usize) {
        self.buffer.truncate(self.used + n);
    }

    fn send(&mut self) -> io::Result<()> {
        self.sha256.update(&self.buffer);
        self.size += self.buffer.len() as u64;
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.chunks
            .send(full)
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    fn finish(mut self) -> io::Result<Made> {
        if !self.buffer.is_empty() {
            self.send()?;
        }
        // An empty chunk: the end, and all went well.
        self.send()?;
        Ok(Made {
            diff_id: Digest::from_sha256(self.sha256.finalize()),
            size: self.size,
        })
    }
}
