//! Device nodes of the host, as a specification lists them.

use super::model::{Device, DeviceRule};
use anyhow::{Context, Result, bail};
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Directories of `/dev` that are file systems of their own or belong to another container engine.
const PASSED_OVER: &[&str] = &["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];

/// The device at `path`, or all devices under it when it is a directory.
pub fn devices(path: &Path) -> Result<Vec<Device>> {
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot look at device {}", path.display()))?;
    if metadata.is_dir() {
        let mut found = Vec::new();
        walk(path, &mut found)?;
        return Ok(found);
    }
    let own = std::fs::symlink_metadata(path).with_context(|| format!("cannot look at device {}", path.display()))?;
    match device(path, &own) {
        Some(device) => Ok(vec![device]),
        None => bail!("{}: not a device node", path.display()),
    }
}

fn walk(directory: &Path, found: &mut Vec<Device>) -> Result<()> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot list devices in {}", directory.display()))?;
    let mut entries = entries.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let metadata = match std::fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // Nodes come and go while the directory is read.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot look at device {}", path.display())),
        };
        let name = entry.file_name();
        if metadata.is_dir() {
            if !PASSED_OVER.iter().any(|passed| name == *passed) {
                walk(&path, found)?;
            }
        } else if name != "console" {
            found.extend(device(&path, &metadata).filter(|device| device.kind != "p"));
        }
    }
    Ok(())
}

fn device(path: &Path, metadata: &Metadata) -> Option<Device> {
    let kind = metadata.file_type();
    let kind = if kind.is_block_device() {
        "b"
    } else if kind.is_char_device() {
        "c"
    } else if kind.is_fifo() {
        "p"
    } else {
        return None;
    };
    let number = metadata.rdev();
    Some(Device {
        path: path.to_string_lossy().into_owned(),
        kind: kind.to_owned(),
        major: i64::from(nix::libc::major(number)),
        minor: i64::from(nix::libc::minor(number)),
        file_mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

impl Device {
    /// The rule that lets a container read, write and make this device.
    pub fn rule(&self) -> DeviceRule {
        DeviceRule {
            allow: true,
            kind: self.kind.clone(),
            major: Some(self.major),
            minor: Some(self.minor),
            access: "rwm".to_owned(),
        }
    }
}
