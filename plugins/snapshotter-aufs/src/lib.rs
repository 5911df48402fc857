//! The aufs snapshotter's row in the table of plugins. Without aufs in the kernel it is skipped, as by containerd 1.7 (containerd 2 has no aufs); with it, it
//! is an error that says that this release has no such snapshotter.

use orlop_plugin::{Error, InitContext, InitError, Instance, Registration, Result, kind};
use serde::{Deserialize, Serialize};

/// The file systems that the kernel has, one a line.
const FILE_SYSTEMS: &str = "/proc/filesystems";

/// `[plugins."io.containerd.snapshotter.v1.aufs"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    /// Where snapshots would be kept, if not in the plugin's own directory.
    root_path: String,
}

/// What this library has to offer.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::SNAPSHOTTER, "aufs", start)
            .host_platform()
            .config(&Config::default()),
    ]
}

async fn start(context: InitContext) -> Result<Instance, InitError> {
    // A table that is wrong is said to be, also where nothing comes of it.
    let _: Config = context.config()?;
    let kernel =
        std::fs::read_to_string(FILE_SYSTEMS).map_err(|error| Error::io(format!("read {FILE_SYSTEMS}"), &error))?;
    Err(refusal(&kernel))
}

/// Why it does not start on a kernel with these file systems.
fn refusal(kernel: &str) -> InitError {
    let there = kernel.split_whitespace().any(|word| word == "aufs");
    if there {
        Error::failed_precondition("the aufs snapshotter is not available in this release: use overlayfs").into()
    } else {
        InitError::Skip(format!("aufs is not supported (not in {FILE_SYSTEMS})"))
    }
}

orlop_plugin::export_plugin!(registrations, "io.containerd.snapshotter.v1.aufs");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_with_aufs_makes_it_an_error() {
        let skipped = refusal("nodev\tproc\n\text4\nnodev\tmyaufs\n");
        assert!(matches!(skipped, InitError::Skip(_)), "{skipped:?}");
        let failed = refusal("nodev\tproc\nnodev\taufs\n").to_string();
        assert!(failed.contains("not available in this release"), "{failed}");
    }

    #[tokio::test]
    async fn it_does_not_start() {
        let root = tempfile::tempdir().expect("a directory");
        let started =
            orlop_plugin::testkit::start(&registrations()[0], root.path(), orlop_plugin::toml::Table::new()).await;
        let kernel = std::fs::read_to_string(FILE_SYSTEMS).expect("proc");
        assert_eq!(started.err(), Some(refusal(&kernel)));
    }
}
