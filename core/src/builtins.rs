//! The plugins that are linked into the daemon: the only place of the core that names any.

use std::path::Path;

use orlop_plugin::database::Finding;
use orlop_plugin::{Registration, Result};

/// The registrations of every built-in plugin.
pub fn registrations() -> Vec<Registration> {
    [
        orlop_content_local::registrations,
        orlop_metadata_bolt::registrations,
        orlop_differ_walking::registrations,
        orlop_events::registrations,
        orlop_leases::registrations,
        orlop_services::registrations,
        orlop_streaming::registrations,
        orlop_image_verifier_bindir::registrations,
    ]
    .into_iter()
    .flat_map(|registrations| registrations())
    .collect()
}

/// A database of a built-in plugin, for those who look at it while no daemon runs. Both functions take the plugin's directory.
pub struct Database {
    /// The plugin.
    pub uri: &'static str,
    /// Finds what is wrong, and changes nothing.
    pub check: fn(&Path) -> Result<Vec<Finding>>,
    /// Mends it, and says what it did.
    pub repair: fn(&Path) -> Result<Vec<String>>,
}

/// The databases of the built-in plugins.
pub const DATABASES: [Database; 1] = [Database {
    uri: "io.containerd.metadata.v1.bolt",
    check: orlop_metadata_bolt::check,
    repair: orlop_metadata_bolt::repair,
}];
