//! A directory that nothing below it leads out of: every path of an archive is looked up by `openat2(RESOLVE_IN_ROOT)`, so that links of the
//! archive, absolute ones too, mean places inside (CVE-2021-32760 and its kin).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};

/// Longer paths than these are no accident.
const MAX_DEPTH: usize = 1024;

/// The directory.
pub(crate) struct Root {
    directory: OwnedFd,
    /// What an upper directory lies on: directories that an archive takes for granted get their attributes from here.
    lower: Vec<PathBuf>,
    /// The parent that was used last, because archives come directory by directory.
    last: Option<(PathBuf, OwnedFd)>,
}

/// A path of an archive, inside the root: no root, no `.`, no `..`.
pub(crate) fn clean(path: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for (depth, component) in path.components().enumerate() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(invalid(format!("path {} leads out of the layer", shown(path))));
            }
        }
        if depth > MAX_DEPTH {
            return Err(invalid(format!(
                "path {} is more than {MAX_DEPTH} directories deep",
                shown(path)
            )));
        }
    }
    Ok(clean)
}

/// An archive that must not be unpacked.
pub(crate) fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// The beginning of a path: a hostile one would fill the log.
fn shown(path: &Path) -> String {
    path.display().to_string().chars().take(256).collect()
}

/// The path of `name` in an open directory, for functions that want one.
pub(crate) fn path_in(directory: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
}

// === impl Root ===

impl Root {
    pub(crate) fn open(path: &Path, lower: &[PathBuf]) -> io::Result<Self> {
        let directory = rustix::fs::openat(
            CWD,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self {
            directory,
            lower: lower.to_vec(),
            last: None,
        })
    }

    /// The directory itself.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Opens the directory `path`, made with all above it when it is not there.
    pub(crate) fn parent(&mut self, path: &Path) -> io::Result<BorrowedFd<'_>> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let opened = match self.lookup(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(path)?,
                opened => opened?,
            };
            self.last = Some((path.to_owned(), opened));
        }
        match &self.last {
            Some((_, directory)) => Ok(directory.as_fd()),
            None => Ok(self.directory.as_fd()),
        }
    }

    /// Forgets the parent used last: something was removed.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }

    /// Opens the directory `path`.
    pub(crate) fn lookup(&self, path: &Path) -> io::Result<OwnedFd> {
        if path.as_os_str().is_empty() {
            return self.directory.try_clone();
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(
            &self.directory,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?)
    }

    /// Makes `path`, directory by directory. One that the layers below have is made like theirs.
    fn make(&self, path: &Path) -> io::Result<OwnedFd> {
        let (mut current, mut so_far) = (self.directory.try_clone()?, PathBuf::new());
        for name in path.components() {
            so_far.push(name);
            current = match self.lookup(&so_far) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let name: OsString = name.as_os_str().to_owned();
                    rustix::fs::mkdirat(&current, &name, Mode::from_raw_mode(0o755))?;
                    self.inherit(&current, &name, &so_far)?;
                    self.lookup(&so_far)?
                }
                opened => opened?,
            };
        }
        Ok(current)
    }

    fn inherit(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<()> {
        let below = self
            .lower
            .iter()
            .find_map(|lower| std::fs::symlink_metadata(lower.join(path)).ok());
        let Some(below) = below.filter(std::fs::Metadata::is_dir) else {
            return Ok(());
        };
        rustix::fs::chownat(
            parent,
            name,
            Some(rustix::fs::Uid::from_raw(below.uid())),
            Some(rustix::fs::Gid::from_raw(below.gid())),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        rustix::fs::chmodat(
            parent,
            name,
            Mode::from_raw_mode(below.mode() & 0o7777),
            AtFlags::empty(),
        )?;
        Ok(())
    }
}

/// A regular file that must be new.
pub(crate) fn create(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(
        directory,
        name,
        flags,
        Mode::from_raw_mode(0o600),
    )?))
}
