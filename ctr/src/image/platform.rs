//! Platforms (`linux/arm64/v8`), and which images run on which.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Operating system, architecture and the latter's variant, as an image index has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Architecture by Go's names.
    #[serde(default)]
    pub architecture: String,
    /// Operating system by Go's names.
    #[serde(default)]
    pub os: String,
    /// Version of the operating system, for Windows.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features of the operating system that are needed.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// A platform as it is written somewhere, in its normal form.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let (architecture, variant) = normal_architecture(&architecture.to_ascii_lowercase(), variant);
        Self {
            architecture,
            os,
            variant,
            ..Self::default()
        }
    }

    /// This machine's.
    pub fn host() -> Self {
        Self::new(
            "linux",
            std::env::consts::ARCH,
            if cfg!(target_arch = "arm") { "v7" } else { "" },
        )
    }

    /// Reads `OS/ARCH[/VARIANT]`, `ARCH` (of Linux) or `OS` (of this machine's architecture).
    pub fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let sane = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        ensure!(
            parts.len() <= 3 && parts.iter().all(sane),
            "invalid platform {text:?}: expected OS/ARCH or OS/ARCH/VARIANT, like linux/arm64"
        );
        let known_os = |os: &str| {
            matches!(
                os,
                "linux" | "windows" | "darwin" | "macos" | "freebsd" | "openbsd" | "netbsd"
            )
        };
        Ok(match parts[..] {
            [os] if known_os(os) => Self {
                os: Self::new(os, "", "").os,
                ..Self::host()
            },
            [architecture] => Self::new("linux", architecture, ""),
            [os, architecture] => Self::new(os, architecture, ""),
            _ => Self::new(parts[0], parts[1], parts[2]),
        })
    }

    /// The same in its normal form.
    pub fn normal(&self) -> Self {
        let normal = Self::new(&self.os, &self.architecture, &self.variant);
        Self {
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            ..normal
        }
    }

    /// As the API carries it.
    pub fn to_api(&self) -> containerd_client::types::Platform {
        containerd_client::types::Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
            os_version: self.os_version.clone(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return f.write_str("unknown");
        }
        f.write_str(&self.os)?;
        for part in [&self.architecture, &self.variant] {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}

fn normal_architecture(architecture: &str, variant: &str) -> (String, String) {
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match architecture {
        "i386" => ("386", String::new()),
        "x86_64" | "x86-64" | "amd64" => ("amd64", if variant == "v1" { String::new() } else { variant }),
        "aarch64" | "arm64" => (
            "arm64",
            if matches!(variant.as_str(), "8" | "v8") {
                String::new()
            } else {
                variant
            },
        ),
        "armhf" => ("arm", "v7".to_owned()),
        "armel" => ("arm", "v6".to_owned()),
        "arm" => {
            let variant = match variant.as_str() {
                "" | "7" => "v7".to_owned(),
                "5" | "6" | "8" => format!("v{variant}"),
                _ => variant,
            };
            ("arm", variant)
        }
        "riscv64gc" => ("riscv64", variant),
        "powerpc64le" | "powerpc64" => ("ppc64le", variant),
        other => (other, variant),
    };
    (architecture.to_owned(), variant)
}

/// Which platforms are wanted, the better ones first.
#[derive(Debug, Clone)]
pub enum Matcher {
    /// Every platform.
    All,
    /// These, in order of preference.
    AnyOf(Vec<Platform>),
}

impl Matcher {
    /// What runs on `platform`: itself, and what its processors run, too.
    pub fn only(platform: &Platform) -> Self {
        let platform = platform.normal();
        let with = |architecture: &str, variant: &str| Platform {
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..platform.clone()
        };
        let level = platform.variant.strip_prefix('v').and_then(|v| v.parse::<u32>().ok());
        let mut vector = vec![platform.clone()];
        match platform.architecture.as_str() {
            "amd64" => {
                vector.extend((2..level.unwrap_or(1)).rev().map(|v| with("amd64", &format!("v{v}"))));
                if !platform.variant.is_empty() {
                    vector.push(with("amd64", ""));
                }
                vector.push(with("386", ""));
            }
            "arm" => vector.extend((5..level.unwrap_or(5)).rev().map(|v| with("arm", &format!("v{v}")))),
            "arm64" => {
                if !platform.variant.is_empty() {
                    vector.push(with("arm64", ""));
                }
                vector.extend((5..=8).rev().map(|v| with("arm", &format!("v{v}"))));
            }
            _ => {}
        }
        Self::AnyOf(vector)
    }

    /// What this machine runs.
    pub fn host() -> Self {
        Self::only(&Platform::host())
    }

    /// Exactly this one.
    pub fn strict(platform: &Platform) -> Self {
        Self::AnyOf(vec![platform.normal()])
    }

    /// How good `platform` is, 0 being the best; `None` when it does not match.
    pub fn rank(&self, platform: &Platform) -> Option<usize> {
        match self {
            Self::All => Some(0),
            Self::AnyOf(vector) => {
                let found = platform.normal();
                vector.iter().position(|wanted| {
                    (&wanted.os, &wanted.architecture, &wanted.variant)
                        == (&found.os, &found.architecture, &found.variant)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_one_normal_form() {
        let cases = [
            ("linux/x86_64", "linux/amd64"),
            ("aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("macos/arm64", "darwin/arm64"),
        ];
        for (text, normal) in cases {
            assert_eq!(Platform::parse(text).unwrap().to_string(), normal, "{text}");
        }
        for bad in ["", "linux/", "a/b/c/d", "linux/am d"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_machine_runs_its_own_and_older_architectures() {
        let rank = |wanted: &str, found: &str| {
            Matcher::only(&Platform::parse(wanted).unwrap()).rank(&Platform::parse(found).unwrap())
        };
        assert_eq!(rank("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/386"), Some(1));
        assert_eq!(rank("linux/amd64", "linux/arm64"), None);
        assert_eq!(rank("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert!(rank("linux/arm64", "linux/arm/v7").is_some());
        let strict = Matcher::strict(&Platform::parse("linux/amd64").unwrap());
        assert_eq!(strict.rank(&Platform::parse("linux/386").unwrap()), None);
    }
}
