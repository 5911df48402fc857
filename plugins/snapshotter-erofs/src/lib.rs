//! The EROFS snapshotter: a committed snapshot is one EROFS image, an active one the upper directory of an overlay over its parents' images.
//!
//! ```text
//!   ROOT/metadata.redb            the records
//!   ROOT/snapshots/ID/fs          what an active snapshot adds: an upper directory
//!   ROOT/snapshots/ID/work        overlayfs' own, while the snapshot is active
//!   ROOT/snapshots/ID/.erofslayer tells an EROFS differ that it may write layer.erofs itself
//!   ROOT/snapshots/ID/layer.erofs what a committed snapshot is
//!   ROOT/snapshots/ID/layer       where that is mounted, from when a child first needs it until the snapshot is removed
//! ```
//!
//! The mounts are those of containerd 2.1: layers are mounted here, and what clients get is a plain overlay. (From 2.2 on containerd hands out mounts that
//! only its own mount manager can perform.) A layer is mounted again when it is asked for after a reboot.
//!
//! What is recorded, made and removed when is the SDK's business ([`orlop_plugin::snapshots`]); here are the directories and mounts
//! ([`layers`]), the images ([`image`]) and their protection by fs-verity ([`verity`]).

#[cfg(test)]
mod conformance;
mod image;
mod layers;
mod verity;

use std::path::Path;

use orlop_plugin::erofs::Mkfs;
use orlop_plugin::mount::maps_ids;
use orlop_plugin::snapshots::{LayeredSnapshotter, Removal, plugin_root, tells_types};
use orlop_plugin::{Error, InitContext, InitError, Instance, Registration, Result, blocking, kind};
use serde::{Deserialize, Serialize};

use layers::{ErofsLayers, Protection};

/// The file systems that the kernel has, one a line.
const FILE_SYSTEMS: &str = "/proc/filesystems";

/// `[plugins."io.containerd.snapshotter.v1.erofs"]`. containerd 1.7 has no such table: all of it is understood and not printed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    /// Where snapshots are kept, if not in the plugin's own directory.
    #[serde(skip_serializing)]
    root_path: String,
    /// Options of every overlay mount, behind those that say what is mounted.
    #[serde(skip_serializing)]
    ovl_mount_options: Vec<String>,
    /// Whether layers are protected by fs-verity: checked before they are mounted, and by the kernel at every read.
    #[serde(skip_serializing)]
    enable_fsverity: bool,
    /// Whether layers are made immutable, so that nobody removes or changes them by accident.
    #[serde(skip_serializing)]
    set_immutable: bool,
    /// The size of a writable layer on a block device of its own. Empty, or 0: none.
    #[serde(skip_serializing)]
    default_size: String,
    /// `auto`, `on` or `off`.
    #[serde(skip_serializing)]
    dmverity_mode: String,
}

/// What this library has to offer.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::SNAPSHOTTER, "erofs", start)
            .host_platform()
            .config(&Config::default()),
    ]
}

async fn start(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    possible(&config)?;
    let kernel =
        std::fs::read_to_string(FILE_SYSTEMS).map_err(|error| Error::io(format!("read {FILE_SYSTEMS}"), &error))?;
    if !kernel.split_whitespace().any(|word| word == "erofs") {
        return Err(InitError::Skip("EROFS unsupported, please `modprobe erofs`".to_owned()));
    }
    let Some(mkfs) = blocking(|| Ok(Mkfs::find())).await? else {
        return Err(InitError::Skip(
            "mkfs.erofs, which makes the images of layers, is not there: install erofs-utils".to_owned(),
        ));
    };
    let root = plugin_root(&context, &config.root_path)?;
    let checked = root.clone();
    let maps_ids = blocking(move || {
        fits(&checked, config.enable_fsverity)?;
        Ok(maps_ids(&checked))
    })
    .await?;
    let protection = Protection {
        verity: config.enable_fsverity,
        immutable: config.set_immutable,
    };
    let layers = ErofsLayers::new(mkfs, config.ovl_mount_options, maps_ids, protection);
    let snapshotter = LayeredSnapshotter::open(&root, layers, Removal::AtOnce).await?;
    let mut instance = snapshotter.into_instance(&root);
    // containerd's words: a container with ids of its own gets them from the kernel, and never from a copy with other owners.
    instance.capabilities = vec!["only-remap-ids".to_owned()];
    if maps_ids {
        instance.capabilities.push("remap-ids".to_owned());
    }
    Ok(instance)
}

/// Whether this release does what is configured.
fn possible(config: &Config) -> Result<()> {
    match config.dmverity_mode.as_str() {
        "" | "auto" | "off" => {}
        "on" => {
            return Err(Error::failed_precondition(
                "dmverity_mode = \"on\" is not available in this release: use enable_fsverity, or \"auto\"",
            ));
        }
        other => {
            return Err(Error::invalid_argument(format!(
                "invalid dmverity_mode {other:?}: must be \"auto\", \"on\", or \"off\""
            )));
        }
    }
    // A size of nothing, with whatever unit, is none.
    let size = config.default_size.trim_end_matches(|c: char| !c.is_ascii_digit());
    if !size.bytes().all(|digit| digit == b'0') {
        return Err(Error::failed_precondition(format!(
            "default_size = {:?}, writable layers on block devices, is not available in this release: leave it empty, or use the blockfile snapshotter",
            config.default_size
        )));
    }
    Ok(())
}

/// Whether the file system of `root` does what is needed. Blocks.
fn fits(root: &Path, fsverity: bool) -> Result<()> {
    if !tells_types(root)? {
        return Err(Error::failed_precondition(format!(
            "{} does not support d_type. If the backing filesystem is xfs, please reformat with ftype=1 to enable d_type support",
            root.display()
        )));
    }
    if fsverity {
        verity::try_in(root)?;
    }
    Ok(())
}

orlop_plugin::export_plugin!(registrations, "io.containerd.snapshotter.v1.erofs");
