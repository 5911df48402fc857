//! The image that snapshots without a parent start from.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use orlop_plugin::snapshots::copy_contents;
use orlop_plugin::{Error, Result};

/// Makes `to` a durable copy of the image `from`, sharing its blocks where that is possible. `to` must not be there. Blocks.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = || -> io::Result<()> {
        let from = File::open(from)?;
        let to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        copy_contents(&from, &to)?;
        to.sync_all()
    };
    copied().map_err(|error| Error::io(format!("copy the image {} to {}", from.display(), to.display()), &error))
}

/// Makes `to` a copy of `from`, whole or not at all, in place of what was there. Blocks.
pub(crate) fn replace(from: &Path, to: &Path) -> Result<()> {
    let new = to.with_extension("new");
    let swapped = || -> io::Result<()> {
        std::fs::rename(&new, to)?;
        // Durable before a snapshot is made of it.
        to.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io(format!("remove {}", new.display()), &error));
        }
        // Nothing, or what a crash left.
        _ => {}
    }
    copy(from, &new).map_err(|error| error.context("scratch_file"))?;
    swapped().map_err(|error| Error::io(format!("put the scratch image at {}", to.display()), &error))
}
