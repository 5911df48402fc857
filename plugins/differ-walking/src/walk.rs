//! What differs between two trees, as a layer's tar: additions and changes as they are, removals as whiteouts, in the order of their names.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tar::{Builder, EntryType, Header};

use crate::unpack::WHITEOUT;

/// How much of two files is compared at a time.
const COMPARED: usize = 64 << 10;

/// Writes what leads from `lower` to `upper` into `out`. No time is later than `epoch`.
pub(crate) fn diff(lower: &Path, upper: &Path, epoch: Option<SystemTime>, out: &mut impl Write) -> io::Result<()> {
    let mut walk = Walk {
        lower: lower.to_owned(),
        upper: upper.to_owned(),
        epoch: epoch.and_then(|epoch| Some(epoch.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())),
        tar: Builder::new(out),
        written: BTreeSet::new(),
        linked: HashMap::new(),
    };
    walk.directory(Path::new(""), true)?;
    walk.tar.finish()
}

struct Walk<W: Write> {
    lower: PathBuf,
    upper: PathBuf,
    epoch: Option<u64>,
    tar: Builder<W>,
    /// Directories that are in the archive.
    written: BTreeSet<PathBuf>,
    /// Where a file with several names was written first.
    linked: HashMap<(u64, u64), PathBuf>,
}

fn names(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(BTreeSet::new())
        }
        Err(error) => Err(error),
    }
}

fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

// === impl Walk ===

impl<W: Write> Walk<W> {
    /// What differs in the directory `path` of `upper`; `compare` unless all of it is new.
    fn directory(&mut self, path: &Path, compare: bool) -> io::Result<()> {
        let new = names(&self.upper.join(path))?;
        let old = if compare {
            names(&self.lower.join(path))?
        } else {
            BTreeSet::new()
        };
        for name in old.union(&new) {
            let path = path.join(name);
            let upper = look(&self.upper.join(&path))?;
            let lower = if old.contains(name) {
                look(&self.lower.join(&path))?
            } else {
                None
            };
            match (lower, upper) {
                (Some(_), None) => self.whiteout(&path)?,
                (lower, Some(upper)) => {
                    let was_directory = lower.as_ref().is_some_and(Metadata::is_dir);
                    let changed = match &lower {
                        Some(lower) => !self.same(&path, lower, &upper)?,
                        None => true,
                    };
                    if changed {
                        self.add(&path, &upper)?;
                    }
                    if upper.is_dir() {
                        self.directory(&path, was_directory)?;
                    }
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    fn same(&self, path: &Path, lower: &Metadata, upper: &Metadata) -> io::Result<bool> {
        let fixed = |m: &Metadata| (m.mode(), m.uid(), m.gid(), m.rdev());
        if fixed(lower) != fixed(upper) || xattrs(&self.lower.join(path))? != xattrs(&self.upper.join(path))? {
            return Ok(false);
        }
        if upper.is_symlink() {
            return Ok(fs::read_link(self.lower.join(path))? == fs::read_link(self.upper.join(path))?);
        }
        if !upper.is_file() {
            return Ok(true);
        }
        if lower.len() != upper.len() {
            return Ok(false);
        }
        let times = |m: &Metadata| (m.mtime(), m.mtime_nsec());
        if times(lower) == times(upper) && upper.mtime_nsec() != 0 {
            return Ok(true);
        }
        // A time in whole seconds comes from an archive, and says nothing about a change within the second.
        if lower.mtime() != upper.mtime() {
            return Ok(false);
        }
        same_content(&self.lower.join(path), &self.upper.join(path))
    }

    /// Puts the directories above `path` into the archive, as they are.
    fn parents(&mut self, path: &Path) -> io::Result<()> {
        let above: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        for directory in above
            .into_iter()
            .rev()
            .filter(|directory| !directory.as_os_str().is_empty())
        {
            if !self.written.contains(&directory) {
                let metadata = fs::symlink_metadata(self.upper.join(&directory))?;
                self.write(&directory, &metadata)?;
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, path: &Path) -> io::Result<()> {
        self.parents(path)?;
        let mut name = OsString::from(WHITEOUT);
        name.push(path.file_name().unwrap_or_default());
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(0);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.epoch.unwrap_or_default());
        self.tar
            .append_data(&mut header, path.with_file_name(name), io::empty())
    }

    fn add(&mut self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        if metadata.file_type().is_socket() {
            return Ok(());
        }
        self.parents(path)?;
        self.write(path, metadata)
    }

    fn write(&mut self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        let from = self.upper.join(path);
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        // Whole seconds: what a builder's clock has beyond them would make each layer another.
        let seconds = u64::try_from(metadata.mtime()).unwrap_or_default();
        header.set_mtime(self.epoch.map_or(seconds, |epoch| seconds.min(epoch)));
        let identity = (metadata.dev(), metadata.ino());
        if !metadata.is_dir() && metadata.nlink() > 1 {
            if let Some(first) = self.linked.get(&identity) {
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                return self.tar.append_link(&mut header, path, first);
            }
            self.linked.insert(identity, path.to_owned());
        }
        let attributes = xattrs(&from)?;
        if !attributes.is_empty() {
            let keys: Vec<String> = attributes
                .iter()
                .map(|(key, _)| format!("SCHILY.xattr.{key}"))
                .collect();
            let pairs = keys
                .iter()
                .map(String::as_str)
                .zip(attributes.iter().map(|(_, value)| value.as_slice()));
            self.tar.append_pax_extensions(pairs)?;
        }
        let kind = metadata.file_type();
        if kind.is_symlink() {
            header.set_size(0);
            return self.tar.append_link(&mut header, path, fs::read_link(&from)?);
        }
        if kind.is_file() {
            return self.tar.append_data(&mut header, path, File::open(&from)?);
        }
        header.set_size(0);
        if kind.is_dir() {
            self.written.insert(path.to_owned());
        } else if kind.is_char_device() || kind.is_block_device() {
            header.set_device_major(rustix::fs::major(metadata.rdev()))?;
            header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
        }
        self.tar.append_data(&mut header, path, io::empty())
    }
}

/// The extended attributes that belong to an image: not overlayfs' own, nor the machine's labels.
fn xattrs(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOTSUP) => return Ok(found),
        Err(error) => return Err(error),
    };
    for name in names {
        let Some(key) = name.to_str() else { continue };
        let kept = key == "security.capability" || (key.starts_with("user.") && !key.starts_with("user.overlay."));
        if kept && let Some(value) = xattr::get(path, &name)? {
            found.push((key.to_owned(), value));
        }
    }
    found.sort();
    Ok(found)
}

fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; COMPARED], vec![0; COMPARED]);
    loop {
        let read = one.read(&mut left)?;
        if read == 0 {
            return Ok(other.read(&mut right[..1])? == 0);
        }
        match other.read_exact(&mut right[..read]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            result => result?,
        }
        if left[..read] != right[..read] {
            return Ok(false);
        }
    }
}
