//! Mounting a container's root file system, and taking it away.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerd_shim_protos::api::Mount;
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::error::{Error, Result};
use crate::reaper::Reaper;

/// The kernel takes a page of options, with its final zero.
const DATA_LIMIT: usize = 4095;

/// What the options of a mount mean, as in fstab.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parsed {
    flags: Vec<(MountFlags, bool)>,
    propagation: Option<MountPropagationFlags>,
    bind: bool,
    recursive: bool,
    /// What only mount(8) can do: loop devices, helpers.
    special: bool,
    data: Vec<String>,
}

/// Performs `mounts` in order, each at its own path inside `target`.
pub async fn mount_all(reaper: &Reaper, mounts: &[Mount], target: &Path) -> Result<()> {
    for mount in mounts {
        let doing = |error: &dyn std::fmt::Display| {
            let options = mount.options.join(",");
            Error::unknown(format!(
                "failed to mount rootfs component: mount {} {:?} at {} with [{options}]: {error}",
                mount.type_,
                mount.source,
                target.display()
            ))
        };
        let point = point(target, &mount.target).map_err(|error| doing(&error))?;
        let parsed = Parsed::new(&mount.options);
        if parsed.special || mount.type_.starts_with("fuse") {
            mount_program(reaper, mount, &point)
                .await
                .map_err(|error| doing(&error))?;
        } else {
            perform(mount, &parsed, &point).map_err(|error| doing(&error))?;
        }
    }
    Ok(())
}

/// Undoes [`mount_all`], in reverse order, and whatever else is mounted at `target`.
pub fn unmount_all(mounts: &[Mount], target: &Path) -> Result<()> {
    for mount in mounts.iter().rev() {
        if let Ok(point) = point(target, &mount.target) {
            unmount(&point)?;
        }
    }
    unmount(target)
}

/// Unmounts all that is stacked at `point`; lazily what is busy.
fn unmount(point: &Path) -> Result<()> {
    loop {
        let mut result = rustix::mount::unmount(point, UnmountFlags::NOFOLLOW);
        if result == Err(rustix::io::Errno::BUSY) {
            result = rustix::mount::unmount(point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
        }
        match result {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(Error::io(format!("failed rootfs umount: {}", point.display()), error)),
        }
    }
}

/// `inside` of `target`; links in it stop at `target`.
fn point(target: &Path, inside: &str) -> std::io::Result<PathBuf> {
    let inside = inside.trim_matches('/');
    if inside.is_empty() {
        return Ok(target.to_owned());
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = open(target, flags, Mode::empty())?;
    let point = openat2(&root, inside, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&point)))
}

// === impl Parsed ===

impl Parsed {
    fn new(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options.iter().map(String::as_str).filter(|option| !option.is_empty()) {
            let set = |parsed: &mut Self, flag| parsed.flags.push((flag, true));
            let clear = |parsed: &mut Self, flag| parsed.flags.push((flag, false));
            match option {
                "defaults" => {}
                "bind" => parsed.bind = true,
                "rbind" => (parsed.bind, parsed.recursive) = (true, true),
                "ro" => set(&mut parsed, MountFlags::RDONLY),
                "rw" => clear(&mut parsed, MountFlags::RDONLY),
                "nosuid" => set(&mut parsed, MountFlags::NOSUID),
                "suid" => clear(&mut parsed, MountFlags::NOSUID),
                "nodev" => set(&mut parsed, MountFlags::NODEV),
                "dev" => clear(&mut parsed, MountFlags::NODEV),
                "noexec" => set(&mut parsed, MountFlags::NOEXEC),
                "exec" => clear(&mut parsed, MountFlags::NOEXEC),
                "sync" => set(&mut parsed, MountFlags::SYNCHRONOUS),
                "async" => clear(&mut parsed, MountFlags::SYNCHRONOUS),
                "dirsync" => set(&mut parsed, MountFlags::DIRSYNC),
                "noatime" => set(&mut parsed, MountFlags::NOATIME),
                "atime" => clear(&mut parsed, MountFlags::NOATIME),
                "nodiratime" => set(&mut parsed, MountFlags::NODIRATIME),
                "diratime" => clear(&mut parsed, MountFlags::NODIRATIME),
                "relatime" => set(&mut parsed, MountFlags::RELATIME),
                "norelatime" => clear(&mut parsed, MountFlags::RELATIME),
                "strictatime" => set(&mut parsed, MountFlags::STRICTATIME),
                "nostrictatime" => clear(&mut parsed, MountFlags::STRICTATIME),
                "private" => parsed.propagation = Some(MountPropagationFlags::PRIVATE),
                "rprivate" => parsed.propagation = Some(MountPropagationFlags::PRIVATE | MountPropagationFlags::REC),
                "shared" => parsed.propagation = Some(MountPropagationFlags::SHARED),
                "rshared" => parsed.propagation = Some(MountPropagationFlags::SHARED | MountPropagationFlags::REC),
                "slave" => parsed.propagation = Some(MountPropagationFlags::DOWNSTREAM),
                "rslave" => parsed.propagation = Some(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC),
                "loop" => parsed.special = true,
                other => parsed.data.push(other.to_owned()),
            }
        }
        parsed
    }

