//! A layer's tar into a directory (OCI image-spec, layer.md).

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use orlop_plugin::{Error, Result};
use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps};
use tar::{Archive, Entry, EntryType};

use crate::root::{self, Root, clean, invalid, path_in};
use crate::target::Target;

/// What stands before the name of something that the layer takes away.
pub(crate) const WHITEOUT: &str = ".wh.";
/// Says that a directory shows nothing of the layers below.
const OPAQUE: &str = ".wh..wh..opq";
/// Other names that aufs kept for itself.
const AUFS: &str = ".wh..wh.";
/// How overlayfs says that a directory is opaque.
const OVERLAY_OPAQUE: &str = "trusted.overlay.opaque";
/// Extended attributes in PAX headers.
const PAX_XATTR: &str = "SCHILY.xattr.";

/// Unpacks `layer` into `target`.
pub(crate) fn unpack(layer: &mut impl Read, target: &Target) -> Result<()> {
    let doing = |error: &io::Error| {
        let failed = Error::io(format!("unpack into {}", target.path().display()), error);
        // A bad archive stays one, whoever asks again.
        if error.kind() == io::ErrorKind::InvalidData {
            Error::invalid_argument(failed.message)
        } else {
            failed
        }
    };
    let lower = target.lower.as_deref();
    let root = Root::open(target.path(), lower.unwrap_or_default()).map_err(|error| doing(&error))?;
    let mut unpacking = Unpacking {
        root,
        overlay: lower.is_some(),
        unpacked: BTreeSet::new(),
        directories: Vec::new(),
    };
    let mut archive = Archive::new(layer);
    let mut all = || -> io::Result<()> {
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = entry.path()?.into_owned();
            unpacking
                .entry(&mut entry, &name)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", name.display())))?;
        }
        unpacking.finish()
    };
    all().map_err(|error| doing(&error))
}

struct Unpacking {
    root: Root,
    /// Whether whiteouts are overlayfs' own.
    overlay: bool,
    /// What this layer has put there, which its own opaque whiteouts do not take away. Only noted where they have to look.
    unpacked: BTreeSet<PathBuf>,
    /// Directories with their times, which are set last.
    directories: Vec<(PathBuf, Timestamps)>,
}

/// What PAX headers say beside the header itself.
#[derive(Default)]
struct Pax {
    uid: Option<u32>,
    gid: Option<u32>,
    accessed: Option<Timespec>,
    modified: Option<Timespec>,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

// === impl Pax ===

impl Pax {
    fn of(entry: &mut Entry<'_, impl Read>) -> io::Result<Self> {
        let mut pax = Self::default();
        let Some(extensions) = entry.pax_extensions()? else {
            return Ok(pax);
        };
        for extension in extensions {
            let extension = extension?;
            let (Ok(key), value) = (extension.key(), extension.value_bytes()) else {
                continue;
            };
            let text = std::str::from_utf8(value).unwrap_or_default();
            match key {
                "uid" => pax.uid = text.parse().ok(),
                "gid" => pax.gid = text.parse().ok(),
                "atime" => pax.accessed = time(text),
                "mtime" => pax.modified = time(text),
                key => {
                    if let Some(name) = key.strip_prefix(PAX_XATTR) {
                        pax.xattrs.push((name.into(), value.to_vec()));
                    }
                }
            }
        }
        Ok(pax)
    }
}

/// A number of a header; an empty field is none, as other readers of archives have it.
fn number(field: &[u8], read: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        Ok(0)
    } else {
        read
    }
}

/// Seconds with a fraction.
fn time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(Timespec {
        tv_sec: seconds.parse().ok()?,
        tv_nsec: digits.parse().ok()?,
    })
}

// === impl Unpacking ===

