//! Where an image is unpacked: what the client asked for, with what the configuration says of it.

use std::sync::Arc;

use containerd_client::types::transfer::UnpackConfiguration;
use orlop_plugin::contract::{Applier, Snapshotter};
use orlop_plugin::registration::{host_platform, kind};
use orlop_plugin::{Error, Host, Result};

use crate::config::UnpackConfig;
use crate::oci::Platform;

const DEFAULT_SNAPSHOTTER: &str = "overlayfs";

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
) -> Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
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
        let applier = match entry
            .map(|entry| entry.differ.as_str())
            .filter(|differ| !differ.is_empty())
        {
            Some(differ) => named_differ(host, differ).await?,
            None => host.applier()?,
        };
        targets.push(Target {
            platform,
            name: name.to_owned(),
            snapshotter: host.snapshotter(name)?,
            applier,
        });
    }
    Ok(targets)
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
