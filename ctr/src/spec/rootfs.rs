//! Reads the user database of a root file system: a snapshot, mounted read-only for the moment, or a directory.
//!
//! The files belong to whoever made the image. So they are opened inside the root (no link leads out of it), must be
//! regular (a fifo would block), and have a size limit (CVE-2023-25153).

use super::users::{Users, parse_group, parse_passwd};
use crate::mounting::{mount_image, needs_loop_device};
use anyhow::{Context, Result, ensure};
use containerd_client::types::Mount;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest `/etc/passwd` or `/etc/group` that is read.
const MAX_DATABASE: u64 = 16 << 20;

/// The kernel takes one page of mount options.
const MAX_OPTIONS: usize = 4095;

/// The users of the root file system at `root`.
pub fn users_of_directory(root: &Path) -> Result<Users> {
    let directory = File::open(root).with_context(|| format!("cannot open rootfs {}", root.display()))?;
    Ok(Users {
        passwd: read_inside(&directory, "etc/passwd")?.map(|text| parse_passwd(&text)),
        group: read_inside(&directory, "etc/group")?.map(|text| parse_group(&text)),
    })
}

/// The users of a snapshot, given by the mounts that its snapshotter answered. Nothing stays mounted.
pub fn users_of_mounts(mounts: &[Mount]) -> Result<Users> {
    let target = Mounted::new(mounts)?;
    users_of_directory(target.directory.path())
}

fn read_inside(root: &File, path: &str) -> Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match openat2(
        root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    ) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open /{path} of the rootfs")),
    };
    let metadata = file
        .metadata()
        .with_context(|| format!("cannot look at /{path} of the rootfs"))?;
    ensure!(metadata.is_file(), "/{path} of the rootfs is not a regular file");
    let mut bytes = Vec::new();
    let read = file.take(MAX_DATABASE + 1).read_to_end(&mut bytes);
    let read = read.with_context(|| format!("cannot read /{path} of the rootfs"))?;
    ensure!(
        read as u64 <= MAX_DATABASE,
        "/{path} of the rootfs is larger than {MAX_DATABASE} bytes"
    );
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// A temporary directory with a stack of mounts on it, taken down when dropped.
struct Mounted {
    directory: tempfile::TempDir,
    count: usize,
}

impl Mounted {
    fn new(mounts: &[Mount]) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("ctr-rootfs-")
            .tempdir()
            .context("cannot make a directory to mount the rootfs on")?;
        let mut mounted = Self { directory, count: 0 };
        for one in mounts {
            mount_read_only(one, mounted.directory.path())?;
            mounted.count += 1;
        }
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for _ in 0..self.count {
            if let Err(error) = umount2(self.directory.path(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                eprintln!("ctr: cannot unmount {}: {error}", self.directory.path().display());
            }
        }
    }
}

