//! Copying a tree with all that the kernel lets one keep: owners, modes, times, extended attributes, hard links, devices.

use std::collections::HashMap;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;

/// Copies what is in the directory `from`, and its own attributes, into the directory `to`, which is there.
pub(crate) fn tree(from: &Path, to: &Path) -> io::Result<()> {
    Copy { linked: HashMap::new() }.directory(from, to, &fs::symlink_metadata(from)?)
}

struct Copy {
    /// The first copies of files with several names, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
}

// === impl Copy ===

impl Copy {
    fn directory(&mut self, from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            self.entry(&entry.path(), &to.join(entry.file_name()))?;
        }
        // Last: what was made inside has changed its times.
        attributes(from, to, metadata)
    }

    fn entry(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let metadata = fs::symlink_metadata(from)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            fs::create_dir(to)?;
            return self.directory(from, to, &metadata);
        }
        if metadata.nlink() > 1 {
            let identity = (metadata.dev(), metadata.ino());
            if let Some(first) = self.linked.get(&identity) {
                return fs::hard_link(first, to);
            }
            self.linked.insert(identity, to.to_owned());
        }
        if kind.is_file() {
            // Clones where the file system can, and copies in the kernel where it cannot.
            io::copy(&mut File::open(from)?, &mut File::create_new(to)?)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(from)?, to)?;
        } else {
            let special = [
                (kind.is_fifo(), SFlag::S_IFIFO),
                (kind.is_char_device(), SFlag::S_IFCHR),
                (kind.is_block_device(), SFlag::S_IFBLK),
                (kind.is_socket(), SFlag::S_IFSOCK),
            ];
            let flag = special.iter().find_map(|(is, flag)| is.then_some(*flag));
            let flag = flag.ok_or_else(|| io::Error::other(format!("{} is of no known kind", from.display())))?;
            mknod(
                to,
                flag,
                Mode::from_bits_truncate(metadata.mode() & 0o7777),
                metadata.rdev(),
            )?;
        }
        attributes(from, to, &metadata)
    }
}

/// Owner before mode, because a change of owner clears setuid; times last.
fn attributes(from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
    lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    if !metadata.file_type().is_symlink() {
        fs::set_permissions(to, Permissions::from_mode(metadata.mode() & 0o7777))?;
    }
    for name in xattr::list(from)? {
        if let Some(value) = xattr::get(from, &name)? {
            xattr::set(to, &name, &value)?;
        }
    }
    let time = |seconds: i64, nanoseconds: i64| TimeSpec::new(seconds, nanoseconds);
    utimensat(
        nix::fcntl::AT_FDCWD,
        to,
        &time(metadata.atime(), metadata.atime_nsec()),
        &time(metadata.mtime(), metadata.mtime_nsec()),
        UtimensatFlags::NoFollowSymlink,
    )?;
    Ok(())
}
