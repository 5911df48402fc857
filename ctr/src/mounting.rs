//! Mounts a snapshot on a directory of this machine, as the daemon describes its mounts.

use crate::spec::rootfs::shorten;
use anyhow::{Context, Result, ensure};
use containerd_client::types::Mount;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::Path;
use std::process::Command;

/// Mounts all of `mounts`, one over the other, on `target`. What was mounted is taken down when one fails.
pub fn mount_all(mounts: &[Mount], target: &Path) -> Result<()> {
    for (done, one) in mounts.iter().enumerate() {
        if let Err(error) = mount_one(one, target) {
            for _ in 0..done {
                // The error to report is the first one.
                let _ = umount2(target, MntFlags::MNT_DETACH);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Takes down everything that is mounted on `target`; nothing is fine.
pub fn unmount_all(target: &Path) -> Result<()> {
    loop {
        match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // No mount point any more, or nothing there.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", target.display())),
        }
    }
}

/// Whether the source of a mount is an image that a loop device must carry.
pub(crate) fn needs_loop_device(one: &Mount) -> bool {
    one.options.iter().any(|option| option == "loop")
}

/// Mounts an image. mount(8) finds a loop device for it, which the kernel frees with the mount.
pub(crate) fn mount_image(kind: &str, source: &str, options: &[String], target: &Path) -> Result<()> {
    let what = || format!("cannot mount the image {source} ({kind}) on {}", target.display());
    let output = Command::new("mount")
        .args(["-i", "-t", kind, "-o", &options.join(","), "--", source])
        .arg(target)
        .output()
        .with_context(|| format!("{}: cannot start mount", what()))?;
    ensure!(
        output.status.success(),
        "{}: {}",
        what(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

fn mount_one(one: &Mount, target: &Path) -> Result<()> {
    let target = target.join(one.target.trim_start_matches('/'));
    let target = std::path::absolute(&target).with_context(|| format!("target {}", target.display()))?;
    if needs_loop_device(one) {
        return mount_image(&one.r#type, &one.source, &one.options, &target);
    }
    let (flags, data) = options(&one.options);
    let data = shorten(data)?;
    let previous = match &data.directory {
        None => None,
        Some(directory) => {
            let previous = std::env::current_dir().context("cannot tell the current directory")?;
            std::env::set_current_dir(directory)
                .with_context(|| format!("cannot change to {}", directory.display()))?;
            Some(previous)
        }
    };
    let text = (!data.text.is_empty()).then_some(data.text.as_str());
    let kind = (one.r#type != "bind").then_some(one.r#type.as_str());
    let flags = if one.r#type == "bind" {
        flags | MsFlags::MS_BIND
    } else {
        flags
    };
    let mut done = mount(Some(one.source.as_str()), &target, kind, flags, text);
    if done.is_ok() && flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
        // A bind mount takes its flags only in a second call.
        done = mount(
            None::<&str>,
            &target,
            None::<&str>,
            flags | MsFlags::MS_REMOUNT,
            None::<&str>,
        );
        if done.is_err() {
            let _ = umount2(&target, MntFlags::MNT_DETACH);
        }
    }
    if let Some(previous) = previous {
        std::env::set_current_dir(&previous).with_context(|| format!("cannot change to {}", previous.display()))?;
    }
    done.with_context(|| format!("cannot mount {} ({}) on {}", one.source, one.r#type, target.display()))
}

/// Flags for the kernel, and the options that only the file system knows. A later option overrides an earlier one.
fn options(options: &[String]) -> (MsFlags, Vec<String>) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options {
        let (flag, set) = match option.as_str() {
            "defaults" => continue,
            "ro" => (MsFlags::MS_RDONLY, true),
            "rw" => (MsFlags::MS_RDONLY, false),
            "bind" => (MsFlags::MS_BIND, true),
            "rbind" => (MsFlags::MS_BIND | MsFlags::MS_REC, true),
            "nosuid" => (MsFlags::MS_NOSUID, true),
            "suid" => (MsFlags::MS_NOSUID, false),
            "nodev" => (MsFlags::MS_NODEV, true),
            "dev" => (MsFlags::MS_NODEV, false),
            "noexec" => (MsFlags::MS_NOEXEC, true),
            "exec" => (MsFlags::MS_NOEXEC, false),
            "sync" => (MsFlags::MS_SYNCHRONOUS, true),
            "async" => (MsFlags::MS_SYNCHRONOUS, false),
            "dirsync" => (MsFlags::MS_DIRSYNC, true),
            "remount" => (MsFlags::MS_REMOUNT, true),
            "noatime" => (MsFlags::MS_NOATIME, true),
            "atime" => (MsFlags::MS_NOATIME, false),
            "nodiratime" => (MsFlags::MS_NODIRATIME, true),
            "diratime" => (MsFlags::MS_NODIRATIME, false),
            "relatime" => (MsFlags::MS_RELATIME, true),
            "norelatime" => (MsFlags::MS_RELATIME, false),
            "strictatime" => (MsFlags::MS_STRICTATIME, true),
            other => {
                data.push(other.to_owned());
                continue;
            }
        };
        flags.set(flag, set);
    }
    (flags, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_the_file_systems() {
        let list = ["rbind", "ro", "nosuid", "suid", "index=off"].map(str::to_owned);
        let (flags, data) = options(&list);
        assert_eq!(flags, MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY);
        assert_eq!(data, ["index=off"]);
    }
}
