//! The zfs snapshotter's row in the table of plugins. Where containerd skips it (no zfs), it is skipped; where containerd has it, it is an error that
//! says that this release has not.

use std::path::{Path, PathBuf};

use orlop_plugin::{Error, InitContext, InitError, Instance, Registration, Result, kind};
use rustix::fs::statfs;
use serde::{Deserialize, Serialize};

/// What statfs(2) says of a file system of OpenZFS (`ZFS_SUPER_MAGIC`).
const ZFS: u64 = 0x2fc1_2fc1;
/// The way to the pools, which the module makes.
const DEVICE: &str = "/dev/zfs";

/// `[plugins."io.containerd.snapshotter.v1.zfs"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    /// Where snapshots would be kept, if not in the plugin's own directory.
    root_path: String,
}

/// What this library has to offer.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::SNAPSHOTTER, "zfs", start)
            .host_platform()
            .config(&Config::default()),
    ]
}

async fn start(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    let root = if config.root_path.is_empty() {
        context.root_path.clone()
    } else {
        PathBuf::from(config.root_path)
    };
    if !on_zfs(&root)? {
        let mut reason = format!(
            "path {} must be a zfs filesystem to be used with the zfs snapshotter",
            root.display()
        );
        if !Path::new(DEVICE).exists() {
            reason += " (this machine has no /dev/zfs)";
        }
        return Err(InitError::Skip(reason));
    }
    Err(Error::failed_precondition(format!(
        "{} is on zfs, and the zfs snapshotter is not available in this release: use overlayfs there (OpenZFS 2.2 or newer), or native",
        root.display()
    ))
    .into())
}

/// Whether `path`, or where it would be made, is on zfs.
fn on_zfs(path: &Path) -> Result<bool> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let status =
        statfs(there).map_err(|error| Error::io(format!("find out what {} is on", there.display()), &error.into()))?;
    Ok(status.f_type.cast_unsigned() == ZFS)
}

orlop_plugin::export_plugin!(registrations, "io.containerd.snapshotter.v1.zfs");

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_without_zfs_skips_it_and_keeps_no_directory() {
        let root = tempfile::tempdir().expect("a directory");
        let started =
            orlop_plugin::testkit::start(&registrations()[0], root.path(), orlop_plugin::toml::Table::new()).await;
        let Err(InitError::Skip(reason)) = started else {
            panic!("it should be skipped");
        };
        let home = root.path().join("io.containerd.snapshotter.v1.zfs");
        let expected = format!("path {} must be a zfs filesystem", home.display());
        assert!(reason.starts_with(&expected), "{reason}");
        assert_eq!(reason.contains("no /dev/zfs"), !Path::new(DEVICE).exists());
        assert!(!home.exists());
    }
}
