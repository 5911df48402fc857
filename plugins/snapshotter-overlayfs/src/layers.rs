//! What a snapshot is, and how it is mounted.

use std::os::unix::fs::{MetadataExt, chown};

use orlop_plugin::contract::{Labels, Mount, SnapshotInfo, SnapshotKind, Usage};
use orlop_plugin::snapshots::{Directories, GID_MAPPING, Layers, Snapshot, Stored, UID_MAPPING, disk_usage};
use orlop_plugin::{Error, Result};

use crate::config::Config;
use crate::probe::Kernel;

/// Where `upperdir_label` says where a layer is.
const UPPERDIR_LABEL: &str = "containerd.io/snapshot/overlay.upperdir";

/// Snapshots as overlays of directories.
pub(crate) struct Overlay {
    /// Options of every overlay.
    options: Vec<String>,
    upperdir_label: bool,
}

// === impl Overlay ===

impl Overlay {
    pub(crate) fn new(config: &Config, kernel: Kernel) -> Self {
        let mut options = config.mount_options.clone();
        if kernel.user_xattr && !options.iter().any(|option| option == "userxattr") {
            options.push("userxattr".to_owned());
        }
        if kernel.index && !options.iter().any(|option| option.starts_with("index=")) {
            options.push("index=off".to_owned());
        }
        Self {
            options,
            upperdir_label: config.upperdir_label,
        }
    }
}

fn path(directories: &Directories, id: u64, name: &str) -> String {
    directories.of(id).join(name).display().to_string()
}

fn bind(source: String, access: &str) -> Mount {
    Mount {
        kind: "bind".to_owned(),
        source,
        target: String::new(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    }
}

/// The host id that id 0 of a container is, by the label of its mapping `CONTAINER:HOST:LENGTH,…`.
fn root_of(labels: &Labels, label: &str) -> Result<Option<u32>> {
    let Some(mapping) = labels.get(label) else {
        return Ok(None);
    };
    for range in mapping.split(',') {
        let numbers: Vec<Option<u32>> = range.split(':').map(|number| number.trim().parse().ok()).collect();
        match numbers[..] {
            [Some(0), Some(host), Some(_)] => return Ok(Some(host)),
            [Some(_), Some(_), Some(_)] => {}
            _ => {
                return Err(Error::invalid_argument(format!(
                    "label {label}={mapping:?} must read CONTAINER:HOST:LENGTH, several with commas between them"
                )));
            }
        }
    }
    Err(Error::invalid_argument(format!(
        "label {label}={mapping:?} maps no id to the container's root"
    )))
}

impl Layers for Overlay {
    fn make(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        let labels = &snapshot.info.labels;
        let (uid, gid) = (root_of(labels, UID_MAPPING)?, root_of(labels, GID_MAPPING)?);
        let directory = directories.of(snapshot.id);
        let layer = directory.join("fs");
        Directories::make(&layer, 0o755)?;
        if snapshot.info.kind == SnapshotKind::Active {
            Directories::make(&directory.join("work"), 0o711)?;
        }
        // The root of a container is the topmost layer's root: it belongs to whom the layer below says, or to the container's root.
        let below = snapshot
            .parents
            .first()
            .map(|parent| directories.of(*parent).join("fs"));
        let owner = match below {
            Some(below) => {
                let metadata = below
                    .metadata()
                    .map_err(|error| Error::io(format!("look at {}", below.display()), &error))?;
                (uid.unwrap_or(metadata.uid()), gid.unwrap_or(metadata.gid()))
            }
            None => (uid.unwrap_or(0), gid.unwrap_or(0)),
        };
        if owner != (0, 0) {
            chown(&layer, Some(owner.0), Some(owner.1))
                .map_err(|error| Error::io(format!("give {} to {owner:?}", layer.display()), &error))?;
        }
        Ok(())
    }

    fn mounts(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Vec<Mount>> {
        let view = snapshot.info.kind == SnapshotKind::View;
        // An overlay needs two layers at least; one is a bind mount.
        match (snapshot.parents.as_slice(), view) {
            ([], false) => return Ok(vec![bind(path(directories, snapshot.id, "fs"), "rw")]),
            ([], true) => return Ok(vec![bind(path(directories, snapshot.id, "fs"), "ro")]),
            ([only], true) => return Ok(vec![bind(path(directories, *only, "fs"), "ro")]),
            _ => {}
        }
        let mut options = self.options.clone();
        if !view {
            options.push(format!("workdir={}", path(directories, snapshot.id, "work")));
            options.push(format!("upperdir={}", path(directories, snapshot.id, "fs")));
        }
        let lower: Vec<String> = snapshot
            .parents
            .iter()
            .map(|parent| path(directories, *parent, "fs"))
            .collect();
        options.push(format!("lowerdir={}", lower.join(":")));
        Ok(vec![Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options,
        }])
    }

    fn usage(&self, directories: &Directories, snapshot: &Stored) -> Result<Usage> {
        disk_usage(&directories.of(snapshot.id).join("fs"))
    }

    fn describe(&self, directories: &Directories, id: u64, info: &mut SnapshotInfo) {
        if self.upperdir_label {
            info.labels
                .insert(UPPERDIR_LABEL.to_owned(), path(directories, id, "fs"));
        }
    }
}
