//! What a snapshot is made of, and how it is mounted.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use orlop_plugin::contract::{Mount, SnapshotKind, Usage};
use orlop_plugin::snapshots::{Directories, Layers, Snapshot};
use orlop_plugin::{Error, Result};

use crate::scratch;

const DEFAULT_TYPE: &str = "ext4";
const LOOP: &str = "loop";
/// xfs refuses a second file system with the same UUID, and every snapshot is a copy of the first one.
const XFS_SAME_UUID: &str = "nouuid";

/// Snapshots as image files.
pub(crate) struct Images {
    scratch: PathBuf,
    kind: String,
    options: Vec<String>,
}

fn image(directories: &Directories, id: u64) -> PathBuf {
    directories.of(id).join("image")
}

/// The bytes that a file has on disk, shared ones included.
fn allocated(path: &Path) -> Result<u64> {
    let metadata = path
        .metadata()
        .map_err(|error| Error::io(format!("measure {}", path.display()), &error))?;
    // stat(2) counts blocks of 512 bytes, whatever the file system's are.
    Ok(metadata.blocks() * 512)
}

// === impl Images ===

impl Images {
    /// Images that start as copies of `scratch`, with a file system of type `kind` (or the default one) in each.
    pub(crate) fn new(scratch: PathBuf, kind: &str, mut options: Vec<String>) -> Self {
        let kind = if kind.is_empty() { DEFAULT_TYPE } else { kind };
        let mut add = |option: &str| {
            if !options.iter().any(|given| given == option) {
                options.push(option.to_owned());
            }
        };
        add(LOOP);
        if kind == "xfs" {
            add(XFS_SAME_UUID);
        }
        Self {
            scratch,
            kind: kind.to_owned(),
            options,
        }
    }
}

impl Layers for Images {
    fn make(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        let own = image(directories, snapshot.id);
        match (snapshot.info.kind, snapshot.parents.first()) {
            (SnapshotKind::Active, Some(parent)) => scratch::copy(&image(directories, *parent), &own),
            // A view shows its parent itself.
            (_, Some(_)) => Ok(()),
            (_, None) => scratch::copy(&self.scratch, &own),
        }
    }

    fn mounts(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Vec<Mount>> {
        let view = snapshot.info.kind == SnapshotKind::View;
        let shown = match snapshot.parents.first() {
            Some(parent) if view => *parent,
            _ => snapshot.id,
        };
        let mut options = self.options.clone();
        options.push(if view { "ro" } else { "rw" }.to_owned());
        Ok(vec![Mount {
            kind: self.kind.clone(),
            source: image(directories, shown).display().to_string(),
            target: String::new(),
            options,
        }])
    }

    /// As containerd reckons: what the image has more than its parent's. Where images cannot share blocks, it takes more than that.
    fn usage(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Usage> {
        let own = allocated(&image(directories, snapshot.id))?;
        let below = snapshot
            .parents
            .first()
            .map_or(Ok(0), |parent| allocated(&image(directories, *parent)))?;
        Ok(Usage {
            inodes: 1,
            size: own.saturating_sub(below),
        })
    }

    fn commit(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Usage> {
        let path = image(directories, snapshot.id);
        File::open(&path)
            .and_then(|image| image.sync_all())
            .map_err(|error| Error::io(format!("sync {}", path.display()), &error))?;
        self.usage(directories, snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kind: &str, options: &[&str]) -> String {
        let images = Images::new(PathBuf::new(), kind, options.iter().map(ToString::to_string).collect());
        format!("{} {}", images.kind, images.options.join(","))
    }

    #[test]
    fn loop_is_always_an_option_and_xfs_takes_copies() {
        assert_eq!(options("", &[]), "ext4 loop");
        assert_eq!(options("ext4", &["noatime"]), "ext4 noatime,loop");
        assert_eq!(options("ext4", &["loop", "sync"]), "ext4 loop,sync");
        assert_eq!(options("xfs", &[]), "xfs loop,nouuid");
        assert_eq!(options("xfs", &["nouuid", "loop"]), "xfs nouuid,loop");
    }
}
