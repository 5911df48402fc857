//! Whether this kernel can lay overlays over this file system, found out by doing it.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use orlop_plugin::mount::maps_ids;
use orlop_plugin::snapshots::tells_types;
use orlop_plugin::{Error, Result};

/// A parameter of the overlay module: where it is not, `index=off` would be an unknown option.
const INDEX_PARAMETER: &str = "/sys/module/overlay/parameters/index";
/// The uid map of the first user namespace: everything is itself.
const WHOLE_MAP: [&str; 3] = ["0", "0", "4294967295"];

/// What overlay mounts need here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Support {
    /// `index=off`: layers are lower directories of many overlays at a time.
    pub(crate) index_off: bool,
    /// `userxattr`: a user namespace may not use `trusted.overlay.*`.
    pub(crate) userxattr: bool,
    /// Layers can be mounted with the ids of a container (`remap-ids`).
    pub(crate) maps_ids: bool,
}

/// What was found.
pub(crate) enum Answer {
    /// It works, so.
    Supported(Support),
    /// It does not, for this reason.
    Unsupported(String),
}

/// Mounts an overlay with two lower directories under `root` and takes it away again. Blocks.
pub(crate) fn probe(root: &Path) -> Result<Answer> {
    let here = root.join("probe");
    clear(&here)?;
    for directory in ["", "lower1", "lower2", "upper", "work", "merged"] {
        let directory = here.join(directory);
        DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|error| Error::io(format!("make {} to try overlayfs", directory.display()), &error))?;
    }
    let answer = try_in(root, &here);
    clear(&here)?;
    answer
}

fn try_in(root: &Path, here: &Path) -> Result<Answer> {
    if !tells_types(here)? {
        return Ok(Answer::Unsupported(format!(
            "{} is on a file system that does not tell the types of directory entries (d_type); if it is xfs, make it anew with ftype=1",
            root.display()
        )));
    }
    let mut support = Support {
        userxattr: in_user_namespace() && !on_tmpfs(root)? && overlay(here, "userxattr,").is_ok(),
        index_off: false,
        maps_ids: maps_ids(here),
    };
    if !support.userxattr
        && let Err(error) = overlay(here, "")
    {
        return Ok(Answer::Unsupported(format!(
            "overlayfs does not work on {}: {error}; is the overlay module there, and does the file system support it?",
            root.display()
        )));
    }
    // Only now: the first mount loads the module.
    support.index_off = Path::new(INDEX_PARAMETER).exists();
    Ok(Answer::Supported(support))
}

fn overlay(here: &Path, options: &str) -> nix::Result<()> {
    // Whole paths, so that a root with a comma or a colon in it fails here and not at the first container.
    let path = |name: &str| here.join(name).display().to_string();
    let data = format!(
        "{options}lowerdir={}:{},upperdir={},workdir={}",
        path("lower2"),
        path("lower1"),
        path("upper"),
        path("work")
    );
    let merged = here.join("merged");
    mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        MsFlags::empty(),
        Some(data.as_str()),
    )?;
    umount2(&merged, MntFlags::MNT_DETACH)
}

fn in_user_namespace() -> bool {
    // Without /proc/self/uid_map the kernel has no user namespaces.
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.split_whitespace().eq(WHOLE_MAP))
}

fn on_tmpfs(root: &Path) -> Result<bool> {
    let status = statfs(root).map_err(|error| Error::io(format!("statfs {}", root.display()), &error.into()))?;
    Ok(status.filesystem_type() == TMPFS_MAGIC)
}

/// Removes what a probe left, this one or one that was interrupted.
fn clear(here: &Path) -> Result<()> {
    // Mostly nothing is mounted there.
    let _ = umount2(&here.join("merged"), MntFlags::MNT_DETACH);
    match std::fs::remove_dir_all(here) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", here.display()), &error))
        }
        _ => Ok(()),
    }
}
