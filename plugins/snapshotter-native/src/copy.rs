//! Copying a tree with everything a container can see of it: owners, modes, times, extended attributes, hard links, devices, holes.
//!
//! Data is shared where the file system can (a reflink), and copied inside the kernel where it cannot.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use orlop_plugin::snapshots::copy_contents;
use orlop_plugin::{Error, Result};

/// Bits of a mode that say what may be done, not what it is.
const PERMISSIONS: u32 = 0o7777;

/// Copies what is in `from` into the empty directory `to`, and makes `to` itself look like `from`. Blocks.
///
/// `from` must not change meanwhile: it is a committed snapshot.
pub(crate) fn tree(from: &Path, to: &Path) -> Result<()> {
    // Files with several names: where the first was copied to.
    let mut linked: HashMap<(u64, u64), PathBuf> = HashMap::new();
    // Filling a directory changes its times, so directories are finished last, the deepest first.
    let mut directories = vec![(from.to_owned(), to.to_owned())];
    let mut next = 0;
    while next < directories.len() {
        let (from, to) = directories[next].clone();
        next += 1;
        for entry in std::fs::read_dir(&from).map_err(|error| failed(&from, &error))? {
            let from = entry.map_err(|error| failed(&from, &error))?.path();
            // A path that was listed has a name.
            let to = to.join(from.file_name().unwrap_or_default());
            let metadata = from.symlink_metadata().map_err(|error| failed(&from, &error))?;
            if metadata.is_dir() {
                std::fs::create_dir(&to).map_err(|error| failed(&from, &error))?;
                directories.push((from, to));
            } else {
                entry_of(&from, &to, &metadata, &mut linked).map_err(|error| failed(&from, &error))?;
            }
        }
    }
    for (from, to) in directories.iter().rev() {
        let finish = || attributes(from, to, &from.symlink_metadata()?);
        finish().map_err(|error| failed(from, &error))?;
    }
    Ok(())
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::io(format!("copy {}", path.display()), error)
}

/// Copies what is no directory.
fn entry_of(from: &Path, to: &Path, metadata: &Metadata, linked: &mut HashMap<(u64, u64), PathBuf>) -> io::Result<()> {
    if metadata.nlink() > 1 {
        if let Some(first) = linked.get(&(metadata.dev(), metadata.ino())) {
            return std::fs::hard_link(first, to);
        }
        linked.insert((metadata.dev(), metadata.ino()), to.to_owned());
    }
    if metadata.is_file() {
        file(from, to)?;
    } else if metadata.is_symlink() {
        symlink(std::fs::read_link(from)?, to)?;
    } else {
        let kind = SFlag::from_bits_truncate(metadata.mode() & SFlag::S_IFMT.bits());
        mknod(to, kind, Mode::S_IRUSR | Mode::S_IWUSR, metadata.rdev())?;
    }
    attributes(from, to, metadata)
}

fn file(from: &Path, to: &Path) -> io::Result<()> {
    let from = File::open(from)?;
    let to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    copy_contents(&from, &to)
}

/// Owner first, because changing it takes setuid bits and file capabilities away; times last, because everything else changes them.
fn attributes(from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
    lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    if !metadata.is_symlink() {
        std::fs::set_permissions(to, Permissions::from_mode(metadata.mode() & PERMISSIONS))?;
    }
    extended_attributes(from, to)?;
    utimensat(
        nix::fcntl::AT_FDCWD,
        to,
        &TimeSpec::new(metadata.atime(), metadata.atime_nsec()),
        &TimeSpec::new(metadata.mtime(), metadata.mtime_nsec()),
        UtimensatFlags::NoFollowSymlink,
    )?;
    Ok(())
}

fn extended_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let names = match xattr::list(from) {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(Errno::ENOTSUP as i32) => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in names {
        let Some(value) = xattr::get(from, &name)? else {
            continue;
        };
        if let Err(error) = xattr::set(to, &name, &value) {
            // Security modules guard theirs (moby/buildkit#1189), and a user namespace may not set all: the rest is still a copy.
            let refused = [Errno::EPERM, Errno::EACCES, Errno::ENOTSUP].map(|errno| Some(errno as i32));
            if !refused.contains(&error.raw_os_error()) {
                return Err(error);
            }
            tracing::debug!(%error, name = %OsStr::display(&name), to = %to.display(), "an extended attribute was not copied");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileTypeExt;
    use std::time::{Duration, UNIX_EPOCH};

    fn copied(make: impl FnOnce(&Path)) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        std::fs::create_dir(&from).expect("made");
        std::fs::create_dir(&to).expect("made");
        make(&from);
        tree(&from, &to).expect("copied");
        root
    }

    #[test]
    fn a_copy_looks_like_what_it_is_a_copy_of() {
        let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let root = copied(|from| {
            std::fs::create_dir_all(from.join("d/e")).expect("made");
            std::fs::write(from.join("d/file"), "data").expect("written");
            std::fs::hard_link(from.join("d/file"), from.join("d/e/same")).expect("linked");
            lchown(from.join("d/file"), Some(12), Some(34)).expect("chown");
            std::fs::set_permissions(from.join("d/file"), Permissions::from_mode(0o4751)).expect("chmod");
            symlink("/nowhere", from.join("link")).expect("linked");
            lchown(from.join("link"), Some(5), Some(6)).expect("chown");
            mknod(
                &from.join("null"),
                SFlag::S_IFCHR,
                Mode::from_bits_truncate(0o666),
                nix::sys::stat::makedev(1, 3),
            )
            .expect("mknod");
            mknod(&from.join("fifo"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o622), 0).expect("mknod");
            xattr::set(from.join("d/file"), "trusted.test", b"value").expect("xattr");
            let directory = File::open(from.join("d")).expect("opened");
            directory.set_modified(long_ago).expect("times");
            std::fs::set_permissions(from, Permissions::from_mode(0o1750)).expect("chmod");
        });
        let to = root.path().join("to");
        let of = |path: &str| to.join(path).symlink_metadata().expect("there");
        assert_eq!(std::fs::read(to.join("d/file")).expect("read"), b"data");
        let file = of("d/file");
        assert_eq!((file.mode() & PERMISSIONS, file.uid(), file.gid()), (0o4751, 12, 34));
        assert_eq!(file.ino(), of("d/e/same").ino());
        assert_eq!(
            std::fs::read_link(to.join("link")).expect("read"),
            Path::new("/nowhere")
        );
        assert_eq!((of("link").uid(), of("link").gid()), (5, 6));
        assert_eq!(of("null").rdev(), nix::sys::stat::makedev(1, 3));
        assert!(of("fifo").file_type().is_fifo());
        assert_eq!(
            xattr::get(to.join("d/file"), "trusted.test").expect("read"),
            Some(b"value".to_vec())
        );
        assert_eq!(of("d").modified().expect("times"), long_ago);
        assert_eq!(of("").mode() & PERMISSIONS, 0o1750);
    }

    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::FileExt;
        let root = copied(|from| {
            let file = File::create(from.join("sparse")).expect("made");
            file.write_all_at(b"begin", 0).expect("written");
            file.write_all_at(b"middle", 8 << 20).expect("written");
            file.set_len(16 << 20).expect("grown");
        });
        let copy = std::fs::read(root.path().join("to/sparse")).expect("read");
        assert_eq!(copy, std::fs::read(root.path().join("from/sparse")).expect("read"));
        let blocks = root.path().join("to/sparse").metadata().expect("there").blocks();
        assert!(blocks * 512 < 1 << 20, "{blocks} blocks");
    }
}
