//! The plugin's table, and what its values mean.

use orlop_plugin::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::dmsetup::SECTOR;

/// Where the device-mapper's devices are.
pub(crate) const DEVICES: &str = "/dev/mapper/";

/// `[plugins."io.containerd.snapshotter.v1.devmapper"]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Where the records are kept, if not in the plugin's own directory.
    pub(crate) root_path: String,
    /// The thin pool, as it is called in `/dev/mapper`. None: the plugin does not start.
    pub(crate) pool_name: String,
    /// How large the file system of a snapshot may become: `10GB`, `8192MB`, in powers of 1024.
    pub(crate) base_image_size: String,
    /// Whether devices are removed when garbage is collected, not by `remove`.
    pub(crate) async_remove: bool,
    /// Whether the blocks of a removed device are discarded, so that what is below the pool gets them back.
    pub(crate) discard_blocks: bool,
    /// The file system of snapshots: `ext4` if not said, `xfs` or `ext2`. Children have their parent's.
    pub(crate) fs_type: String,
    /// What `mkfs.ext4` and `mkfs.ext2` are told by `-E`.
    pub(crate) fs_options: String,
}

/// A file system that devices are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Ext4,
    Ext2,
    Xfs,
}

/// The table, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) pool: String,
    /// In bytes, a multiple of [`SECTOR`].
    pub(crate) size: u64,
    pub(crate) file_system: FileSystem,
    /// What its mkfs is told beside the device.
    pub(crate) mkfs_options: Vec<String>,
}

// === impl Config ===

impl Config {
    /// What it asks for. The first thing that is wrong is the error.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let pool = self.pool_name.strip_prefix(DEVICES).unwrap_or(&self.pool_name);
        if pool.is_empty() {
            return Err(Error::failed_precondition("devmapper not configured"));
        }
        if pool.contains('/') {
            return Err(Error::invalid_argument(format!(
                "pool_name {:?} is not the name of a device in {DEVICES}",
                self.pool_name
            )));
        }
        if self.base_image_size.is_empty() {
            return Err(Error::invalid_argument("base_image_size is required"));
        }
        let file_system = FileSystem::named(&self.fs_type)?;
        let size = bytes(&self.base_image_size)
            .map(|size| size / SECTOR * SECTOR)
            .filter(|size| *size > 0)
            .ok_or_else(|| {
                Error::invalid_argument(format!(
                    "failed to parse base image size: {:?} (base_image_size is a size like \"10GB\" or \"8192MB\")",
                    self.base_image_size
                ))
            })?;
        Ok(Settings {
            pool: pool.to_owned(),
            size,
            file_system,
            mkfs_options: file_system.mkfs_options(&self.fs_options),
        })
    }
}

// === impl FileSystem ===

impl FileSystem {
    /// The one called so; the usual one for no name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        match name {
            "" | "ext4" => Ok(Self::Ext4),
            "ext2" => Ok(Self::Ext2),
            "xfs" => Ok(Self::Xfs),
            other => Err(Error::invalid_argument(format!(
                "unsupported Filesystem Type: {other:?} (fs_type is one of ext4, xfs, ext2)"
            ))),
        }
    }

    /// What mount(8) calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Ext2 => "ext2",
            Self::Xfs => "xfs",
        }
    }

    /// The program that makes it.
    pub(crate) fn mkfs(self) -> String {
        format!("mkfs.{}", self.name())
    }

    /// Debian's package with that program.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Ext2 => "e2fsprogs",
            Self::Xfs => "xfsprogs",
        }
    }

    /// As containerd has it: `fs_options` is for the kinds of ext only, and what ext4 initialises late (and would then write in every
    /// child again) is initialised now.
    fn mkfs_options(self, configured: &str) -> Vec<String> {
        let extended = match self {
            Self::Ext4 if configured.is_empty() => "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
            Self::Ext4 | Self::Ext2 => configured,
            Self::Xfs => "",
        };
        if extended.is_empty() {
            return Vec::new();
        }
        vec!["-E".to_owned(), extended.to_owned()]
    }
}

/// A size as containerd reads it (go-units' `RAMInBytes`): a number, perhaps with a fraction, and a unit like `g`, `GB` or `GiB`, each the
/// power of 1024.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let power = match unit.trim_start().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * 1024_f64.powi(power);
    (bytes.is_finite() && bytes >= 0.0 && bytes < u64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, expected) in [
            ("8192MB", 8192 << 20),
            ("10GB", 10 << 30),
            ("32KIB", 32 << 10),
            ("32Tb", 32 << 40),
            ("1.5 g", 3 << 29),
            ("512", 512),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for wrong in ["", "GB", "ten", "-1", "1x", "1.2.3", "99999999999P"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_first_thing_wrong_is_said() {
        let mut config = Config::default();
        let wrong = |config: &Config| config.settings().expect_err("refused").message;
        assert_eq!(wrong(&config), "devmapper not configured");
        config.pool_name = "/dev/mapper/thin".to_owned();
        assert_eq!(wrong(&config), "base_image_size is required");
        config.base_image_size = "much".to_owned();
        assert!(wrong(&config).contains("\"much\""));
        config.fs_type = "zfs".to_owned();
        assert!(wrong(&config).contains("unsupported Filesystem Type: \"zfs\""));
        config.fs_type = "xfs".to_owned();
        config.base_image_size = "8GB".to_owned();
        let settings = config.settings().expect("well");
        assert_eq!((settings.pool.as_str(), settings.size), ("thin", 8 << 30));
        assert_eq!(settings.mkfs_options, [""; 0]);
        config.fs_type = String::new();
        assert_eq!(
            config.settings().expect("well").mkfs_options,
            ["-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]
        );
    }
}
