//! The native snapshotter: each snapshot is a whole copy of its parent. Slow and wasteful, and works on every file system.
//!
//! ```text
//!   ROOT/metadata.redb        the records
//!   ROOT/snapshots/ID/        the whole file system of a snapshot; empty for a view, which shows its parent's
//! ```
//!
//! What is recorded, made and removed when is the SDK's business ([`orlop_plugin::snapshots`]); here is the copying ([`copy`]).

#[cfg(test)]
mod conformance;
mod copy;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use orlop_plugin::contract::{Mount, SnapshotKind};
use orlop_plugin::snapshots::{Directories, LayeredSnapshotter, Layers, Removal, Snapshot, plugin_root};
use orlop_plugin::{Error, InitContext, InitError, Instance, Registration, Result, kind};
use serde::{Deserialize, Serialize};

/// `[plugins."io.containerd.snapshotter.v1.native"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    /// Where snapshots are kept, if not in the plugin's own directory.
    root_path: String,
}

/// What this library has to offer.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::SNAPSHOTTER, "native", start)
            .host_platform()
            .config(&Config::default()),
    ]
}

async fn start(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    let root = plugin_root(&context, &config.root_path)?;
    let snapshotter = LayeredSnapshotter::open(&root, Copies, Removal::AtOnce).await?;
    Ok(snapshotter.into_instance(&root))
}

orlop_plugin::export_plugin!(registrations, "io.containerd.snapshotter.v1.native");

/// Snapshots as copies.
struct Copies;

impl Layers for Copies {
    fn make(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        let own = directories.of(snapshot.id);
        match (snapshot.info.kind, snapshot.parents.first()) {
            (SnapshotKind::Active, Some(parent)) => copy::tree(&directories.of(*parent), &own),
            // The directory is the root of a mount: everybody may enter.
            _ => std::fs::set_permissions(&own, Permissions::from_mode(0o755))
                .map_err(|error| Error::io(format!("set the mode of {}", own.display()), &error)),
        }
    }

    fn mounts(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Vec<Mount>> {
        let view = snapshot.info.kind == SnapshotKind::View;
        let shown = match snapshot.parents.first() {
            Some(parent) if view => *parent,
            _ => snapshot.id,
        };
        let access = if view { "ro" } else { "rw" };
        Ok(vec![Mount {
            kind: "bind".to_owned(),
            source: directories.of(shown).display().to_string(),
            target: String::new(),
            options: vec!["rbind".to_owned(), access.to_owned()],
        }])
    }
}
