//! The directory that mounts stand for: the upper directory of an overlay, the source of a bind mount, or a temporary mount point.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use orlop_plugin::contract::Mount;
use orlop_plugin::{Error, Result};

/// A directory to unpack into, or to read.
pub(crate) struct Target {
    directory: PathBuf,
    /// Below an upper directory: the layers it lies on, the topmost first. Whiteouts are overlayfs' own then.
    pub(crate) lower: Option<Vec<PathBuf>>,
    /// Unmounted, and removed, in the end.
    mounted: Option<tempfile::TempDir>,
}

// === impl Target ===

impl Target {
    /// Where a layer goes that is applied to `mounts`.
    pub(crate) fn of(mounts: &[Mount]) -> Result<Self> {
        if let [only] = mounts {
            if only.kind == "overlay" && !in_user_namespace() {
                let option = |prefix| only.options.iter().find_map(|option| option.strip_prefix(prefix));
                // Nothing is mounted to unpack a layer: it goes straight to where overlayfs would put it.
                if let Some(upper) = option("upperdir=") {
                    let lower = option("lowerdir=").unwrap_or_default();
                    let lower = lower
                        .split(':')
                        .filter(|path| !path.is_empty())
                        .map(PathBuf::from)
                        .collect();
                    return Ok(Self {
                        directory: PathBuf::from(upper),
                        lower: Some(lower),
                        mounted: None,
                    });
                }
            }
            if is_bind(only) && !only.options.iter().any(|option| option == "ro") {
                return Ok(Self {
                    directory: PathBuf::from(&only.source),
                    lower: None,
                    mounted: None,
                });
            }
        }
        Self::mount(mounts, false)
    }

    /// `mounts`, to be read.
    pub(crate) fn read_only(mounts: &[Mount]) -> Result<Self> {
        match mounts {
            [only] if is_bind(only) => Ok(Self {
                directory: PathBuf::from(&only.source),
                lower: None,
                mounted: None,
            }),
            mounts => Self::mount(mounts, true),
        }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// Writes everything on the directory's file system to its disk.
    pub(crate) fn sync(&self) -> Result<()> {
        let doing =
            |error: &std::io::Error| Error::io(format!("sync the file system of {}", self.directory.display()), error);
        let directory = std::fs::File::open(&self.directory).map_err(|error| doing(&error))?;
        rustix::fs::syncfs(&directory).map_err(|error| doing(&error.into()))
    }

    fn mount(mounts: &[Mount], read_only: bool) -> Result<Self> {
        let point = tempfile::Builder::new()
            .prefix("orlop-mount")
            .tempdir()
            .map_err(|error| Error::io("make a temporary mount point", &error))?;
        // From here on, whatever is mounted is unmounted again.
        let target = Self {
            directory: point.path().to_owned(),
            lower: None,
            mounted: Some(point),
        };
        for one in mounts {
            mount_one(
                one,
                &target.directory.join(one.target.trim_start_matches('/')),
                read_only,
            )?;
        }
        Ok(target)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.mounted.is_some() {
            // As often as something was mounted there.
            while umount2(&self.directory, MntFlags::MNT_DETACH).is_ok() {}
        }
    }
}

fn is_bind(mount: &Mount) -> bool {
    mount.kind == "bind" || mount.options.iter().any(|option| option == "bind" || option == "rbind")
}

/// What fstab words mean to `mount(2)`; every other word is the file system's own.
fn flag(option: &str) -> Option<MsFlags> {
    Some(match option {
        "ro" => MsFlags::MS_RDONLY,
        "nosuid" => MsFlags::MS_NOSUID,
        "nodev" => MsFlags::MS_NODEV,
        "noexec" => MsFlags::MS_NOEXEC,
        "noatime" => MsFlags::MS_NOATIME,
        "relatime" => MsFlags::MS_RELATIME,
        "sync" => MsFlags::MS_SYNCHRONOUS,
        "bind" => MsFlags::MS_BIND,
        "rbind" => MsFlags::MS_BIND | MsFlags::MS_REC,
        "rw" | "defaults" | "suid" | "dev" | "exec" | "atime" | "async" => MsFlags::empty(),
        _ => return None,
    })
}

fn mount_one(what: &Mount, point: &Path, read_only: bool) -> Result<()> {
    let doing = || format!("mount {} {} for the differ", what.kind, what.source);
    if what.options.iter().any(|option| option == "loop") {
        return Err(Error::unimplemented(format!(
            "{}: loop devices are not supported here",
            doing()
        )));
    }
    let mut flags = if read_only {
        MsFlags::MS_RDONLY
    } else {
        MsFlags::empty()
    };
    let mut data = Vec::new();
    for option in &what.options {
        match flag(option) {
            Some(flag) => flags |= flag,
            // To read an overlay its upper directory is not written.
            None if read_only && option.starts_with("workdir=") => {}
            None if read_only && option.starts_with("upperdir=") => {}
            None => data.push(option.clone()),
        }
    }
    if read_only && let Some(upper) = what.options.iter().find_map(|option| option.strip_prefix("upperdir=")) {
        for option in &mut data {
            if let Some(lower) = option.strip_prefix("lowerdir=") {
                *option = format!("lowerdir={upper}:{lower}");
            }
        }
    }
    let data = data.join(",");
    let failed = |error: nix::Error| Error::io(doing(), &error.into());
    mount(
        Some(what.source.as_str()),
        point,
        Some(what.kind.as_str()),
        flags,
        Some(data.as_str()),
    )
    .map_err(failed)?;
    if flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
        // The kernel takes `ro` of a bind mount in a second step only.
        mount(
            None::<&str>,
            point,
            None::<&str>,
            flags | MsFlags::MS_REMOUNT,
            None::<&str>,
        )
        .map_err(failed)?;
    }
    Ok(())
}

/// In a user namespace overlayfs' whiteouts cannot be made by hand.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let numbers: Vec<&str> = map.split_whitespace().collect();
    !matches!(numbers[..], ["0", "0", "4294967295"] | [])
}
