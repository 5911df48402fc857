//! The system calls of subvolumes (linux/btrfs.h).
#![expect(
    unsafe_code,
    reason = "btrfs is driven by ioctls; the crates there are bind a C library that machines do not have, or are not kept"
)]

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `BTRFS_SUBVOL_RDONLY`.
const READ_ONLY: u64 = 1 << 1;
/// `BTRFS_FIRST_FREE_OBJECTID`: the inode number of every subvolume's top directory.
pub(crate) const TOP_INODE: u64 = 256;
/// `BTRFS_VOL_NAME_MAX`.
const NAME_MAX: usize = 255;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct Volume {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct Volume2 {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct InodeLookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

const _: () = assert!(size_of::<Volume>() == 4096 && size_of::<Volume2>() == 4096 && size_of::<InodeLookup>() == 4096);

nix::ioctl_write_ptr!(subvol_create, 0x94, 14, Volume);
nix::ioctl_write_ptr!(snap_destroy, 0x94, 15, Volume);
nix::ioctl_readwrite!(ino_lookup, 0x94, 18, InodeLookup);
nix::ioctl_write_ptr!(snap_create_v2, 0x94, 23, Volume2);

/// Makes the empty subvolume `path`. It is durable afterwards.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    let (parent, name) = open_parent(path)?;
    let volume = Volume { fd: 0, name };
    // SAFETY: `volume` has the layout of `struct btrfs_ioctl_vol_args`, its name ends with NUL, and the call only reads it.
    unsafe { subvol_create(parent.as_raw_fd(), &raw const volume) }?;
    Ok(())
}

/// Makes `path` a snapshot of the subvolume `of`, with all that was written to it by now. It is durable afterwards.
pub(crate) fn snapshot(of: &Path, path: &Path, read_only: bool) -> io::Result<()> {
    let of = File::open(of)?;
    let (parent, name) = open_parent(path)?;
    let volume = Volume2 {
        fd: i64::from(of.as_raw_fd()),
        transaction: 0,
        flags: if read_only { READ_ONLY } else { 0 },
        unused: [0; 4],
        name,
    };
    // SAFETY: `volume` has the layout of `struct btrfs_ioctl_vol_args_v2`, its name ends with NUL, its descriptor is open, and the call only
    // reads it.
    unsafe { snap_create_v2(parent.as_raw_fd(), &raw const volume) }?;
    Ok(())
}

/// Removes the subvolume `path` with all files in it; the kernel frees their space in the background. Fails with `ENOTEMPTY` while another
/// subvolume stands in it.
pub(crate) fn destroy(path: &Path) -> io::Result<()> {
    let (parent, name) = open_parent(path)?;
    let volume = Volume { fd: 0, name };
    // SAFETY: `volume` has the layout of `struct btrfs_ioctl_vol_args`, its name ends with NUL, and the call only reads it.
    unsafe { snap_destroy(parent.as_raw_fd(), &raw const volume) }?;
    Ok(())
}

/// The number of the subvolume that `path` is in: what `subvolid=` takes.
pub(crate) fn id(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let mut lookup = InodeLookup {
        // The tree of the file that is asked about.
        tree: 0,
        object: TOP_INODE,
        name: [0; 4080],
    };
    // SAFETY: `lookup` has the layout of `struct btrfs_ioctl_ino_lookup_args`, which the call reads and writes, and outlives it.
    unsafe { ino_lookup(file.as_raw_fd(), &raw mut lookup) }?;
    Ok(lookup.tree)
}

/// The directory of `path`, opened, and its name, ended by NUL.
fn open_parent<const LENGTH: usize>(path: &Path) -> io::Result<(File, [u8; LENGTH])> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Ok((File::open(parent)?, ended(name)?))
}

fn ended<const LENGTH: usize>(name: &OsStr) -> io::Result<[u8; LENGTH]> {
    let name = name.as_bytes();
    if name.len() > NAME_MAX {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    let mut ended = [0; LENGTH];
    ended[..name.len()].copy_from_slice(name);
    Ok(ended)
}
