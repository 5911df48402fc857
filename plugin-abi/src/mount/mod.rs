//! Performing mounts: what containerd calls a [`Mount`] turned into a mounted directory, and undone.
//!
//! [`mount_all`] and [`unmount_all`] for mounts that stay, [`TempMount`] for those that last as long as a piece of work, and
//! [`direct_directory`] for those that need not be performed at all. Everything here blocks and needs `CAP_SYS_ADMIN`.
//!
//! What lives here: options as in fstab (`options`), long overlays (`overlay`), other owners (`idmapped`), images on loop devices
//! (`loop_device`).
//! What does not: which mounts a snapshot has.

mod idmapped;
pub(crate) mod loop_device;
mod options;
mod overlay;
mod temp;

use idmapped::{MappedLayers, Mapping};
pub use options::{MountOptions, read_only};
pub use temp::{Access, TempMount, direct_directory};

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, umount2};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

use crate::contract::Mount;
use crate::{Error, Result};

/// How often an unmount of something busy is tried again, and how long apart: as containerd does, which has no other way out.
const BUSY_RETRIES: u32 = 50;
/// The same where the mount can be taken out of the tree while it is busy.
const BUSY_RETRIES_BEFORE_LAZY: u32 = 4;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Performs `mounts` at `target`, in order; each at its own path inside it. What was mounted before one that fails stays.
pub fn mount_all(mounts: &[Mount], target: &Path) -> Result<()> {
    mounts.iter().try_for_each(|mount| mount_one(mount, target))
}

/// Performs one mount at its path inside `target`.
pub fn mount_one(mount: &Mount, target: &Path) -> Result<()> {
    let doing = || format!("mount {} {:?} at {}", mount.kind, mount.source, target.display());
    let point = mount_point(target, &mount.target).map_err(|error| Error::io(doing(), &error))?;
    perform(mount, &point).map_err(|error| {
        let doing = format!("{} with [{}]", doing(), mount.options.join(","));
        let error = match error.downcast::<Error>() {
            Ok(ours) => ours.context(doing),
            Err(systems) => Error::io(doing, &systems),
        };
        // `Unimplemented` would make callers ask somebody else; an unknown file system is a fact of this machine.
        if error.code == crate::contract::Code::Unimplemented {
            Error::failed_precondition(error.message)
        } else {
            error
        }
    })
}

/// Undoes `mounts` at `target`, in reverse order, with everything stacked on their mount points.
pub fn unmount_all(mounts: &[Mount], target: &Path, lazy: Lazy) -> Result<()> {
    for (index, mount) in mounts.iter().enumerate().rev() {
        let result = mount_point(target, &mount.target)
            .map_err(|error| Error::io(format!("find the mount point {}", target.display()), &error))
            .and_then(|point| unmount(&point, lazy));
        // A mount inside another one may have gone with it; the outermost must be gone.
        if index == 0 {
            result?;
        }
    }
    Ok(())
}

/// What to do about a mount that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lazy {
    /// Wait a little, then fail.
    Never,
    /// Wait a little, then take it out of the tree at once; it ends when its last user does (`MNT_DETACH`).
    WhenBusy,
    /// Take it out of the tree at once.
    Always,
}

/// Unmounts everything mounted at `point`. Nothing mounted, or no such path, is fine.
pub fn unmount(point: &Path, lazy: Lazy) -> Result<()> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    if lazy == Lazy::Always {
        flags |= MntFlags::MNT_DETACH;
    }
    let retries = match lazy {
        Lazy::WhenBusy => BUSY_RETRIES_BEFORE_LAZY,
        Lazy::Never | Lazy::Always => BUSY_RETRIES,
    };
    let mut busy = 0;
    loop {
        match umount2(point, flags) {
            // There may be one more underneath.
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(nix::Error::EBUSY) if busy < retries => {
                busy += 1;
                sleep(BUSY_PAUSE);
            }
            Err(nix::Error::EBUSY) if lazy == Lazy::WhenBusy && !flags.contains(MntFlags::MNT_DETACH) => {
                flags |= MntFlags::MNT_DETACH;
            }
            Err(error) => return Err(Error::io(format!("unmount {}", point.display()), &error.into())),
        }
    }
}

/// The directory or file `inside` of `target`; symlinks in it stop at `target`.
fn mount_point(target: &Path, inside: &str) -> io::Result<PathBuf> {
    let inside = inside.trim_matches('/');
    if inside.is_empty() {
        return Ok(target.to_owned());
    }
    let root = open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let point = openat2(&root, inside, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    // By name: a descriptor of a mount point keeps it busy.
    std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&point)))
}

