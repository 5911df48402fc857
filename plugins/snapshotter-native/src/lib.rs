//! The native snapshotter (`io.containerd.snapshotter.v1.native`): every snapshot is a whole copy of its parent. It works on any file system,
//! and is slow on most; where files can be cloned (btrfs, xfs) their data is shared.
//!
//! ```text
//!   ROOT/snapshots/ID/       the whole tree of a snapshot, bind-mounted
//! ```

mod copy;

#[cfg(test)]
mod tests;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use orlop_plugin::contract::{Contracts, Mount, SnapshotKind};
use orlop_plugin::snapshots::{Directories, LayeredSnapshotter, Layers, Removal, Snapshot, plugin_root};
use orlop_plugin::{Error, InitContext, InitError, Instance, Registration, Result, kind};
use serde::{Deserialize, Serialize};

/// `[plugins."io.containerd.snapshotter.v1.native"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    /// Where the snapshots are; empty for the plugin's own directory.
    root_path: String,
}

/// What this library registers.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::SNAPSHOTTER, "native", init)
            .host_platform()
            .config(&Config::default()),
    ]
}

async fn init(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    let root = plugin_root(&context, &config.root_path)?;
    let snapshotter = LayeredSnapshotter::open(&root, Copies, Removal::AtOnce).await?;
    let closed = snapshotter.clone();
    Ok(Instance::new()
        .with_contracts(Contracts {
            snapshotter: Some(Arc::new(snapshotter)),
            ..Contracts::default()
        })
        .export("root", root.display())
        .on_shutdown(move || async move { closed.close() }))
}

/// Snapshots as copies.
struct Copies;

impl Layers for Copies {
    fn make(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        let own = directories.of(snapshot.id);
        let Some(parent) = snapshot.parents.first() else {
            return std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755))
                .map_err(|error| Error::io(format!("make {}", own.display()), &error));
        };
        let parent = directories.of(*parent);
        copy::tree(&parent, &own)
            .map_err(|error| Error::io(format!("copy {} to {}", parent.display(), own.display()), &error))
    }

    fn mounts(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Vec<Mount>> {
        let access = if snapshot.info.kind == SnapshotKind::View {
            "ro"
        } else {
            "rw"
        };
        Ok(vec![Mount {
            kind: "bind".to_owned(),
            source: directories.of(snapshot.id).display().to_string(),
            target: String::new(),
            options: vec!["rbind".to_owned(), access.to_owned()],
        }])
    }
}

orlop_plugin::export_plugin!(registrations, "io.containerd.snapshotter.v1.native");
