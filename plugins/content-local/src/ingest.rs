//! One ingest, from its first byte to its blob. Everything here may block.
//!
//! ```text
//!              append beyond IN_MEMORY, spill            publish
//!   Memory ────────────────────────────────────▶ File ───────────▶ Over (the blob is there)
//!      └─────────────────── publish (O_TMPFILE, link) ───────────────▲
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, renameat2};
use orlop_plugin::contract::{CommitOptions, Digest, WriterOptions};
use orlop_plugin::{Error, Result};
use sha2::{Digest as _, Sha256};

use crate::durable::BlobDirectory;
use crate::layout::{self, Layout};
use crate::refs::{Active, Held};

/// Up to this size a young ingest has no files. Manifests, configs and small layers fit.
pub(crate) const IN_MEMORY: u64 = 64 << 10;
/// What is read at a time to hash a file again.
const REHASH: usize = 256 << 10;
/// Blobs are read only, also to their owner: containerd's habit, and a guard against accidents.
const BLOB_MODE: u32 = 0o444;

/// Where blobs are and how they become durable.
pub(crate) struct Disk {
    pub(crate) layout: Layout,
    pub(crate) blobs: BlobDirectory,
}

/// An ingest that is being written.
pub(crate) struct Ingest {
    disk: Arc<Disk>,
    held: Option<Held>,
    active: Arc<Active>,
    directory: PathBuf,
    stage: Stage,
    hasher: Sha256,
    offset: u64,
}

enum Stage {
    Memory(Vec<u8>),
    File(File),
    Over,
}

/// What became of naming a blob.
enum Named {
    New,
    Existed,
    /// This file system has no unnamed files.
    Unsupported,
}

// === impl Disk ===

impl Disk {
    /// Whether `digest` is stored, durably.
    pub(crate) fn has(&self, digest: &Digest) -> Result<bool> {
        let path = self.layout.blob(digest);
        match fs::symlink_metadata(&path) {
            Ok(_) => {
                self.blobs
                    .settle(digest)
                    .map_err(|error| failed("sync the name of", &path, &error))?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("look for", &path, &error)),
        }
    }
}

// === impl Ingest ===

impl Ingest {
    /// Opens the ingest that `held` gives the right to, going on with what is there.
    pub(crate) fn open(disk: Arc<Disk>, held: Held, name: &str, options: &WriterOptions) -> Result<Self> {
        if let Some(expected) = &options.expected
            && disk.has(expected)?
        {
            return Err(exists(expected));
        }
        let directory = disk.layout.ingest(name);
        let active = held.active().clone();
        let found =
            layout::read_ingest(&directory).map_err(|error| failed("read the ingest in", &directory, &error))?;
        // An ingest of another length is another ingest: it begins anew.
        let resumable = found.filter(|found| {
            found.reference == options.reference
                && (options.total == 0 || found.total == 0 || options.total == found.total)
        });
        let mut status = active.status();
        status.total = options.total;
        let mut ingest = Self {
            disk,
            held: Some(held),
            active,
            stage: Stage::Memory(Vec::new()),
            hasher: Sha256::new(),
            offset: 0,
            directory,
        };
        if let Some(found) = resumable {
            ingest.resume()?;
            status = found;
            status.offset = ingest.offset;
            status.total = status.total.max(options.total);
        } else {
            let directory = &ingest.directory;
            layout::remove_ingest(directory).map_err(|error| failed("clear away", directory, &error))?;
        }
        status.expected.clone_from(&options.expected);
        ingest.active.set(status);
        Ok(ingest)
    }

