//! The overlayfs snapshotter: each snapshot is the upper directory of an overlay over its parents.
//!
//! ```text
//!   ROOT/metadata.redb          the records
//!   ROOT/snapshots/ID/fs        what the snapshot adds to its parents: an upper directory, later a lower one
//!   ROOT/snapshots/ID/work      overlayfs' own, while the snapshot is active
//! ```
//!
//! What is recorded, made and removed when is the SDK's business ([`orlop_plugin::snapshots`]); here is what makes it an overlay:
//! the directories and mounts of a snapshot ([`overlay`]), and whether the kernel and the file system can do it at all ([`probe`]).

#[cfg(test)]
mod conformance;
mod overlay;
mod probe;

use orlop_plugin::snapshots::{LayeredSnapshotter, Removal, plugin_root};
use orlop_plugin::{InitContext, InitError, Instance, Registration, blocking, kind};
use serde::{Deserialize, Serialize};

use overlay::Overlay;
use probe::Answer;

/// `[plugins."io.containerd.snapshotter.v1.overlayfs"]`. The keys that containerd 1.7 does not have are understood and not printed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    /// Where snapshots are kept, if not in the plugin's own directory.
    root_path: String,
    /// Whether each snapshot shows its upper directory as a label.
    upperdir_label: bool,
    /// Whether `remove` waits until the directory is gone.
    #[serde(skip_serializing)]
    sync_remove: bool,
    /// Options of every overlay mount, in front of those that say what is mounted.
    #[serde(skip_serializing)]
    mount_options: Vec<String>,
}

/// What this library has to offer.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::SNAPSHOTTER, "overlayfs", start)
            .host_platform()
            .config(&Config::default()),
    ]
}

async fn start(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    let root = plugin_root(&context, &config.root_path)?;
    let probed = root.clone();
    let support = match blocking(move || probe::probe(&probed)).await? {
        Answer::Supported(support) => support,
        Answer::Unsupported(reason) => return Err(InitError::Skip(reason)),
    };
    let removal = if config.sync_remove {
        Removal::AtOnce
    } else {
        Removal::AtCleanup
    };
    let layers = Overlay::new(support, config.upperdir_label, config.mount_options);
    let snapshotter = LayeredSnapshotter::open(&root, layers, removal).await?;
    Ok(snapshotter.into_instance(&root))
}

orlop_plugin::export_plugin!(registrations, "io.containerd.snapshotter.v1.overlayfs");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_print_as_containerd_1_7_prints_them() {
        let registration = &registrations()[0];
        let expected = "root_path = \"\"\nupperdir_label = false\n";
        assert_eq!(registration.config.to_string(), expected);
    }

    #[test]
    fn newer_keys_are_understood() {
        let config: Config = toml_of("sync_remove = true\nmount_options = [\"volatile\"]\nslow_chown = false");
        assert!(config.sync_remove);
        assert_eq!(config.mount_options, ["volatile"]);
    }

    fn toml_of(text: &str) -> Config {
        toml::from_str(text).expect("valid")
    }
}
