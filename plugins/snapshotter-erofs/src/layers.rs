//! The directories and the mounts of a snapshot.

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use orlop_plugin::contract::{Mount, SnapshotKind, Usage};
use orlop_plugin::erofs::{IMAGE, MARK, Mkfs};
use orlop_plugin::mount::{Lazy, unmount};
use orlop_plugin::snapshots::{Directories, Layers, Snapshot, disk_usage, map_options, remove_tree, root_owner};
use orlop_plugin::{Error, Result};

use crate::{image, verity};

/// Snapshots as EROFS images under overlays.
pub(crate) struct ErofsLayers {
    mkfs: Mkfs,
    /// The user's options of every overlay.
    options: Vec<String>,
    /// Whether mounts show a container's own ids.
    maps_ids: bool,
    protection: Protection,
    /// One layer is mounted at a time, so that none is mounted twice.
    mounting: Mutex<()>,
}

/// How committed layers are guarded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Protection {
    /// By fs-verity.
    pub(crate) verity: bool,
    /// By the immutable attribute.
    pub(crate) immutable: bool,
}

fn upper(directories: &Directories, id: u64) -> PathBuf {
    directories.of(id).join("fs")
}

fn work(directories: &Directories, id: u64) -> PathBuf {
    directories.of(id).join("work")
}

fn image_in(directory: &Path) -> PathBuf {
    directory.join(IMAGE)
}

fn point_in(directory: &Path) -> PathBuf {
    directory.join("layer")
}

fn is_empty(directory: &Path) -> Result<bool> {
    let mut entries =
        std::fs::read_dir(directory).map_err(|error| Error::io(format!("list {}", directory.display()), &error))?;
    Ok(entries.next().is_none())
}

// === impl ErofsLayers ===

impl ErofsLayers {
    /// Layers made by the program `mkfs`; `options` are the user's, for every overlay. `maps_ids`: whether mounts can show a container's own ids.
    pub(crate) fn new(mkfs: Mkfs, options: Vec<String>, maps_ids: bool, protection: Protection) -> Self {
        Self {
            mkfs,
            options,
            maps_ids,
            protection,
            mounting: Mutex::default(),
        }
    }

    /// Where the layer of the committed snapshot `id` can be read, mounted now if it is not. Blocks.
    fn mounted(&self, directories: &Directories, id: u64) -> Result<PathBuf> {
        let directory = directories.of(id);
        let point = point_in(&directory);
        if image::is_mounted(&point) {
            return Ok(point);
        }
        let _alone = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
        if image::is_mounted(&point) {
            return Ok(point);
        }
        let image = image_in(&directory);
        if self.protection.verity {
            verity::check(&image)?;
        }
        match std::fs::create_dir(&point) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::io(format!("make the mount point {}", point.display()), &error));
            }
            _ => {}
        }
        image::mount(&image, &point)?;
        Ok(point)
    }

    /// The upper directory is the root of the mount: its owner is the container's root, or whoever owns the layer below.
    fn own(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        let fs = upper(directories, snapshot.id);
        let owner = match (root_owner(&snapshot.info.labels)?, snapshot.parents.first()) {
            (Some(owner), _) => owner,
            (None, Some(parent)) => {
                let parent = self.mounted(directories, *parent)?;
                let below = std::fs::metadata(&parent)
                    .map_err(|error| Error::io(format!("look at the parent's {}", parent.display()), &error))?;
                (below.uid(), below.gid())
            }
            (None, None) => return Ok(()),
        };
        lchown(&fs, Some(owner.0), Some(owner.1))
            .map_err(|error| Error::io(format!("give {} to {}:{}", fs.display(), owner.0, owner.1), &error))
    }
}

impl Layers for ErofsLayers {
    // The parents' layers are mounted on the way.
    const MOUNTS_BLOCK: bool = true;

