//! Platforms: how they are written, and which of them an image must be for to be wanted.

use std::fmt;
use std::str::FromStr;

use containerd_client::types;
use orlop_plugin::Error;
use serde::{Deserialize, Serialize};

/// What an image runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, …
    #[serde(default)]
    pub architecture: String,
    /// `linux`, …
    #[serde(default)]
    pub os: String,
    /// The version of Windows.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Required features of Windows.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "super::descriptor::null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// `v7`, …
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

// === impl Platform ===

impl Platform {
    /// The one way to write it, as containerd normalises (`platforms/database.go`).
    pub fn normalized(&self) -> Self {
        let os = match self.os.to_lowercase().as_str() {
            "" => "linux".to_owned(),
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let (architecture, variant) = (self.architecture.to_lowercase(), self.variant.to_lowercase());
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386", _) => ("386", String::new()),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", String::new()),
            ("x86_64" | "x86-64", _) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", String::new()),
            ("aarch64", _) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7".to_owned()),
            ("armel", _) => ("arm", "v6".to_owned()),
            ("arm", "5" | "6" | "8") => ("arm", format!("v{variant}")),
            (other, _) => (other, variant),
        };
        Self {
            architecture: architecture.to_owned(),
            os,
            variant,
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
        }
    }

    /// Whether both are the same, however they are written.
    pub fn matches(&self, other: &Self) -> bool {
        let (a, b) = (self.normalized(), other.normalized());
        a.os == b.os && a.architecture == b.architecture && a.variant == b.variant
    }
}

impl From<&types::Platform> for Platform {
    fn from(platform: &types::Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            os_features: Vec::new(),
            variant: platform.variant.clone(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [os, architecture, variant @ ..] if variant.len() < 2 && !parts.iter().any(|part| part.is_empty()) => {
                Ok(Self {
                    os: (*os).to_owned(),
                    architecture: (*architecture).to_owned(),
                    variant: variant.first().copied().unwrap_or_default().to_owned(),
                    ..Self::default()
                }
                .normalized())
            }
            _ => Err(Error::invalid_argument(format!(
                "{text:?} is no platform: it must read OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64"
            ))),
        }
    }
}

/// The platforms somebody wants, the best first. None named: all.
#[derive(Clone, Debug, Default)]
pub struct PlatformFilter(Vec<Platform>);

// === impl PlatformFilter ===

impl PlatformFilter {
    /// These, the best first.
    pub fn new(platforms: Vec<Platform>) -> Self {
        Self(platforms)
    }

    /// Whether it lets everything pass.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `platform` is wanted. What does not say its platform is.
    pub fn accepts(&self, platform: Option<&Platform>) -> bool {
        self.is_all() || platform.is_none_or(|platform| self.0.iter().any(|wanted| wanted.matches(platform)))
    }

    /// A key to sort by: the best first, what does not say its platform last.
    pub fn rank(&self, platform: Option<&Platform>) -> usize {
        platform.map_or(usize::MAX, |platform| {
            self.0
                .iter()
                .position(|wanted| wanted.matches(platform))
                .unwrap_or(self.0.len())
        })
    }
}

impl fmt::Display for PlatformFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, platform) in self.0.iter().enumerate() {
            write!(f, "{}{platform}", if nth == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().expect("valid")
    }

    #[test]
    fn platforms_have_one_spelling() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/amd64/v3", "linux/amd64/v3"),
        ] {
            assert_eq!(platform(text).to_string(), normal);
        }
        for bad in ["", "linux", "linux/", "a/b/c/d"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn filters_accept_and_rank() {
        let filter = PlatformFilter::new(vec![platform("linux/arm64"), platform("linux/amd64")]);
        assert!(filter.accepts(Some(&platform("linux/amd64"))) && filter.accepts(None));
        assert!(!filter.accepts(Some(&platform("linux/s390x"))));
        assert!(filter.rank(Some(&platform("linux/arm64/v8"))) < filter.rank(Some(&platform("linux/amd64"))));
        assert!(filter.rank(Some(&platform("linux/amd64"))) < filter.rank(None));
        assert!(PlatformFilter::default().accepts(Some(&platform("plan9/mips"))));
    }
}