    fn flags(&self) -> MountFlags {
        let mut flags = MountFlags::empty();
        for (flag, set) in &self.flags {
            flags.set(*flag, *set);
        }
        flags
    }
}

fn perform(mount: &Mount, parsed: &Parsed, point: &Path) -> std::io::Result<()> {
    let flags = parsed.flags();
    if parsed.bind || matches!(mount.type_.as_str(), "bind" | "rbind") {
        if parsed.recursive || mount.type_ == "rbind" {
            rustix::mount::mount_bind_recursive(&mount.source, point)?;
        } else {
            rustix::mount::mount_bind(&mount.source, point)?;
        }
        // A bind mount takes its flags in a second step only.
        if !flags.is_empty() {
            rustix::mount::mount_remount(point, MountFlags::BIND | flags, c"")?;
        }
    } else {
        let (directory, data) = shorten(&parsed.data);
        let data = std::ffi::CString::new(data)?;
        let here = match &directory {
            Some(directory) => {
                let here = open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                std::env::set_current_dir(directory)?;
                Some(here)
            }
            None => None,
        };
        let result = rustix::mount::mount(&mount.source, point, &mount.type_, flags, &*data);
        if let Some(here) = here {
            rustix::process::fchdir(here)?;
        }
        result?;
    }
    if let Some(propagation) = parsed.propagation {
        rustix::mount::mount_change(point, propagation)?;
    }
    Ok(())
}

/// The data of a mount. An overlay of more layers than fit on a page is written relative to the directory that its layers share.
fn shorten(options: &[String]) -> (Option<PathBuf>, String) {
    let whole = options.join(",");
    if whole.len() < DATA_LIMIT {
        return (None, whole);
    }
    let Some(lower) = options.iter().find_map(|option| option.strip_prefix("lowerdir=")) else {
        return (None, whole);
    };
    let layers: Vec<&str> = lower.split(':').collect();
    let mut shared = Path::new(layers[0]);
    while let Some(parent) = shared.parent() {
        shared = parent;
        if layers.iter().all(|layer| Path::new(layer).starts_with(shared)) {
            break;
        }
    }
    let relative = layers.iter().map(|layer| Path::new(layer).strip_prefix(shared));
    let relative: Vec<String> = relative.flatten().map(|layer| layer.display().to_string()).collect();
    if relative.len() != layers.len() || relative.iter().any(String::is_empty) {
        return (None, whole);
    }
    let options = options.iter().map(|option| {
        if option.starts_with("lowerdir=") {
            format!("lowerdir={}", relative.join(":"))
        } else {
            option.clone()
        }
    });
    (Some(shared.to_owned()), options.collect::<Vec<_>>().join(","))
}

/// Leaves a mount to mount(8), which knows loop devices and helpers.
async fn mount_program(reaper: &Reaper, mount: &Mount, point: &Path) -> Result<()> {
    let mut command = Command::new("mount");
    command.args(["-t", &mount.type_, "-o", &mount.options.join(",")]);
    command
        .arg(&mount.source)
        .arg(point)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let child = command.spawn().map_err(|error| Error::io("run mount", error))?;
    let exit = reaper.expect(child.id() as i32).await;
    match exit.map(|exit| exit.status) {
        Ok(0) => Ok(()),
        status => Err(Error::unknown(format!("mount(8) ended with {status:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn options_become_flags_and_data() {
        let parsed = Parsed::new(&words("rbind ro nosuid rw rslave"));
        assert!(parsed.bind && parsed.recursive && parsed.data.is_empty());
        assert_eq!(parsed.flags(), MountFlags::NOSUID, "the later option wins");
        assert_eq!(
            parsed.propagation,
            Some(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        );
        let parsed = Parsed::new(&words("index=off lowerdir=/a:/b"));
        assert_eq!(parsed.data.join(","), "index=off,lowerdir=/a:/b");
        assert!(Parsed::new(&words("loop ro")).special);
    }

    #[test]
    fn many_layers_are_written_shorter() {
        assert_eq!(
            shorten(&words("a lowerdir=/x/1/fs:/x/2/fs")),
            (None, "a,lowerdir=/x/1/fs:/x/2/fs".into())
        );
        let layers: Vec<_> = (0..300).map(|n| format!("/var/lib/daemon/snapshots/{n}/fs")).collect();
        let options = vec![format!("lowerdir={}", layers.join(":")), "upperdir=/u".into()];
        let (directory, data) = shorten(&options);
        assert_eq!(directory, Some("/var/lib/daemon/snapshots".into()));
        assert!(
            data.starts_with("lowerdir=0/fs:1/fs:") && data.ends_with("299/fs,upperdir=/u"),
            "{data}"
        );
    }
}
