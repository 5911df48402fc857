//! Where plugins come from. Each source becomes registrations; what comes afterwards does not know the difference.

pub mod dylib;
mod note;
pub mod proxy;
mod trust;

use orlop_plugin::PluginUri;

use crate::host::{Row, Source};
use crate::lifecycle::Loaded;

/// The type under which a file that never became a plugin is listed.
const BROKEN_KIND: &str = "orlop.dynamic_plugin.v1";

/// What loading found.
#[derive(Default)]
pub struct Found {
    /// Registrations.
    pub loaded: Vec<Loaded>,
    /// What could not be loaded, as error rows.
    pub broken: Vec<Row>,
}

// === impl Found ===

impl Found {
    fn refuse(&mut self, uris: &[String], name: &str, source: &Source, reason: &str) {
        tracing::warn!(%source, reason, "refused a plugin");
        let uris: Vec<PluginUri> = uris.iter().filter_map(|uri| uri.parse().ok()).collect();
        if uris.is_empty() {
            self.broken.push(Row::broken(
                PluginUri::new(BROKEN_KIND, name),
                source,
                reason.to_owned(),
            ));
        }
        for uri in uris {
            self.broken.push(Row::broken(uri, source, reason.to_owned()));
        }
    }

    /// Adds what another source found.
    pub fn extend(&mut self, other: Self) {
        self.loaded.extend(other.loaded);
        self.broken.extend(other.broken);
    }
}

/// The built-in plugins.
pub fn builtin() -> Found {
    let loaded = crate::builtins::registrations()
        .into_iter()
        .map(|registration| Loaded {
            registration,
            source: Source::BuiltIn,
            pinned: false,
        })
        .collect();
    Found {
        loaded,
        broken: Vec::new(),
    }
}
