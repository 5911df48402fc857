//! Where the snapshotter's root lies: on which file system, and on which device that is.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use orlop_plugin::{Error, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags, statfs, statx};

/// Every mount of this process, one a line.
const MOUNTS: &str = "/proc/self/mountinfo";
/// linux/magic.h.
const BTRFS: u64 = 0x9123_683e;
/// The names of what else a root is likely to be on, as a table of mounts shows them.
const OTHERS: [(u64, &str); 8] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlay"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x6969, "nfs"),
];

/// A file system.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// btrfs, on this device (or the first of its devices).
    Btrfs { device: PathBuf },
    /// Something else, called so.
    Other { kind: String },
}

/// What `root` is on. One system call when it is not btrfs: most machines never need more. Blocks.
pub(crate) fn of(root: &Path) -> Result<Place> {
    let doing = || format!("find out what file system {} is on", root.display());
    let status = statfs(root).map_err(|error| Error::io(doing(), &error.into()))?;
    let magic = status.f_type.cast_unsigned();
    if magic != BTRFS {
        let named = OTHERS.iter().find(|(number, _)| *number == magic);
        let kind = named.map_or_else(|| format!("type {magic:#x}"), |(_, name)| (*name).to_owned());
        return Ok(Place::Other { kind });
    }
    let found =
        statx(CWD, root, AtFlags::empty(), StatxFlags::MNT_ID).map_err(|error| Error::io(doing(), &error.into()))?;
    let mounts = std::fs::read(MOUNTS).map_err(|error| Error::io(format!("read {MOUNTS}"), &error))?;
    match device(&mounts, found.stx_mnt_id) {
        Some(device) => Ok(Place::Btrfs { device }),
        None => Err(Error::failed_precondition(format!(
            "{}: {MOUNTS} has no mount {}; is this kernel older than Linux 5.8?",
            doing(),
            found.stx_mnt_id
        ))),
    }
}

/// The device of mount `id` in a table like [`MOUNTS`] (proc_pid_mountinfo(5)).
fn device(mounts: &[u8], id: u64) -> Option<PathBuf> {
    let id = id.to_string();
    let line = mounts
        .split(|byte| *byte == b'\n')
        .find(|line| line.split(|byte| *byte == b' ').next() == Some(id.as_bytes()))?;
    // Optional fields end with a hyphen; then come the type and the source.
    let mut fields = line.split(|byte| *byte == b' ').skip_while(|field| *field != b"-");
    Some(PathBuf::from(OsString::from_vec(unescaped(fields.nth(2)?))))
}

/// The kernel writes what would break a line as `\` and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                bytes.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_the_number_of_its_mount() {
        let mounts = b"22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
            220 22 0:44 /data /srv rw,noatime shared:7 master:2 - btrfs /dev/mapper/big\\040disk rw\n\
            221 22 0:44 / /x rw - btrfs /dev/sdb rw\n";
        assert_eq!(device(mounts, 220), Some("/dev/mapper/big disk".into()));
        assert_eq!(device(mounts, 221), Some("/dev/sdb".into()));
        assert_eq!(device(mounts, 2), None);
    }

    #[test]
    fn no_btrfs_has_a_name() {
        let proc = of(Path::new("/proc")).expect("looked at");
        assert_eq!(
            proc,
            Place::Other {
                kind: "type 0x9fa0".to_owned()
            }
        );
    }
}