fn perform(what: &Mount, point: &Path) -> io::Result<()> {
    for helper in ["mount.fuse3", "mount.fuse"] {
        if let Some(kind) = what.kind.strip_prefix(&format!("{}.", &helper["mount.".len()..])) {
            return with_helper(helper, kind, what, point);
        }
    }
    let mut options = MountOptions::parse(&what.options);
    let mapping = Mapping::of(&options)?;
    // Until the overlay is mounted.
    let mut layers = None;
    if let Some(mapping) = &mapping
        && what.kind == "overlay"
    {
        let mapped = MappedLayers::new(&options.data, mapping)?;
        options.data.clone_from(&mapped.data);
        layers = Some(mapped);
    }
    // A remount that changes nothing but flags is done below.
    if !options.flags.contains(MsFlags::MS_REMOUNT) || !options.data.is_empty() {
        if what.kind == "overlay" && overlay::is_long(&options) {
            overlay::mount_long(what, &options, point)?;
        } else if options.loop_device {
            // Held open until it is mounted: it frees itself with its last user.
            let device = loop_device::attach(Path::new(&what.source), options.flags.contains(MsFlags::MS_RDONLY))?;
            classic(
                &device.path.to_string_lossy(),
                point,
                &what.kind,
                options.flags,
                &options.data,
            )?;
        } else {
            classic(&what.source, point, &what.kind, options.flags, &options.data)?;
        }
    }
    if !options.propagation.is_empty() {
        nix::mount::mount(None::<&str>, point, None::<&str>, options.propagation, None::<&str>)?;
    }
    // The kernel takes `ro` of a bind mount in a second step only.
    if options.flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
        let flags = (options.flags - MsFlags::MS_REC) | MsFlags::MS_REMOUNT;
        let remount = |flags| nix::mount::mount(None::<&str>, point, None::<&str>, flags, None::<&str>);
        match remount(flags) {
            // In a user namespace, flags that the source's mount has are locked: they must be said again.
            Err(nix::Error::EPERM) => remount(flags | locked_flags(point)?)?,
            result => result?,
        }
    }
    match mapping {
        Some(mapping) if layers.is_none() => mapping.apply(point),
        _ => Ok(()),
    }
}

/// Whether mounts on the file system of `directory` can show other owners than those on disk, and overlays of them (Linux 5.19), as the
/// options `uidmap=` and `gidmap=` ask for. Blocks.
pub fn maps_ids(directory: &Path) -> bool {
    const OVERLAYS_OF_MAPPED_LAYERS: (u32, u32) = (5, 19);
    let Ok(kernel) = nix::sys::utsname::uname() else {
        return false;
    };
    let mut numbers = kernel.release().to_str().unwrap_or_default().split('.').map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return false;
    };
    (major, minor) >= OVERLAYS_OF_MAPPED_LAYERS && idmapped::works(directory).is_ok()
}

/// `mount(2)`.
fn classic(source: &str, point: &Path, kind: &str, flags: MsFlags, data: &[String]) -> io::Result<()> {
    let data = data.join(",");
    nix::mount::mount(Some(source), point, Some(kind), flags, Some(data.as_str()))?;
    Ok(())
}

fn locked_flags(point: &Path) -> io::Result<MsFlags> {
    let flags = rustix::fs::statvfs(point)?.f_flag;
    use rustix::fs::StatVfsMountFlags as Has;
    let pairs = [
        (Has::NOSUID, MsFlags::MS_NOSUID),
        (Has::NODEV, MsFlags::MS_NODEV),
        (Has::NOEXEC, MsFlags::MS_NOEXEC),
        (Has::NOATIME, MsFlags::MS_NOATIME),
        (Has::NODIRATIME, MsFlags::MS_NODIRATIME),
        (Has::RELATIME, MsFlags::MS_RELATIME),
    ];
    Ok(pairs
        .into_iter()
        .filter(|(has, _)| flags.contains(*has))
        .map(|(_, flag)| flag)
        .collect())
}

/// FUSE file systems are mounted by a program: `fuse3.NAME` by `mount.fuse3 … -t NAME`.
fn with_helper(helper: &str, kind: &str, what: &Mount, point: &Path) -> io::Result<()> {
    let mut command = Command::new(helper);
    command.arg(&what.source).arg(point);
    for option in &what.options {
        command.args(["-o", option]);
    }
    let output = command
        .args(["-t", kind])
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("start {helper}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{helper} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}
