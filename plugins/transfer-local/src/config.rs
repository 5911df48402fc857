//! The plugin's table, `[plugins."io.containerd.transfer.v1.local"]`.

use orlop_plugin::registration::host_platform;
use serde::{Deserialize, Serialize};

/// Unpacking has three threads a layer, and disks have their limits too.
const MOST_UNPACKS: usize = 4;

/// What containerd 1.7 prints for this plugin, key by key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where the `hosts.toml` of registries are.
    pub config_path: String,
    /// Layers fetched from registries at a time.
    pub max_concurrent_downloads: u32,
    /// Layers sent to registries at a time.
    pub max_concurrent_uploaded_layers: u32,
    /// Layers of one image unpacked at a time, for snapshotters that can put them together afterwards; 0: one a processor, up to four.
    #[serde(skip_serializing)]
    pub max_concurrent_unpacks: u32,
    /// Which snapshotter and differ unpack which platform.
    pub unpack_config: Vec<UnpackConfig>,
}

/// One way to unpack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnpackConfig {
    /// The differ; empty: whichever knows the layer.
    pub differ: String,
    /// The platform, `linux/amd64`.
    pub platform: String,
    /// The snapshotter.
    pub snapshotter: String,
}

impl Config {
    /// Layers of one image unpacked at a time, at least one.
    pub fn unpacks_at_once(&self) -> usize {
        match self.max_concurrent_unpacks {
            0 => std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(MOST_UNPACKS)),
            configured => configured as usize,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            config_path: String::new(),
            max_concurrent_downloads: 3,
            max_concurrent_uploaded_layers: 3,
            max_concurrent_unpacks: 0,
            unpack_config: vec![UnpackConfig {
                differ: String::new(),
                platform: host_platform(),
                snapshotter: "overlayfs".to_owned(),
            }],
        }
    }
}