    fn make(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        Directories::make(&upper(directories, snapshot.id), 0o755)?;
        if snapshot.info.kind == SnapshotKind::Active {
            Directories::make(&work(directories, snapshot.id), 0o711)?;
            let mark = directories.of(snapshot.id).join(MARK);
            std::fs::write(&mark, "").map_err(|error| Error::io(format!("write {}", mark.display()), &error))?;
        }
        self.own(directories, snapshot)
    }

    fn mounts(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Vec<Mount>> {
        let view = snapshot.info.kind == SnapshotKind::View;
        let mut options = if self.maps_ids {
            map_options(&snapshot.info.labels)
        } else {
            Vec::new()
        };
        match snapshot.parents.as_slice() {
            [] => {
                let access = if view { "ro" } else { "rw" };
                options.extend([access.to_owned(), "rbind".to_owned()]);
                return Ok(vec![Mount {
                    kind: "bind".to_owned(),
                    source: upper(directories, snapshot.id).display().to_string(),
                    target: String::new(),
                    options,
                }]);
            }
            // An overlay needs two layers: one by itself is mounted as it is.
            [parent] if view => {
                let image = image_in(&directories.of(*parent));
                if self.protection.verity {
                    verity::check(&image)?;
                }
                let mut mount = image::mount_of(&image);
                mount.options.extend(options);
                return Ok(vec![mount]);
            }
            _ => {}
        }
        if !view {
            options.push(format!("workdir={}", work(directories, snapshot.id).display()));
            options.push(format!("upperdir={}", upper(directories, snapshot.id).display()));
        }
        let lower = snapshot
            .parents
            .iter()
            .map(|id| Ok(self.mounted(directories, *id)?.display().to_string()))
            .collect::<Result<Vec<String>>>()?;
        options.push(format!("lowerdir={}", lower.join(":")));
        options.extend(self.options.iter().cloned());
        Ok(vec![Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options,
        }])
    }

    fn usage(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Usage> {
        disk_usage(&upper(directories, snapshot.id))
    }

    fn commit(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Usage> {
        let fs = upper(directories, snapshot.id);
        let image = image_in(&directories.of(snapshot.id));
        // An EROFS differ leaves an image and nothing in the upper directory. Files in it are newer than any image.
        if !image.exists() || !is_empty(&fs)? {
            self.mkfs.of_directory(&image, &fs)?;
        }
        if self.protection.verity {
            verity::enable(&image)
                .map_err(|error| Error::io(format!("protect {} by fs-verity", image.display()), &error))?;
        }
        let made = image
            .metadata()
            .map_err(|error| Error::io(format!("measure {}", image.display()), &error))?;
        Ok(Usage {
            inodes: 1,
            // stat(2) counts blocks of 512 bytes, whatever the file system's are.
            size: made.blocks() * 512,
        })
    }

    fn revert(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        // An image that a differ made is all there is of the snapshot.
        if is_empty(&upper(directories, snapshot.id))? {
            return Ok(());
        }
        let image = image_in(&directories.of(snapshot.id));
        match std::fs::remove_file(&image) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", image.display()), &error))
            }
            _ => Ok(()),
        }
    }

    fn settle(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        let image = image_in(&directories.of(snapshot.id));
        // A file system without the attribute loses nothing but the guard, as in containerd.
        if self.protection.immutable
            && let Err(error) = image::set_immutable(&image, true)
        {
            tracing::warn!(%error, image = %image.display(), "a layer is not immutable");
        }
        remove_tree(&work(directories, snapshot.id))?;
        remove_tree(&upper(directories, snapshot.id))
    }

    fn unmake(&self, directory: &Path) -> Result<()> {
        unmount(&point_in(directory), Lazy::WhenBusy)?;
        // Whatever is configured now, it may have been immutable before.
        let image = image_in(directory);
        match image::set_immutable(&image, false) {
            Err(error) if image.exists() => {
                tracing::debug!(%error, image = %image.display(), "cannot tell whether a layer is immutable");
            }
            _ => {}
        }
        remove_tree(directory)
    }
}
