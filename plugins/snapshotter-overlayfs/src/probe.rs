//! What the kernel can do with overlayfs on a file system: found out by mounting, because nothing else is reliable.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// Whether `index=off` is an option: on, it would refuse a lowerdir that another mount uses as its upperdir.
    pub(crate) index: bool,
    /// Whether whiteouts are `user.overlay.*`: the only kind that a user namespace may write.
    pub(crate) user_xattr: bool,
}

/// Mounts an overlay in a directory of its own under `root`. The reason why not, as people would say it.
pub(crate) fn probe(root: &Path) -> Result<Kernel, String> {
    let directory = root.join(format!(".probe-{}", std::process::id()));
    let tried = try_mount(&directory);
    let _ = umount2(&directory.join("merged"), MntFlags::MNT_DETACH);
    let _ = std::fs::remove_dir_all(&directory);
    tried?;
    Ok(Kernel {
        index: Path::new("/sys/module/overlay/parameters/index").exists(),
        user_xattr: in_user_namespace(),
    })
}

fn try_mount(directory: &Path) -> Result<(), String> {
    for name in ["lower1", "lower2", "upper", "work", "merged"] {
        std::fs::create_dir_all(directory.join(name)).map_err(|error| format!("make a directory in it: {error}"))?;
    }
    let path = |name: &str| directory.join(name).display().to_string();
    let mut options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        path("lower2"),
        path("lower1"),
        path("upper"),
        path("work")
    );
    if in_user_namespace() {
        options += ",userxattr";
    }
    mount(
        Some("overlay"),
        &directory.join("merged"),
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(|error| format!("mount an overlay on it: {error}"))
}

/// Whether this process is in a user namespace that is not the machine's first: its map then is not the identity over all ids.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let numbers: Vec<&str> = map.split_whitespace().collect();
    !matches!(numbers[..], ["0", "0", "4294967295"] | [])
}
