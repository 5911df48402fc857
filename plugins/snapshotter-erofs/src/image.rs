//! EROFS images: mounted, and guarded against accidents.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::MsFlags;
use orlop_plugin::contract::Mount;
use orlop_plugin::mount::mount_one;
use orlop_plugin::{Error, Result};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags, statfs};

/// linux/magic.h.
const EROFS: u64 = 0xe0f5_e1e2;

/// Whether an image is mounted at `point`.
pub(crate) fn is_mounted(point: &Path) -> bool {
    statfs(point).is_ok_and(|status| status.f_type.cast_unsigned() == EROFS)
}

/// How `image` is mounted by those who mount it themselves.
pub(crate) fn mount_of(image: &Path) -> Mount {
    Mount {
        kind: "erofs".to_owned(),
        source: image.display().to_string(),
        target: String::new(),
        options: vec!["ro".to_owned(), "loop".to_owned()],
    }
}

/// Mounts `image` at `point`: the file itself where the kernel can (Linux 6.12), else on a loop device. Blocks.
pub(crate) fn mount(image: &Path, point: &Path) -> Result<()> {
    match nix::mount::mount(Some(image), point, Some("erofs"), MsFlags::MS_RDONLY, None::<&str>) {
        Ok(()) => Ok(()),
        Err(Errno::ENOTBLK) => mount_one(&mount_of(image), point),
        Err(error) => Err(Error::io(
            format!("mount the EROFS image {} at {}", image.display(), point.display()),
            &error.into(),
        )),
    }
}

/// Makes a file one that nobody, root included, changes or removes; or an ordinary one again.
pub(crate) fn set_immutable(path: &Path, immutable: bool) -> io::Result<()> {
    let file = File::open(path)?;
    let mut flags = ioctl_getflags(&file)?;
    if flags.contains(IFlags::IMMUTABLE) == immutable {
        return Ok(());
    }
    flags.set(IFlags::IMMUTABLE, immutable);
    Ok(ioctl_setflags(&file, flags)?)
}
