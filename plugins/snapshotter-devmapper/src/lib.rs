//! The devmapper snapshotter's row in the table of plugins: an error while no pool is configured, as in containerd 1.7 (containerd 2 skips it), and
//! where one is, an error that says what is wrong with its table, or that this release has no such snapshotter.

use std::path::Path;

use orlop_plugin::{Error, InitContext, InitError, Instance, Registration, Result, kind};
use serde::{Deserialize, Serialize};

/// The way to the device-mapper.
const CONTROL: &str = "/dev/mapper/control";
const FILE_SYSTEMS: [&str; 3] = ["ext4", "xfs", "ext2"];

/// `[plugins."io.containerd.snapshotter.v1.devmapper"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    /// Where the records would be kept, if not in the plugin's own directory.
    root_path: String,
    /// The thin pool, without `/dev/mapper/`.
    pool_name: String,
    /// How large the device of a snapshot without a parent is.
    base_image_size: String,
    /// Whether devices are removed by garbage collection, not by `remove`.
    async_remove: bool,
    /// Whether a removed device's blocks are discarded.
    discard_blocks: bool,
    /// The file system on a device.
    fs_type: String,
    /// Options of its `mkfs`.
    fs_options: String,
}

/// What this library has to offer.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::SNAPSHOTTER, "devmapper", start)
            .host_platform()
            .config(&Config::default()),
    ]
}

async fn start(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    Err(refusal(&config, Path::new(CONTROL).exists()).into())
}

/// Why it does not start with this configuration, on a machine with or without a device-mapper.
fn refusal(config: &Config, device_mapper: bool) -> Error {
    if config.pool_name.is_empty() {
        return Error::failed_precondition("devmapper not configured");
    }
    if config.base_image_size.is_empty() {
        return Error::invalid_argument("base_image_size is required");
    }
    if !config.fs_type.is_empty() && !FILE_SYSTEMS.contains(&config.fs_type.as_str()) {
        return Error::invalid_argument(format!(
            "unsupported Filesystem Type: {:?} (fs_type is one of {})",
            config.fs_type,
            FILE_SYSTEMS.join(", ")
        ));
    }
    let machine = if device_mapper {
        String::new()
    } else {
        format!("; nor has this machine a device-mapper ({CONTROL} is not there)")
    };
    Error::failed_precondition(format!(
        "the devmapper snapshotter is not available in this release, so pool {:?} is not used: use overlayfs, or blockfile for a file system a \
         snapshot{machine}",
        config.pool_name
    ))
}

orlop_plugin::export_plugin!(registrations, "io.containerd.snapshotter.v1.devmapper");

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_pool_it_is_not_configured() {
        let root = tempfile::tempdir().expect("a directory");
        let started =
            orlop_plugin::testkit::start(&registrations()[0], root.path(), orlop_plugin::toml::Table::new()).await;
        let Err(InitError::Failed(error)) = started else {
            panic!("it should fail");
        };
        assert_eq!(error.message, "devmapper not configured");
    }

    #[test]
    fn with_a_pool_the_first_thing_wrong_is_said_and_last_that_it_is_not_there() {
        let mut config = Config {
            pool_name: "thin".to_owned(),
            ..Config::default()
        };
        assert!(refusal(&config, true).message.contains("base_image_size"));
        config.base_image_size = "8GB".to_owned();
        config.fs_type = "zfs".to_owned();
        assert!(
            refusal(&config, true)
                .message
                .contains("unsupported Filesystem Type: \"zfs\"")
        );
        config.fs_type = "xfs".to_owned();
        let there = refusal(&config, true).message;
        assert!(
            there.contains("not available in this release") && there.contains("\"thin\""),
            "{there}"
        );
        assert!(!there.contains(CONTROL), "{there}");
        assert!(refusal(&config, false).message.contains(CONTROL));
    }
}
