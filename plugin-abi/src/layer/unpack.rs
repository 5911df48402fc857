//! Puts entries down under a root, one after the other, by the rules of image-spec's layer.md.
//!
//! A whiteout hides what lower layers have, never what its own layer has, in whatever order the archive says them: so what was put
//! down is remembered, as 64-bit hashes of (canonical directory, name).

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timestamps, Uid, chownat, ftruncate, futimens, linkat, makedev, mkdirat,
    mknodat, openat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::apply::{ApplyOptions, Whiteouts};
use super::remove::{DIRECTORY, names, remove_tree};
use super::root::{Directory, Missing, Root};
use super::tar::{Archive, Entry, EntryKind};
use super::whiteout::{self, Marker, join};
use super::{MAX_DEPTH, PATH_MAX, invalid, metadata, shown};

/// A layer being put down.
pub(super) struct Unpacker<'a> {
    root: Root,
    options: &'a ApplyOptions,
    /// Devices cannot be made in a user namespace: such entries are left out, as containerd leaves them out.
    without_devices: bool,
    /// What this layer put down, and the directories above.
    ours: HashSet<u64>,
    hasher: RandomState,
    /// The directory whose ancestors `ours` knows already.
    remembered: Option<Vec<u8>>,
    /// Directories get their times last: every file put into one changes them.
    times: Vec<(Vec<u8>, Timestamps)>,
}

// === impl Unpacker ===

impl<'a> Unpacker<'a> {
    pub(super) fn new(root: Root, options: &'a ApplyOptions, without_devices: bool) -> Self {
        Self {
            root,
            options,
            without_devices,
            ours: HashSet::new(),
            hasher: RandomState::new(),
            remembered: None,
            times: Vec::new(),
        }
    }

    /// Puts `entry`, the current one of `archive`, down.
    pub(super) fn entry<R: BufRead>(&mut self, archive: &mut Archive<R>, entry: &Entry) -> io::Result<()> {
        let path = whiteout::clean(&entry.path);
        // The root is the snapshotter's.
        if path.is_empty() {
            return Ok(());
        }
        if path.len() >= PATH_MAX {
            return Err(invalid(format!(
                "its path has {} bytes; the kernel takes at most {}",
                path.len(),
                PATH_MAX - 1
            )));
        }
        let device = matches!(entry.kind, EntryKind::BlockDevice | EntryKind::CharDevice);
        if device && self.without_devices {
            tracing::warn!(
                path = shown(&path),
                "a device cannot be made in a user namespace: left out"
            );
            return Ok(());
        }
        let (directory, name) = whiteout::split(&path);
        let directory = self.root.directory(directory, Missing::Make)?;
        match whiteout::marker(name)? {
            Marker::Opaque => self.opaque(&directory),
            Marker::Gone(name) => self.gone(&directory, name, entry),
            Marker::None => {
                self.remember(&directory, name);
                self.create(archive, &directory, name, entry)
            }
        }
    }

    /// Gives directories their times and hands the root back.
    pub(super) fn finish(mut self) -> io::Result<Root> {
        let copied_up = self.root.take_copied_up();
        for (path, times) in copied_up.iter().chain(&self.times) {
            match self.root.plain(path) {
                Ok(directory) => futimens(&directory.fd, times)?,
                // The layer itself put something else there later.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.root)
    }

    fn create<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        directory: &Rc<Directory>,
        name: &[u8],
        entry: &Entry,
    ) -> io::Result<()> {
        let fd = &directory.fd;
        let mode = Mode::from_raw_mode(entry.mode);
        match entry.kind {
            EntryKind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                // Nobody else may look in before owner and mode are right.
                let owner_only = Mode::from_raw_mode(0o600);
                let file = self.in_place_of(fd, name, || openat(fd, name, flags, owner_only))?;
                write_file(archive, entry, &file)?;
                return metadata::apply_to_file(&file, entry, self.options.same_owner);
            }
            EntryKind::Directory => {
                self.make_directory(fd, name)?;
                self.times.push((join(&directory.path, name), metadata::times(entry)));
            }
            EntryKind::HardLink => self.hard_link(directory, name, entry)?,
            EntryKind::Symlink => self.in_place_of(fd, name, || symlinkat(&entry.link[..], fd, name))?,
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                let kind = match entry.kind {
                    EntryKind::CharDevice => FileType::CharacterDevice,
                    EntryKind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = makedev(entry.device.0, entry.device.1);
                self.in_place_of(fd, name, || mknodat(fd, name, kind, mode, device))?;
            }
        }
        metadata::apply_at(fd, name, entry, self.options.same_owner)
    }