    fn resume(&mut self) -> Result<()> {
        let path = layout::data(&self.directory);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| failed("open", &path, &error))?;
        let length = file.metadata().map_err(|error| failed("look at", &path, &error))?.len();
        self.hasher = hash(&mut file, length).map_err(|error| failed("read", &path, &error))?;
        self.offset = length;
        self.stage = Stage::File(file);
        Ok(())
    }

    /// How many bytes it has.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether it has no files yet.
    pub(crate) fn in_memory(&self) -> bool {
        matches!(self.stage, Stage::Memory(_))
    }

    /// The digest of its bytes.
    pub(crate) fn digest(&self) -> Digest {
        Digest::from_sha256(self.hasher.clone().finalize())
    }

    /// Appends without blocking, where the ingest is in memory and stays there. Says whether it did.
    pub(crate) fn append_in_memory(&mut self, bytes: &[u8]) -> bool {
        match &mut self.stage {
            Stage::Memory(buffer) if self.offset + bytes.len() as u64 <= IN_MEMORY => {
                buffer.extend_from_slice(bytes);
                self.hasher.update(bytes);
                self.offset += bytes.len() as u64;
                true
            }
            _ => false,
        }
    }

    /// Appends all of `pieces`, or none of the one that fails and what follows it.
    pub(crate) fn append(&mut self, pieces: &[Bytes]) -> Result<()> {
        for piece in pieces {
            if self.append_in_memory(piece) {
                continue;
            }
            self.spill()?;
            let Stage::File(file) = &mut self.stage else {
                return Err(self.active.gone());
            };
            if let Err(error) = file.write_all(piece) {
                // Part of the piece may be there: what is in the file must be what was hashed.
                let cut = file
                    .set_len(self.offset)
                    .and_then(|()| file.seek(SeekFrom::Start(self.offset)));
                if let Err(error) = cut {
                    tracing::warn!(directory = %self.directory.display(), %error, "a failed write could not be undone");
                }
                return Err(failed("write to the ingest in", &self.directory, &error));
            }
            self.hasher.update(piece);
            self.offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Cuts it at `size`, which is at most its length.
    pub(crate) fn truncate(&mut self, size: u64) -> Result<()> {
        match &mut self.stage {
            Stage::Memory(buffer) => {
                // At most IN_MEMORY, so that it fits.
                buffer.truncate(size as usize);
                self.hasher = Sha256::new_with_prefix(&buffer);
            }
            Stage::File(file) => {
                let cut = file.set_len(size).and_then(|()| hash(file, size));
                self.hasher = cut.map_err(|error| failed("truncate the ingest in", &self.directory, &error))?;
            }
            Stage::Over => return Err(self.active.gone()),
        }
        self.offset = size;
        Ok(())
    }

    /// Gives it its files, if it has none yet.
    pub(crate) fn spill(&mut self) -> Result<()> {
        let Stage::Memory(buffer) = &self.stage else {
            return Ok(());
        };
        let aborted = self.active.aborted();
        if *aborted {
            return Err(self.active.gone());
        }
        let make = || {
            layout::write_ingest(&self.directory, &self.active.status())?;
            let path = layout::data(&self.directory);
            let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
            file.write_all(buffer)?;
            Ok(file)
        };
        let made: io::Result<File> = make();
        drop(aborted);
        match made {
            Ok(file) => {
                self.stage = Stage::File(file);
                Ok(())
            }
            Err(error) => {
                // Half an ingest is none; what cannot be removed now is cleared away at the next start.
                let _ = layout::remove_ingest(&self.directory);
                Err(failed("make the ingest in", &self.directory, &error))
            }
        }
    }

    /// Makes it a blob, durably, and gives the right to write it back. After a failure the ingest is on disk and can be gone on with.
    pub(crate) fn commit(&mut self, options: &CommitOptions) -> Result<Digest> {
        let result = self.publish(options);
        match &result {
            Err(error) if !error.is_already_exists() => {
                if let Err(error) = self.spill() {
                    tracing::debug!(directory = %self.directory.display(), %error, "an ingest was not kept");
                }
            }
            _ => {}
        }
        self.stage = Stage::Over;
        self.held = None;
        result
    }

    fn publish(&mut self, options: &CommitOptions) -> Result<Digest> {
        let reference = self.active.status().reference;
        if options.size != 0 && options.size != self.offset {
            return Err(Error::failed_precondition(format!(
                "commit {reference:?}: unexpected commit size {}, expected {}",
                self.offset, options.size
            )));
        }
        let digest = self.digest();
        if let Some(expected) = &options.expected
            && *expected != digest
        {
            return Err(Error::failed_precondition(format!(
                "commit {reference:?}: unexpected commit digest {digest}, expected {expected}"
            )));
        }
        let target = self.disk.layout.blob(&digest);
        if self.disk.has(&digest)? {
            self.clear();
            return Err(exists(&digest));
        }
        self.disk.blobs.announce(&digest);
        let named = self.name(&target);
        // Also for a blob that another writer has just named: it is there durably, or we do not say so.
        let settled = self.disk.blobs.conclude(&digest);
        let named = named?;
        settled.map_err(|error| failed("sync the name of", &target, &error))?;
        self.clear();
        match named {
            Named::Existed => Err(exists(&digest)),
            _ => Ok(digest),
        }
    }

    fn name(&mut self, target: &Path) -> Result<Named> {
        match self.name_unnamed(target)? {
            Named::Unsupported => {
                self.spill()?;
                self.name_file(target)
            }
            named => Ok(named),
        }
    }

    /// Bytes in memory become a blob without ever having another name.
    fn name_unnamed(&self, target: &Path) -> Result<Named> {
        let Stage::Memory(buffer) = &self.stage else {
            return Ok(Named::Unsupported);
        };
        let write = || {
            let directory = self.disk.layout.blobs("sha256");
            let mut file = OpenOptions::new()
                .write(true)
                .mode(BLOB_MODE)
                .custom_flags(OFlag::O_TMPFILE.bits())
                .open(directory)?;
            file.write_all(buffer)?;
            file.sync_data()?;
            Ok(file)
        };
        let written: io::Result<File> = write();
        let file = match written {
            Ok(file) => file,
            // EISDIR is how kernels and file systems without unnamed files answer.
            Err(error)
                if matches!(
                    error.raw_os_error().map(Errno::from_raw),
                    Some(Errno::EOPNOTSUPP | Errno::EISDIR)
                ) =>
            {
                return Ok(Named::Unsupported);
            }
            Err(error) => return Err(failed("write the blob", target, &error)),
        };
        let aborted = self.active.aborted();
        if *aborted {
            return Err(self.active.gone());
        }
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        match nix::unistd::linkat(AT_FDCWD, source.as_str(), AT_FDCWD, target, AtFlags::AT_SYMLINK_FOLLOW) {
            Ok(()) => Ok(Named::New),
            Err(Errno::EEXIST) => Ok(Named::Existed),
            // No /proc.
            Err(Errno::ENOENT) => Ok(Named::Unsupported),
            Err(errno) => Err(failed("name the blob", target, &errno.into())),
        }
    }

    fn name_file(&mut self, target: &Path) -> Result<Named> {
        let Stage::File(file) = &self.stage else {
            return Err(self.active.gone());
        };
        let sync = || {
            file.set_permissions(fs::Permissions::from_mode(BLOB_MODE))?;
            file.set_modified(SystemTime::now())?;
            file.sync_data()
        };
        sync().map_err(|error| failed("sync the ingest in", &self.directory, &error))?;
        let aborted = self.active.aborted();
        if *aborted {
            return Err(self.active.gone());
        }
        let source = layout::data(&self.directory);
        match renameat2(AT_FDCWD, &source, AT_FDCWD, target, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(Named::New),
            Err(Errno::EEXIST) => Ok(Named::Existed),
            // Not every file system knows the flag. Replacing a blob by the same bytes harms nobody.
            Err(Errno::EINVAL | Errno::ENOSYS) => match fs::rename(&source, target) {
                Ok(()) => Ok(Named::New),
                Err(error) => Err(failed("name the blob", target, &error)),
            },
            Err(errno) => Err(failed("name the blob", target, &errno.into())),
        }
    }

    fn clear(&self) {
        if self.in_memory() {
            return;
        }
        if let Err(error) = layout::remove_ingest(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), %error, "a finished ingest could not be removed");
        }
    }
}

/// Hashes the first `length` bytes, and stands behind them afterwards.
fn hash(file: &mut File, length: u64) -> io::Result<Sha256> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; REHASH.min(length as usize)];
    let mut rest = length;
    while rest > 0 {
        let wanted = buffer.len().min(rest as usize);
        file.read_exact(&mut buffer[..wanted])?;
        hasher.update(&buffer[..wanted]);
        rest -= wanted as u64;
    }
    Ok(hasher)
}

pub(crate) fn exists(digest: &Digest) -> Error {
    Error::already_exists(format!("content {digest} is stored already"))
}

/// What went wrong on disk. A file that is missing here is not an object a client asked for.
pub(crate) fn failed(doing: &str, path: &Path, error: &io::Error) -> Error {
    let mut failed = Error::io(format!("{doing} {}", path.display()), error);
    if error.kind() == io::ErrorKind::NotFound {
        failed.code = orlop_plugin::contract::Code::Internal;
    }
    failed
}
