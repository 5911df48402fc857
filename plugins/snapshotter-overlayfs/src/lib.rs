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

use orlop_plugin::contract::REBASE;
use orlop_plugin::snapshots::{LayeredSnapshotter, Removal, plugin_root};
use orlop_plugin::{Error, InitContext, InitError, Instance, Registration, Result, blocking, kind};
use serde::{Deserialize, Serialize};

use overlay::Overlay;
use probe::{Answer, Support};

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
    /// The same, said the other way round by those who come from containerd's `AsynchronousRemove`: it counts when it is there.
    #[serde(skip_serializing)]
    async_remove: Option<bool>,
    /// Whether clients may copy and chown a whole snapshot for a container whose ids the kernel cannot map.
    #[serde(skip_serializing)]
    slow_chown: bool,
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
    let removal = config.removal()?;
    let capabilities = capabilities(support, config.slow_chown);
    let layers = Overlay::new(support, config.upperdir_label, config.mount_options);
    let snapshotter = LayeredSnapshotter::open(&root, layers, removal).await?;
    let mut instance = snapshotter.into_instance(&root);
    instance.capabilities = capabilities;
    Ok(instance)
}

/// What clients look for before they unpack layers side by side, or make a snapshot for a container with ids of its own. containerd's words.
fn capabilities(support: Support, slow_chown: bool) -> Vec<String> {
    let all = [
        // Layers are put down without their parents by making whiteouts, which a user namespace cannot.
        (REBASE, !support.userxattr),
        ("remap-ids", support.maps_ids),
        // Without it they fall back to a copy with other owners.
        ("only-remap-ids", !slow_chown),
    ];
    let there = all.into_iter().filter(|(_, there)| *there);
    there.map(|(capability, _)| capability.to_owned()).collect()
}

// === impl Config ===

impl Config {
    fn removal(&self) -> Result<Removal> {
        match (self.sync_remove, self.async_remove) {
            (true, Some(true)) => Err(Error::invalid_argument(
                "sync_remove and async_remove say the opposite of each other: keep sync_remove, which is containerd's",
            )),
            (true, _) | (_, Some(false)) => Ok(Removal::AtOnce),
            _ => Ok(Removal::AtCleanup),
        }
    }
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

    #[test]
    fn a_directory_goes_at_once_or_later() {
        for (text, removal) in [
            ("", Removal::AtCleanup),
            ("sync_remove = true", Removal::AtOnce),
            ("async_remove = false", Removal::AtOnce),
            ("async_remove = true", Removal::AtCleanup),
            ("sync_remove = true\nasync_remove = false", Removal::AtOnce),
        ] {
            assert_eq!(toml_of(text).removal().expect(text), removal, "{text}");
        }
        let both = toml_of("sync_remove = true\nasync_remove = true").removal();
        assert!(both.expect_err("a contradiction").message.contains("sync_remove"));
    }

    #[test]
    fn clients_are_told_how_ids_are_mapped() {
        let support = |maps_ids| Support {
            maps_ids,
            ..Support::default()
        };
        assert_eq!(
            capabilities(support(true), false),
            ["rebase", "remap-ids", "only-remap-ids"]
        );
        assert_eq!(capabilities(support(true), true), ["rebase", "remap-ids"]);
        assert_eq!(capabilities(support(false), false), ["rebase", "only-remap-ids"]);
        assert_eq!(capabilities(support(false), true), ["rebase"]);
    }

    fn toml_of(text: &str) -> Config {
        toml::from_str(text).expect("valid")
    }
}
