//! The blockfile snapshotter: every snapshot is a whole file system in an image file, mounted on a loop device. A child starts as a copy of
//! its parent's image, shared where the file system below can share (btrfs, xfs), and sparse where it cannot.
//!
//! ```text
//!   ROOT/metadata.redb        the records
//!   ROOT/scratch              the empty image that snapshots without a parent start from: a copy of `scratch_file`
//!   ROOT/snapshots/ID/image   the file system of a snapshot; none for a view, which shows its parent's
//! ```
//!
//! What is recorded, made and removed when is the SDK's business ([`orlop_plugin::snapshots`]); here are the images ([`images`]) and the one
//! they start from ([`scratch`]).

#[cfg(test)]
mod conformance;
mod images;
mod scratch;

use orlop_plugin::snapshots::{LayeredSnapshotter, Removal, plugin_root};
use orlop_plugin::{InitContext, InitError, Instance, Registration, blocking, kind};
use serde::{Deserialize, Serialize};

use images::Images;

/// `[plugins."io.containerd.snapshotter.v1.blockfile"]`. containerd 1.7 has no such table: all of it is understood and not printed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    /// Where snapshots are kept, if not in the plugin's own directory.
    #[serde(skip_serializing)]
    root_path: String,
    /// The image of an empty file system, copied when `ROOT/scratch` is not there.
    #[serde(skip_serializing)]
    scratch_file: String,
    /// The type of its file system; `ext4` if not said.
    #[serde(skip_serializing)]
    fs_type: String,
    /// Options of every mount. `loop` is always one of them.
    #[serde(skip_serializing)]
    mount_options: Vec<String>,
    /// Whether `ROOT/scratch` is copied anew at every start. Snapshots that are there keep what they have.
    #[serde(skip_serializing)]
    recreate_scratch: bool,
}

/// What this library has to offer.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::SNAPSHOTTER, "blockfile", start)
            .host_platform()
            .config(&Config::default()),
    ]
}

async fn start(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    let root = plugin_root(&context, &config.root_path)?;
    let path = root.join("scratch");
    if config.recreate_scratch || !path.exists() {
        if config.scratch_file.is_empty() {
            return Err(InitError::Skip("no scratch file generator".to_owned()));
        }
        let (from, to) = (config.scratch_file.clone(), path.clone());
        blocking(move || scratch::replace(from.as_ref(), &to)).await?;
    }
    let images = Images::new(path, &config.fs_type, config.mount_options);
    let snapshotter = LayeredSnapshotter::open(&root, images, Removal::AtOnce).await?;
    Ok(snapshotter.into_instance(&root))
}

orlop_plugin::export_plugin!(registrations, "io.containerd.snapshotter.v1.blockfile");
