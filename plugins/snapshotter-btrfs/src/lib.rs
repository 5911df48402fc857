//! The btrfs snapshotter: every snapshot is a subvolume, and a child starts as a snapshot of its parent, which copies nothing.
//!
//! ```text
//!   ROOT/metadata.redb          the records
//!   ROOT/snapshots/ID/fs        the subvolume of an active snapshot, or of a view that stands on nothing
//!   ROOT/snapshots/ID/committed what it was when it was committed, read-only
//! ```
//!
//! What is recorded, made and removed when is the SDK's business ([`orlop_plugin::snapshots`]); here is what btrfs adds: the system calls
//! ([`ioctl`]), what a snapshot is made of and how it is mounted ([`subvolumes`]), what it takes ([`usage`]), and where the root lies
//! ([`place`]).

#[cfg(test)]
mod conformance;
mod ioctl;
mod place;
mod subvolumes;
mod usage;

use orlop_plugin::snapshots::{LayeredSnapshotter, Removal, plugin_root};
use orlop_plugin::{InitContext, InitError, Instance, Registration, blocking, kind};
use serde::{Deserialize, Serialize};

use place::Place;
use subvolumes::Subvolumes;

/// `[plugins."io.containerd.snapshotter.v1.btrfs"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    /// Where snapshots are kept, if not in the plugin's own directory. It must be on btrfs.
    root_path: String,
}

/// What this library has to offer.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::SNAPSHOTTER, "btrfs", start)
            .host_platform()
            .config(&Config::default()),
    ]
}

async fn start(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    let root = plugin_root(&context, &config.root_path)?;
    let looked_at = root.clone();
    let device = match blocking(move || place::of(&looked_at)).await? {
        Place::Btrfs { device } => device,
        Place::Other { kind } => {
            return Err(InitError::Skip(format!(
                "path {} ({kind}) must be a btrfs filesystem to be used with the btrfs snapshotter",
                root.display()
            )));
        }
    };
    let snapshotter = LayeredSnapshotter::open(&root, Subvolumes::on(device), Removal::AtOnce).await?;
    Ok(snapshotter.into_instance(&root))
}

orlop_plugin::export_plugin!(registrations, "io.containerd.snapshotter.v1.btrfs");
