//! Where a layer goes: which directory mounts stand for, and how names are taken away there.

use std::path::{Path, PathBuf};

use orlop_plugin::Result;
use orlop_plugin::contract::Mount;
use orlop_plugin::layer::{ApplyOptions, Whiteouts, in_user_namespace};
use orlop_plugin::mount::{Access, TempMount};

/// On an overlay with nothing but an upper directory: it will stand on layers that are not there yet. No kernel sees this mount; options of
/// this prefix are no file system's, as in fstab.
const ALONE: &str = "x-orlop.alone";

/// Where a layer goes.
pub(crate) enum Target {
    /// An overlay's upper directory, and the layers below it, the topmost first: nothing is mounted, whiteouts are overlayfs' own.
    Upper {
        directory: PathBuf,
        lowers: Vec<PathBuf>,
        userxattr: bool,
        /// The layers below are not known yet.
        alone: bool,
    },
    /// A directory that shows all layers.
    Merged(TempMount),
}

// === impl Target ===

impl Target {
    /// The place that `mounts` stand for.
    pub(crate) fn of(mounts: &[Mount]) -> Result<Self> {
        match upper_directory(mounts, in_user_namespace()) {
            Some(upper) => Ok(upper),
            None => TempMount::direct_or_new(mounts, Access::Write).map(Self::Merged),
        }
    }

    /// The directory that the layer's paths start at.
    pub(crate) fn directory(&self) -> &Path {
        match self {
            Self::Upper { directory, .. } => directory,
            Self::Merged(mount) => mount.path(),
        }
    }

    /// How a layer is applied here.
    pub(crate) fn options(&self) -> ApplyOptions {
        match self {
            Self::Upper {
                lowers,
                userxattr,
                alone,
                ..
            } => ApplyOptions {
                whiteouts: Whiteouts::Overlay { userxattr: *userxattr },
                lowers: lowers.clone(),
                alone: *alone,
                ..ApplyOptions::default()
            },
            Self::Merged(_) => ApplyOptions::default(),
        }
    }

    /// Ends the mount, if there is one, and says if that failed.
    pub(crate) fn close(self) -> Result<()> {
        match self {
            Self::Upper { .. } => Ok(()),
            Self::Merged(mount) => mount.unmount(),
        }
    }
}

/// The upper directory, when `mounts` are one overlay whose files can be put down without mounting it.
fn upper_directory(mounts: &[Mount], user_namespace: bool) -> Option<Target> {
    let [only] = mounts else { return None };
    if only.kind != "overlay" {
        return None;
    }
    let userxattr = only.options.iter().any(|option| option == "userxattr");
    // `trusted.*` cannot be set from within a user namespace.
    if user_namespace && !userxattr {
        return None;
    }
    let option = |prefix| only.options.iter().find_map(|option| option.strip_prefix(prefix));
    let lower = option("lowerdir=").unwrap_or_default();
    // Escaped colons, and layers for data only: leave those to the kernel.
    if lower.contains('\\') || lower.contains("::") {
        return None;
    }
    Some(Target::Upper {
        directory: PathBuf::from(option("upperdir=")?),
        lowers: lower
            .split(':')
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .collect(),
        userxattr,
        alone: only.options.iter().any(|option| option == ALONE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &str) -> Vec<Mount> {
        vec![Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: options.split(',').map(str::to_owned).collect(),
        }]
    }

    #[test]
    fn an_upper_directory_is_used_as_it_is() {
        let Some(Target::Upper {
            directory,
            lowers,
            userxattr,
            alone: false,
        }) = upper_directory(&overlay("index=off,workdir=/w,upperdir=/u,lowerdir=/a:/b"), false)
        else {
            panic!("an upper directory");
        };
        assert_eq!(directory, Path::new("/u"));
        assert_eq!(lowers, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert!(!userxattr);
    }

    #[test]
    fn what_cannot_be_done_by_hand_is_mounted() {
        for (options, user_namespace) in [
            ("lowerdir=/a:/b", false),
            (r"upperdir=/u,workdir=/w,lowerdir=/a\:b", false),
            ("upperdir=/u,workdir=/w,lowerdir=/a", true),
        ] {
            assert!(
                upper_directory(&overlay(options), user_namespace).is_none(),
                "{options}"
            );
        }
        let rootless = overlay("userxattr,upperdir=/u,workdir=/w,lowerdir=/a");
        assert!(upper_directory(&rootless, true).is_some());
    }
}
