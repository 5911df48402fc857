//! Where an image is unpacked: what the client asked for, with what the configuration says of it.

use std::sync::Arc;

use containerd_client::types::transfer::UnpackConfiguration;
use orlop_plugin::contract::{Applier, REBASE, Snapshotter};
use orlop_plugin::registration::{host_platform, kind};
use orlop_plugin::{Error, Host, Result};

use crate::config::UnpackConfig;
use crate::oci::Platform;

const DEFAULT_SNAPSHOTTER: &str = "overlayfs";
/// The differ that says when a layer cannot be applied by itself.
const WALKING: &str = "walking";

/// A snapshotter and a differ for the images of a platform.
pub struct Target {
    /// The platform.
    pub platform: Platform,
    /// The snapshotter's name.
    pub name: String,
    /// The snapshotter.
    pub snapshotter: Arc<dyn Snapshotter>,
    /// What applies the layers.
    pub applier: Arc<dyn Applier>,
    /// Layers can be unpacked without their parents, and committed onto them: by the snapshotter, and by an applier that knows what it
    /// cannot do so.
    pub rebase: bool,
}

// === impl Target ===

impl Target {
    /// Whether images of `platform` are unpacked here. Configurations seldom tell the variant, so it counts only when they do.
    pub fn serves(&self, platform: &Platform) -> bool {
        let mut platform = platform.clone();
        if platform.variant.is_empty() {
            platform.variant.clone_from(&self.platform.variant);
        }
        self.platform.matches(&platform)
    }
}

/// The targets for `requested`. A snapshotter that the client names needs no `unpack_config` of its own; one that the daemon does not
/// have is `NotFound`.
pub async fn targets(
    host: &Host,
    configured: &[UnpackConfig],
    requested: &[UnpackConfiguration],
) -> Result<Vec<Arc<Target>>> {
    let mut targets: Vec<Arc<Target>> = Vec::new();
    for request in requested {
        let platform = match &request.platform {
            Some(platform) => Platform::from(platform).normalized(),
            None => host_platform().parse()?,
        };
        let entry = entry_for(configured, &platform, &request.snapshotter);
        let name = match (request.snapshotter.as_str(), entry) {
            ("", Some(entry)) => entry.snapshotter.as_str(),
            ("", None) => DEFAULT_SNAPSHOTTER,
            (name, _) => name,
        };
        if targets
            .iter()
            .any(|target| target.name == name && target.platform.matches(&platform))
        {
            continue;
        }
        let differ = entry.map_or("", |entry| entry.differ.as_str());
        let applier = match differ {
            "" => host.applier()?,
            named => named_differ(host, named).await?,
        };
        let rebase = matches!(differ, "" | WALKING) && can_rebase(host, name).await?;
        targets.push(Arc::new(Target {
            platform,
            name: name.to_owned(),
            snapshotter: host.snapshotter(name)?,
            applier,
            rebase,
        }));
    }
    Ok(targets)
}

/// Whether the snapshotter says that it has `commit_onto`.
async fn can_rebase(host: &Host, name: &str) -> Result<bool> {
    let snapshotters = host.plugins(kind::SNAPSHOTTER).await?;
    let plugin = snapshotters.iter().find(|plugin| plugin.uri.id == name);
    Ok(plugin.is_some_and(|plugin| plugin.capabilities.iter().any(|capability| capability == REBASE)))
}

/// The configuration's entry for a request: that of its snapshotter; without one, the default's or else the first of the platform.
fn entry_for<'a>(configured: &'a [UnpackConfig], platform: &Platform, snapshotter: &str) -> Option<&'a UnpackConfig> {
    let wanted = if snapshotter.is_empty() {
        DEFAULT_SNAPSHOTTER
    } else {
        snapshotter
    };
    let mut fitting = configured.iter().filter(|entry| {
        entry
            .platform
            .parse::<Platform>()
            .is_ok_and(|configured| configured.matches(platform))
    });
    let best = fitting.clone().find(|entry| entry.snapshotter == wanted);
    best.or_else(|| fitting.next().filter(|_| snapshotter.is_empty()))
}

async fn named_differ(host: &Host, name: &str) -> Result<Arc<dyn Applier>> {
    let differs = host.plugins(kind::DIFFER).await?;
    let differ = differs
        .into_iter()
        .find(|plugin| plugin.uri.id == name)
        .and_then(|plugin| plugin.contracts.differ());
    match differ {
        Some(differ) => Ok(differ),
        None => Err(Error::not_found(format!(
            "the differ {name:?} that `unpack_config` names is not running: see `ctr plugins ls`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_of_the_snapshotter_wins() {
        let entry = |platform: &str, snapshotter: &str| UnpackConfig {
            platform: platform.to_owned(),
            snapshotter: snapshotter.to_owned(),
            ..UnpackConfig::default()
        };
        let configured = [
            entry("linux/arm64", "native"),
            entry("linux/amd64", "native"),
            entry("linux/amd64", "overlayfs"),
        ];
        let amd64: Platform = "linux/amd64".parse().expect("valid");
        let find =
            |count: usize, name: &str| entry_for(&configured[..count], &amd64, name).map(|e| e.snapshotter.as_str());
        assert_eq!(find(3, ""), Some("overlayfs"));
        assert_eq!(find(2, ""), Some("native"));
        assert_eq!(find(1, ""), None);
        assert_eq!(find(3, "native"), Some("native"));
        assert_eq!(find(3, "btrfs"), None);
    }
}
