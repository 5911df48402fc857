//! Discarding a block device's blocks.
#![expect(
    unsafe_code,
    reason = "a block device's blocks are discarded by an ioctl, which no crate of ours wraps"
)]

use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

// `_IO(0x12, 119)` of linux/fs.h: from where, and how many bytes.
nix::ioctl_write_ptr_bad!(blkdiscard, 0x1277, [u64; 2]);

/// Discards everything on `device`. `EBUSY` while it is mounted.
pub(crate) fn all(device: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        // Of a block device: not while somebody has it mounted.
        .custom_flags(nix::fcntl::OFlag::O_EXCL.bits())
        .open(device)?;
    let range = [0, file.seek(SeekFrom::End(0))?];
    // SAFETY: the request reads two 64-bit numbers, which `range` has and keeps for the call; the descriptor is open.
    unsafe { blkdiscard(file.as_raw_fd(), &raw const range) }?;
    Ok(())
}
