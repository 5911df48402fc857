//! `[plugins."io.containerd.snapshotter.v1.overlayfs"]`.

use serde::{Deserialize, Serialize};

/// containerd's settings. Of the defaults only those are printed that containerd 1.7 prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Where the snapshots are; empty for the plugin's own directory.
    pub(crate) root_path: String,
    /// Whether the label `containerd.io/snapshot/overlay.upperdir` tells where a snapshot's layer is.
    pub(crate) upperdir_label: bool,
    /// Whether a removed snapshot's directory goes before the call returns, and not with the next collection of garbage.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) sync_remove: bool,
    /// Mount options beside those of the layers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) mount_options: Vec<String>,
}
