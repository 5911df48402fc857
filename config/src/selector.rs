//! Entries of `disabled_plugins` and `required_plugins`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::version::canonical_uri;

/// Names plugins in `disabled_plugins` and `required_plugins`.
///
/// Two forms, both accepted in every configuration version: a full URI (`io.containerd.snapshotter.v1.overlayfs`,
/// the only form containerd takes from version 2 on) names one plugin; a short id (`overlayfs`, containerd's form in
/// version 1) names every plugin with that id, of whatever type. A URI matches under its old and its new name when
/// containerd renamed the plugin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PluginSelector(String);

impl PluginSelector {
    /// As the operator wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A bare id, without a type?
    pub fn is_short(&self) -> bool {
        !self.0.contains('.')
    }

    /// Could it name a plugin at all: a short id, or `TYPE.vN.ID`?
    pub fn is_well_formed(&self) -> bool {
        if self.is_short() {
            !self.0.is_empty()
        } else {
            plugin_id(&self.0).is_some()
        }
    }

    /// Does it name the plugin with this URI (`type.id`)?
    pub fn matches(&self, uri: &str) -> bool {
        if self.is_short() {
            return plugin_id(uri) == Some(self.as_str());
        }
        canonical_uri(&self.0) == canonical_uri(uri)
    }
}

/// The id of a URI: what follows its type's version component (`.v1.`).
pub(crate) fn plugin_id(uri: &str) -> Option<&str> {
    let mut start = 0;
    for part in uri.split('.') {
        let end = start + part.len();
        let is_version = part
            .strip_prefix('v')
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        if start > 0 && is_version {
            return uri.get(end + 1..).filter(|id| !id.is_empty());
        }
        start = end + 1;
    }
    None
}

impl fmt::Display for PluginSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for PluginSelector {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ids_match_by_id_and_uris_whole() {
        for (selector, uri, expected) in [
            ("overlayfs", "io.containerd.snapshotter.v1.overlayfs", true),
            ("content", "io.containerd.grpc.v1.content", true),
            ("content", "io.containerd.content.v1.content", true),
            ("tent", "io.containerd.content.v1.content", false),
            ("io.containerd.grpc.v1.content", "io.containerd.grpc.v1.content", true),
            (
                "io.containerd.grpc.v1.content",
                "io.containerd.content.v1.content",
                false,
            ),
            (
                "io.containerd.monitor.v1.cgroups",
                "io.containerd.monitor.task.v1.cgroups",
                true,
            ),
            (
                "io.containerd.monitor.container.v1.restart",
                "io.containerd.internal.v1.restart",
                true,
            ),
            ("v1", "io.containerd.snapshotter.v1.overlayfs", false),
        ] {
            assert_eq!(
                PluginSelector::from(selector).matches(uri),
                expected,
                "{selector} {uri}"
            );
        }
    }

    #[test]
    fn an_id_may_hold_dots_and_a_type_alone_is_no_plugin() {
        assert_eq!(plugin_id("io.containerd.snapshotter.v1.a.v2.b"), Some("a.v2.b"));
        assert_eq!(plugin_id("acme.thing.v2.x"), Some("x"));
        assert_eq!(plugin_id("io.containerd.snapshotter.v1"), None);
        assert_eq!(plugin_id("io.containerd.snapshotter.v1."), None);
        assert!(!PluginSelector::from("io.containerd.cri").is_well_formed());
        assert!(!PluginSelector::from("").is_well_formed());
        assert!(PluginSelector::from("cri").is_well_formed());
    }
}
