//! The directory a layer is put down in: paths of the layer become descriptors of directories inside it, never outside.
//!
//! Most paths hold no symlink and exist: one `openat2` that refuses symlinks opens them, and the last one is kept, because an archive
//! names a directory's files one after the other. Everything else (a symlink in the middle, a directory that is missing) is walked
//! one component at a time; symlinks, absolute or not, stop at the root.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timestamps, XattrFlags, fchmod, fsetxattr, fstat, mkdirat,
    open, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;

use super::apply::{ApplyOptions, Whiteouts};
use super::remove::DIRECTORY;
use super::whiteout::join;
use super::{PATH_MAX, invalid, metadata, shown};
use crate::Error;

/// Symlinks followed in one path before it is taken for a loop: as many as containerd follows.
const MAX_LINKS: usize = 255;

/// Nothing but plain components below the start.
const PLAIN: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// An open directory inside the root.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) fd: OwnedFd,
    /// Where it is, relative to the root, every symlink resolved.
    pub(super) path: Vec<u8>,
}

/// What to do about directories that are missing on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Make,
    Fail,
}

/// The directory a layer is put down in.
pub(super) struct Root {
    root: Rc<Directory>,
    /// The last path that was asked for, as the archive spelt it.
    last: Option<(Vec<u8>, Rc<Directory>)>,
    whiteouts: Whiteouts,
    lowers: Vec<OwnedFd>,
    /// There are lower layers, and nobody knows them.
    alone: bool,
    /// Directories copied up from lower layers, with the times they shall have in the end.
    copied_up: Vec<(Vec<u8>, Timestamps)>,
}

/// What lower layers have at a path.
enum Lower {
    Nothing,
    Directory(OwnedFd),
    Symlink(Vec<u8>),
}

// === impl Root ===