impl Unpacking {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>, name: &Path) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = clean(name)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return self.attributes_of_root(entry);
        };
        let above = path.parent().unwrap_or(Path::new("")).to_owned();
        if name.as_bytes().starts_with(WHITEOUT.as_bytes()) {
            return self.whiteout(&above, &name);
        }
        self.clear(&above, &name, kind == EntryType::Directory)?;
        self.make(entry, kind, &above, &name)?;
        if kind != EntryType::Link {
            self.attributes(entry, kind, &path, &above, &name)?;
        }
        if !self.overlay {
            self.unpacked.insert(path);
        }
        Ok(())
    }

    /// Takes away what is in the way; a directory stays for a directory.
    fn clear(&mut self, above: &Path, name: &OsStr, directory: bool) -> io::Result<()> {
        let parent = self.root.parent(above)?;
        let there = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            there => FileType::from_raw_mode(there?.st_mode),
        };
        if there == FileType::Directory && directory {
            return Ok(());
        }
        remove(parent, name, there)?;
        if there == FileType::Directory {
            self.root.forget();
        }
        Ok(())
    }

    fn make(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        kind: EntryType,
        above: &Path,
        name: &OsStr,
    ) -> io::Result<()> {
        let mode = Mode::from_raw_mode(entry.header().mode()? & 0o7777);
        let device = |entry: &Entry<'_, _>| -> io::Result<u64> {
            let (major, minor) = (entry.header().device_major()?, entry.header().device_minor()?);
            Ok(rustix::fs::makedev(
                major.unwrap_or_default(),
                minor.unwrap_or_default(),
            ))
        };
        let link = entry.link_name()?.map(std::borrow::Cow::into_owned);
        let linked = || link.ok_or_else(|| invalid("a link leads nowhere".to_owned()));
        match kind {
            EntryType::Directory => {
                match rustix::fs::mkdirat(self.root.parent(above)?, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            EntryType::Symlink => rustix::fs::symlinkat(linked()?, self.root.parent(above)?, name)?,
            EntryType::Link => {
                let target = clean(&linked()?)?;
                let target_name = target
                    .file_name()
                    .ok_or_else(|| invalid("a hard link to the layer's root".to_owned()))?;
                let from = self.root.lookup(target.parent().unwrap_or(Path::new("")))?;
                let parent = self.root.parent(above)?;
                rustix::fs::linkat(from, target_name, parent, name, AtFlags::empty())?;
            }
            EntryType::Char => {
                let device = device(entry)?;
                rustix::fs::mknodat(self.root.parent(above)?, name, FileType::CharacterDevice, mode, device)?;
            }
            EntryType::Block => {
                let device = device(entry)?;
                rustix::fs::mknodat(self.root.parent(above)?, name, FileType::BlockDevice, mode, device)?;
            }
            EntryType::Fifo => rustix::fs::mknodat(self.root.parent(above)?, name, FileType::Fifo, mode, 0)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut file = root::create(self.root.parent(above)?, name)?;
                io::copy(entry, &mut file)?;
            }
            other => {
                return Err(invalid(format!(
                    "an entry of the unknown type {:?}",
                    other.as_byte() as char
                )));
            }
        }
        Ok(())
    }

    fn attributes(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        kind: EntryType,
        path: &Path,
        above: &Path,
        name: &OsStr,
    ) -> io::Result<()> {
        let pax = Pax::of(entry)?;
        let header = entry.header();
        let id = |id: u64, of: &str| u32::try_from(id).map_err(|_| invalid(format!("its {of} {id} is none")));
        let uid = pax
            .uid
            .map_or_else(|| id(number(&header.as_old().uid, header.uid())?, "uid"), Ok)?;
        let gid = pax
            .gid
            .map_or_else(|| id(number(&header.as_old().gid, header.gid())?, "gid"), Ok)?;
        let mode = header.mode()? & 0o7777;
        let modified = pax.modified.unwrap_or(Timespec {
            tv_sec: number(&header.as_old().mtime, header.mtime())?.cast_signed(),
            tv_nsec: 0,
        });
        let times = Timestamps {
            last_access: pax.accessed.unwrap_or(modified),
            last_modification: modified,
        };
        let parent = self.root.parent(above)?;
        // The owner first: changing it clears setuid.
        let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(parent, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
        for (key, value) in &pax.xattrs {
            set_xattr(&path_in(parent, name), key, value)?;
        }
        if kind != EntryType::Symlink {
            // What stands here was made a moment ago and is no link.
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        if kind == EntryType::Directory {
            self.directories.push((path.to_owned(), times));
        } else {
            rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn attributes_of_root(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let header = entry.header();
        if header.entry_type() != EntryType::Directory {
            return Err(invalid("the layer's root is no directory".to_owned()));
        }
        let mode = header.mode()? & 0o7777;
        let old = header.as_old();
        let (uid, gid) = (number(&old.uid, header.uid())?, number(&old.gid, header.gid())?);
        let here = path_in(self.root.directory(), OsStr::new("."));
        std::os::unix::fs::chown(&here, u32::try_from(uid).ok(), u32::try_from(gid).ok())?;
        std::fs::set_permissions(&here, std::os::unix::fs::PermissionsExt::from_mode(mode))
    }

    fn whiteout(&mut self, above: &Path, name: &OsStr) -> io::Result<()> {
        if name == OPAQUE {
            return self.opaque(above);
        }
        if name.as_bytes().starts_with(AUFS.as_bytes()) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(&name.as_bytes()[WHITEOUT.len()..]).to_owned();
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(invalid("a whiteout of nothing".to_owned()));
        }
        self.clear(above, &hidden, false)?;
        if self.overlay {
            rustix::fs::mknodat(
                self.root.parent(above)?,
                &hidden,
                FileType::CharacterDevice,
                Mode::empty(),
                0,
            )?;
        }
        Ok(())
    }

    fn opaque(&mut self, above: &Path) -> io::Result<()> {
        let here = path_in(self.root.parent(above)?, OsStr::new("."));
        if self.overlay {
            return xattr::set(here, OVERLAY_OPAQUE, b"y");
        }
        for entry in std::fs::read_dir(here)? {
            let name = entry?.file_name();
            let path = above.join(&name);
            let of_this_layer = self
                .unpacked
                .range(path.clone()..)
                .next()
                .is_some_and(|unpacked| unpacked.starts_with(&path));
            if !of_this_layer {
                self.clear(above, &name, false)?;
            }
        }
        Ok(())
    }

    /// Times of directories, the deepest first: whatever was made in one has changed its own.
    fn finish(&mut self) -> io::Result<()> {
        for (path, times) in std::mem::take(&mut self.directories).into_iter().rev() {
            // A later entry may have replaced it.
            if let Ok(directory) = self.root.lookup(&path) {
                rustix::fs::utimensat(directory.as_fd(), c".", &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        Ok(())
    }
}

fn remove(parent: BorrowedFd<'_>, name: &OsStr, kind: FileType) -> io::Result<()> {
    if kind == FileType::Directory {
        std::fs::remove_dir_all(path_in(parent, name))
    } else {
        Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?)
    }
}

/// Attributes that the file system has no place for are left out, as containerd does: images carry those of the machine they were made on.
fn set_xattr(path: &Path, key: &OsStr, value: &[u8]) -> io::Result<()> {
    match xattr::set(path, key, value) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOTSUP) => {
            tracing::debug!(key = %key.display(), "the file system takes no such extended attribute");
            Ok(())
        }
        result => result,
    }
}