    /// Makes something, in place of whatever is there.
    fn in_place_of<T>(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                self.remove(directory, name)?;
                make()
            }
            result => result,
        }
    }

    fn remove(&mut self, directory: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
        self.root.forget();
        remove_tree(directory, name)
    }

    /// A directory stays what it is; anything else gives way to one.
    fn make_directory(&mut self, directory: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
        let make = || mkdirat(directory, name, Mode::RWXU);
        match make() {
            Err(Errno::EXIST) => {}
            result => return result,
        }
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(());
        }
        self.remove(directory, name)?;
        make()?;
        // What was in its place hid the lower layers' directory of this name, and so must the new one.
        self.root
            .make_opaque(&openat(directory, name, DIRECTORY, Mode::empty())?)
    }

    fn hard_link(&mut self, directory: &Rc<Directory>, name: &[u8], entry: &Entry) -> io::Result<()> {
        let describe = |why: &str| invalid(format!("it is a hard link to {:?}, {why}", shown(&entry.link)));
        let link = entry.link.strip_suffix(b"/").unwrap_or(&entry.link);
        let (parent, target) = whiteout::split(link);
        if matches!(target, b"" | b"." | b"..") {
            return Err(describe("which names no file"));
        }
        let parent = match self
            .root
            .directory(parent.strip_prefix(b"/").unwrap_or(parent), Missing::Fail)
        {
            Ok(parent) => parent,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(describe("which is not there"));
            }
            Err(error) => return Err(error),
        };
        if parent.path == directory.path && target == name {
            return Err(describe("which is itself"));
        }
        let make = || linkat(&parent.fd, target, &directory.fd, name, AtFlags::empty());
        match self.in_place_of(&directory.fd, name, make) {
            Err(Errno::NOENT) => Err(describe("which is not there")),
            Err(Errno::PERM) => Err(describe("which cannot have another name")),
            result => Ok(result?),
        }
    }

    /// `name` of lower layers is gone; what this layer put down there stays.
    fn gone(&mut self, directory: &Rc<Directory>, name: &[u8], entry: &Entry) -> io::Result<()> {
        let fd = &directory.fd;
        if self.is_ours(&directory.path, name) {
            if let Ok(kept) = openat(fd, name, DIRECTORY, Mode::empty()) {
                self.root.make_opaque(&kept)?;
                self.clear(&kept, &join(&directory.path, name), 0)?;
            }
            return Ok(());
        }
        if self.options.whiteouts == Whiteouts::Remove {
            return Ok(self.remove(fd, name)?);
        }
        self.in_place_of(fd, name, || {
            mknodat(fd, name, FileType::CharacterDevice, Mode::empty(), 0)
        })?;
        if self.options.same_owner {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            chownat(fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Lower layers have nothing in `directory`; what this layer put down there stays.
    fn opaque(&mut self, directory: &Rc<Directory>) -> io::Result<()> {
        self.root.make_opaque(&directory.fd)?;
        self.clear(&directory.fd, &directory.path, 0)
    }

    /// Removes everything in `directory` that this layer did not put there.
    fn clear(&mut self, directory: &OwnedFd, path: &[u8], depth: usize) -> io::Result<()> {
        if depth == MAX_DEPTH {
            return Err(invalid(format!(
                "{} is more than {MAX_DEPTH} directories deep",
                shown(path)
            )));
        }
        for name in names(directory)? {
            if !self.is_ours(path, &name) {
                let overlay_whiteout = self.options.whiteouts != Whiteouts::Remove
                    && self
                        .root
                        .is_whiteout(&statat(directory, &name[..], AtFlags::SYMLINK_NOFOLLOW)?);
                if overlay_whiteout {
                    unlinkat(directory, &name[..], AtFlags::empty())?;
                } else {
                    self.remove(directory, &name)?;
                }
            } else if let Ok(kept) = openat(directory.as_fd(), &name[..], DIRECTORY, Mode::empty()) {
                self.clear(&kept, &join(path, &name), depth + 1)?;
            }
        }
        Ok(())
    }

    fn is_ours(&self, directory: &[u8], name: &[u8]) -> bool {
        self.ours.contains(&self.hasher.hash_one((directory, name)))
    }

    fn remember(&mut self, directory: &Directory, name: &[u8]) {
        self.ours.insert(self.hasher.hash_one((&directory.path[..], name)));
        if self.remembered.as_ref() == Some(&directory.path) {
            return;
        }
        let mut path = &directory.path[..];
        while !path.is_empty() {
            let (above, name) = whiteout::split(path);
            // What is known has its ancestors known.
            if !self.ours.insert(self.hasher.hash_one((above, name))) {
                break;
            }
            path = above;
        }
        self.remembered = Some(directory.path.clone());
    }
}

fn write_file<R: BufRead>(archive: &mut Archive<R>, entry: &Entry, file: &OwnedFd) -> io::Result<()> {
    if entry.sparse.is_some() {
        ftruncate(file, entry.size)?;
    }
    archive.copy_data(entry, |mut offset, mut data| {
        while !data.is_empty() {
            let n = rustix::io::retry_on_intr(|| match entry.sparse {
                Some(_) => rustix::io::pwrite(file, data, offset),
                None => rustix::io::write(file, data),
            })?;
            data = &data[n..];
            offset += n as u64;
        }
        Ok(())
    })
}
