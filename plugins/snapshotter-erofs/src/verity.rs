//! fs-verity: a file that the kernel checks against its hash at every read, and that cannot be changed any more (linux/fsverity.h).
#![expect(
    unsafe_code,
    reason = "fs-verity is switched on by an ioctl, which no crate of ours wraps"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use orlop_plugin::{Error, Result};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

/// `FS_VERITY_HASH_ALG_SHA256`.
const SHA256: u32 = 1;
const BLOCK_BYTES: u32 = 4096;

/// `struct fsverity_enable_arg`.
#[repr(C)]
struct Enable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved1: u32,
    signature: u64,
    reserved2: [u64; 11],
}

const _: () = assert!(size_of::<Enable>() == 128);

nix::ioctl_write_ptr!(enable_verity, b'f', 133, Enable);

/// Seals `path`, which nobody may have open for writing. One that is sealed already is fine. Blocks while its hashes are computed.
pub(crate) fn enable(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let how = Enable {
        version: 1,
        hash_algorithm: SHA256,
        block_size: BLOCK_BYTES,
        salt_size: 0,
        salt: 0,
        signature_size: 0,
        reserved1: 0,
        signature: 0,
        reserved2: [0; 11],
    };
    // SAFETY: `how` has the layout of `struct fsverity_enable_arg`, its pointers are null with sizes of 0, and the call only reads it.
    match unsafe { enable_verity(file.as_raw_fd(), &raw const how) } {
        Ok(_) | Err(nix::Error::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Fails unless `path` is sealed.
pub(crate) fn check(path: &Path) -> Result<()> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::empty())
        .map_err(|error| Error::io(format!("look at {}", path.display()), &error.into()))?;
    if found.stx_attributes.contains(StatxAttributes::VERITY) {
        return Ok(());
    }
    Err(Error::data_loss(format!(
        "{} is not protected by fs-verity, and enable_fsverity asks for it: it was made without, or replaced; remove the snapshot and unpack it again",
        path.display()
    )))
}

/// Seals a file under `root` and removes it, to see whether that works there. Blocks.
pub(crate) fn try_in(root: &Path) -> Result<()> {
    let tried = root.join("fsverity");
    let made = std::fs::write(&tried, "x").map_err(|error| Error::io(format!("write {}", tried.display()), &error));
    let sealed = made.and_then(|()| {
        enable(&tried).map_err(|error| {
            Error::failed_precondition(format!(
                "fsverity is not supported on the filesystem of {:?}: {error}; ext4 and f2fs need the feature `verity`, and the kernel CONFIG_FS_VERITY",
                root.display().to_string()
            ))
        })
    });
    // Only a file of one byte would stay.
    let _ = std::fs::remove_file(&tried);
    sealed
}
