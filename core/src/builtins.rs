//! The plugins that are linked into the daemon: the only place of the core that names any.

use orlop_plugin::Registration;

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
