//! Who could have written a library: what is loaded can do all the daemon can, so only its owner and root may write it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Why the file must not be loaded, if there is a reason.
pub(super) fn check(path: &Path, file: &Metadata) -> Result<(), String> {
    let us = nix::unistd::geteuid().as_raw();
    if !file.is_file() {
        return Err("it is no regular file".to_owned());
    }
    if file.uid() != 0 && file.uid() != us {
        return Err(format!(
            "it belongs to user {}: only root's or the daemon's own are loaded",
            file.uid()
        ));
    }
    if file.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(format!(
            "it is writable by others (mode {:04o}): chmod go-w it",
            file.mode() & 0o7777
        ));
    }
    if let Some(directory) = path.parent().and_then(|parent| std::fs::metadata(parent).ok())
        && directory.mode() & WRITABLE_BY_OTHERS != 0
        && directory.mode() & STICKY == 0
    {
        return Err(format!(
            "its directory is writable by others (mode {:04o}): chmod go-w it",
            directory.mode() & 0o7777
        ));
    }
    Ok(())
}
