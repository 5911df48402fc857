//! File systems on images, for what must lie on one of a certain kind.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::temporary::Temporary;
use crate::contract::Mount;
use crate::mount::{Lazy, mount_one, unmount};
use crate::{Error, Result};

/// Where programs are that only root uses; not every path of a user has it.
const SYSTEM_PROGRAMS: &str = "/usr/sbin:/sbin";

/// A fresh file system on an image of its own, mounted. Unmounted and removed when it is dropped.
pub struct Disk {
    // In this order: the mount point lies beside the image.
    point: PathBuf,
    _place: Temporary,
}

/// Makes `path` an image of `bytes` bytes, sparse, with an empty file system made by `mkfs.KIND`. Blocks.
///
/// # Panics
/// When that program is not installed, or fails.
pub fn image(kind: &str, path: &Path, bytes: u64) {
    let made = std::fs::File::create(path).and_then(|file| file.set_len(bytes));
    made.unwrap_or_else(|error| panic!("make {}: {error}", path.display()));
    let program = format!("mkfs.{kind}");
    // What is there already, a file of zeros, needs force.
    let force = if kind == "ext4" { "-F" } else { "-f" };
    let output = Command::new(&program)
        .args(["-q", force])
        .arg(path)
        .env(
            "PATH",
            format!("{}:{SYSTEM_PROGRAMS}", std::env::var("PATH").unwrap_or_default()),
        )
        .output()
        .unwrap_or_else(|error| panic!("start {program}, which scripts/test installs: {error}"));
    assert!(
        output.status.success(),
        "{program} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

// === impl Disk ===

impl Disk {
    /// One made by `mkfs.KIND` on `bytes` bytes. Needs `CAP_SYS_ADMIN`. Blocks.
    ///
    /// # Panics
    /// As [`image`].
    pub fn new(kind: &str, bytes: u64) -> Result<Self> {
        let place = Temporary::new().map_err(|error| Error::io("make a temporary directory", &error))?;
        let (file, point) = (place.path().join("image"), place.path().join("mounted"));
        std::fs::create_dir(&point).map_err(|error| Error::io("make a mount point", &error))?;
        image(kind, &file, bytes);
        let mount = Mount {
            kind: kind.to_owned(),
            source: file.display().to_string(),
            target: String::new(),
            options: vec!["loop".to_owned()],
        };
        mount_one(&mount, &point)?;
        Ok(Self { point, _place: place })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.point
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.point, Lazy::WhenBusy) {
            tracing::error!(%error, "the file system of a test stays mounted");
        }
    }
}