impl Root {
    /// Opens the directory at `path`.
    pub(super) fn open(path: &Path, options: &ApplyOptions) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty())?;
        Ok(Self {
            root: Rc::new(Directory { fd, path: Vec::new() }),
            last: None,
            whiteouts: options.whiteouts,
            alone: options.alone,
            lowers: options
                .lowers
                .iter()
                .map(|lower| open(lower, flags, Mode::empty()))
                .collect::<Result<_, _>>()?,
            copied_up: Vec::new(),
        })
    }

    /// The root itself.
    pub(super) fn top(&self) -> &OwnedFd {
        &self.root.fd
    }

    /// Something was removed: a directory kept open may be gone.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// The directory at `path`.
    pub(super) fn directory(&mut self, path: &[u8], missing: Missing) -> io::Result<Rc<Directory>> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((last, directory)) = &self.last
            && last == path
        {
            return Ok(directory.clone());
        }
        if path.len() >= PATH_MAX {
            return Err(too_long(path));
        }
        let directory = match self.plain(path) {
            Ok(directory) => directory,
            Err(Errno::LOOP | Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::INVAL) => self.walk(path, missing)?,
            Err(error) => return Err(error.into()),
        };
        self.last = Some((path.to_vec(), directory.clone()));
        Ok(directory)
    }

    /// The directory at `path`, which holds no symlink and no `..`.
    pub(super) fn plain(&self, path: &[u8]) -> rustix::io::Result<Rc<Directory>> {
        // `..` never gets here resolved: BENEATH would let it through inside the root, and the path would not be canonical.
        if path
            .split(|&b| b == b'/')
            .any(|part| matches!(part, b"" | b"." | b".."))
        {
            return Err(Errno::INVAL);
        }
        let fd = openat2(&self.root.fd, path, DIRECTORY, Mode::empty(), PLAIN)?;
        Ok(Rc::new(Directory {
            fd,
            path: path.to_vec(),
        }))
    }

    /// Sets the overlay attribute by which `directory` hides what is below it.
    pub(super) fn make_opaque(&self, directory: &OwnedFd) -> rustix::io::Result<()> {
        match self.whiteouts {
            Whiteouts::Remove => Ok(()),
            Whiteouts::Overlay { userxattr } => {
                let name = if userxattr {
                    "user.overlay.opaque"
                } else {
                    "trusted.overlay.opaque"
                };
                fsetxattr(directory, name, b"y", XattrFlags::empty())
            }
        }
    }

    /// Directories copied up from lower layers, with the times they shall have in the end.
    pub(super) fn take_copied_up(&mut self) -> Vec<(Vec<u8>, Timestamps)> {
        std::mem::take(&mut self.copied_up)
    }

    /// One component after the other.
    fn walk(&mut self, path: &[u8], missing: Missing) -> io::Result<Rc<Directory>> {
        let mut here = self.root.clone();
        // What is still to go, the next component last.
        let mut ahead: Vec<Vec<u8>> = Vec::new();
        let push = |ahead: &mut Vec<Vec<u8>>, path: &[u8]| {
            ahead.extend(path.rsplit(|&b| b == b'/').map(<[u8]>::to_vec));
        };
        push(&mut ahead, path);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    let above = super::whiteout::split(&here.path).0.to_vec();
                    here = if above.is_empty() {
                        self.root.clone()
                    } else {
                        self.plain(&above)?
                    };
                    continue;
                }
                _ => {}
            }
            let at = join(&here.path, &name);
            if at.len() >= PATH_MAX {
                return Err(too_long(&at));
            }
            let target = match statat(&here.fd, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => None,
                    FileType::Symlink => Some(readlinkat(&here.fd, &name[..], Vec::new())?.into_bytes()),
                    // This layer hid the name, and now puts a directory of its own in its place.
                    _ if self.is_whiteout(&stat) && missing == Missing::Make => {
                        super::remove::remove_tree(&here.fd, &name)?;
                        let made = self.make_directory(&here, &name)?;
                        self.make_opaque(&made)?;
                        None
                    }
                    _ => return Err(not_a_directory(&at)),
                },
                Err(Errno::NOENT) => match self.below(&at)? {
                    Lower::Symlink(target) => Some(target),
                    _ if missing == Missing::Fail => return Err(io::ErrorKind::NotFound.into()),
                    Lower::Directory(lower) => {
                        let made = self.make_directory(&here, &name)?;
                        let times = metadata::copy_up(&lower, &made)?;
                        self.copied_up.push((at.clone(), times));
                        None
                    }
                    Lower::Nothing => {
                        self.make_directory(&here, &name)?;
                        None
                    }
                },
                Err(error) => return Err(error.into()),
            };
            if let Some(target) = target {
                links += 1;
                if links > MAX_LINKS {
                    return Err(invalid(format!("{} leads through a loop of symlinks", shown(path))));
                }
                if target.first() == Some(&b'/') {
                    here = self.root.clone();
                }
                push(&mut ahead, &target);
            } else {
                here = Rc::new(Directory {
                    fd: openat(&here.fd, &name[..], DIRECTORY, Mode::empty())?,
                    path: at,
                });
            }
        }
        Ok(here)
    }

    /// A directory that the archive names only on the way: root's, 0755, until the archive says more.
    fn make_directory(&self, parent: &Directory, name: &[u8]) -> io::Result<OwnedFd> {
        mkdirat(&parent.fd, name, Mode::from_raw_mode(0o755))?;
        let made = openat(&parent.fd, name, DIRECTORY, Mode::empty())?;
        // Whatever the umask is.
        fchmod(&made, Mode::from_raw_mode(0o755))?;
        Ok(made)
    }

    /// What the topmost lower layer that has anything at `path` has there. `FailedPrecondition` when the lower layers are not known.
    fn below(&self, path: &[u8]) -> io::Result<Lower> {
        if self.alone {
            return Err(io::Error::other(Error::failed_precondition(format!(
                "what {} is depends on the layers below, and this one is applied by itself",
                shown(path)
            ))));
        }
        for lower in &self.lowers {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = match openat2(lower, path, flags, Mode::empty(), PLAIN) {
                Ok(found) => found,
                Err(Errno::NOENT) => continue,
                // Something else stands in the way of the path, and hides all below.
                Err(Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(Lower::Nothing),
                Err(error) => return Err(error.into()),
            };
            let stat = fstat(&found)?;
            return Ok(match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Lower::Directory(openat(&found, ".", DIRECTORY, Mode::empty())?),
                FileType::Symlink => Lower::Symlink(readlinkat(&found, "", Vec::new())?.into_bytes()),
                _ => Lower::Nothing,
            });
        }
        Ok(Lower::Nothing)
    }

    /// Whether this is an overlay whiteout: a character device 0/0.
    pub(super) fn is_whiteout(&self, stat: &Stat) -> bool {
        self.whiteouts != Whiteouts::Remove
            && FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == 0
    }
}

fn too_long(path: &[u8]) -> io::Error {
    invalid(format!(
        "the path {}… has {} bytes; the kernel takes at most {}",
        shown(&path[..path.len().min(40)]),
        path.len(),
        PATH_MAX - 1
    ))
}

fn not_a_directory(path: &[u8]) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotADirectory,
        format!("{} is no directory, but the layer has files under it", shown(path)),
    )
}