fn mount_read_only(one: &Mount, target: &Path) -> Result<()> {
    let Options { mut flags, mut data } = read_only_options(one);
    if needs_loop_device(one) {
        data.extend(["ro", "nosuid", "nodev", "noexec"].map(str::to_owned));
        return mount_image(&one.r#type, &one.source, &data, target);
    }
    flags |= MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let data = shorten(data)?;
    let what = || format!("cannot mount {} ({}) to read its users", one.source, one.r#type);
    let kind = (!flags.contains(MsFlags::MS_BIND)).then_some(one.r#type.as_str());
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
    let mut done = mount(Some(one.source.as_str()), target, kind, flags, text);
    if done.is_ok() && flags.contains(MsFlags::MS_BIND) {
        // A bind mount takes its flags only in a second call.
        done = mount(
            None::<&str>,
            target,
            None::<&str>,
            flags | MsFlags::MS_REMOUNT,
            None::<&str>,
        );
        if done.is_err() {
            umount2(target, MntFlags::MNT_DETACH).with_context(what)?;
        }
    }
    if let Some(previous) = previous {
        std::env::set_current_dir(&previous).with_context(|| format!("cannot change to {}", previous.display()))?;
    }
    done.with_context(what)
}

/// Flags for the kernel, and the options that only the file system knows.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    flags: MsFlags,
    data: Vec<String>,
}

/// Turns a mount into a read-only one. An overlay loses its upper directory's role: as the topmost lower one it is seen
/// the same, and unmounting needs no sync of the whole file system.
fn read_only_options(one: &Mount) -> Options {
    let mut flags = MsFlags::MS_RDONLY;
    let (mut upper, mut data) = (None, Vec::new());
    for option in &one.options {
        match option.as_str() {
            "ro" | "rw" => {}
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "relatime" => flags |= MsFlags::MS_RELATIME,
            _ if one.r#type == "overlay" && option.starts_with("workdir=") => {}
            _ => match option.strip_prefix("upperdir=") {
                Some(directory) if one.r#type == "overlay" => upper = Some(directory),
                _ => data.push(option.clone()),
            },
        }
    }
    if one.r#type == "bind" {
        flags |= MsFlags::MS_BIND;
    }
    if let Some(upper) = upper {
        for option in &mut data {
            if let Some(lower) = option.strip_prefix("lowerdir=") {
                *option = format!("lowerdir={upper}:{lower}");
            }
        }
    }
    Options { flags, data }
}

/// Mount options as the kernel takes them, relative to a directory when they would not fit otherwise.
pub(crate) struct Data {
    pub(crate) text: String,
    pub(crate) directory: Option<PathBuf>,
}

/// Joins options; when they exceed a page, the layers of an overlay are written relative to their common parent.
pub(crate) fn shorten(options: Vec<String>) -> Result<Data> {
    let text = options.join(",");
    if text.len() <= MAX_OPTIONS {
        return Ok(Data { text, directory: None });
    }
    let lowers = options
        .iter()
        .find_map(|option| option.strip_prefix("lowerdir="))
        .context("mount options too long")?;
    let layers: Vec<&str> = lowers.split(':').collect();
    let first = layers.first().copied().unwrap_or_default();
    let mut parent = Path::new(first).parent();
    while let Some(candidate) = parent {
        if layers.iter().all(|layer| Path::new(layer).starts_with(candidate)) {
            break;
        }
        parent = candidate.parent();
    }
    let parent = parent.context("mount options too long, and the layers have no common parent")?;
    let relative: Vec<&str> = layers
        .iter()
        .map(|layer| {
            Path::new(layer)
                .strip_prefix(parent)
                .ok()
                .and_then(Path::to_str)
                .unwrap_or(layer)
        })
        .collect();
    let lowerdir = format!("lowerdir={}", relative.join(":"));
    let text = options.iter().map(|option| {
        if option.starts_with("lowerdir=") {
            lowerdir.as_str()
        } else {
            option
        }
    });
    let text = text.collect::<Vec<_>>().join(",");
    ensure!(
        text.len() <= MAX_OPTIONS,
        "too many layers: their mount options need {} bytes",
        text.len()
    );
    Ok(Data {
        text,
        directory: Some(parent.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> Mount {
        Mount {
            r#type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            ..Mount::default()
        }
    }

    #[test]
    fn an_overlay_becomes_read_only_by_lowering_its_upper_directory() {
        let options = read_only_options(&overlay(&[
            "index=off",
            "workdir=/s/3/work",
            "upperdir=/s/3/fs",
            "lowerdir=/s/2/fs:/s/1/fs",
        ]));
        assert_eq!(options.data, ["index=off", "lowerdir=/s/3/fs:/s/2/fs:/s/1/fs"]);
        assert_eq!(options.flags, MsFlags::MS_RDONLY);
    }

    #[test]
    fn options_longer_than_a_page_become_relative() {
        let layers: Vec<String> = (0..100)
            .map(|n| format!("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/{n}/fs"))
            .collect();
        let data = shorten(vec!["index=off".to_owned(), format!("lowerdir={}", layers.join(":"))]).unwrap();
        assert!(data.text.starts_with("index=off,lowerdir=0/fs:1/fs:"), "{}", data.text);
        let parent = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
        assert_eq!(data.directory.as_deref(), Some(Path::new(parent)));
    }

    #[test]
    fn databases_are_read_inside_the_root_only() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("real"), "app:x:7:8::/:/bin/sh\n").unwrap();
        // An absolute link is absolute in the root.
        std::os::unix::fs::symlink("/real", root.path().join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink(
            "../../../../../../etc/hostname-that-is-not-there",
            root.path().join("etc/group"),
        )
        .unwrap();
        let users = users_of_directory(root.path()).unwrap();
        assert_eq!(users.passwd.unwrap()[0].uid, 7);
        assert_eq!(users.group, None);
    }

    #[test]
    fn a_fifo_in_place_of_a_database_is_refused_at_once() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        nix::unistd::mkfifo(&root.path().join("etc/passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(
            users_of_directory(root.path())
                .unwrap_err()
                .to_string()
                .contains("regular")
        );
    }
}
