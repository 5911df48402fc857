//! Overlays of so many layers that their options do not fit the one page that `mount(2)` takes.
//!
//! The new mount API (`fsopen`) gives the kernel each layer by itself (`lowerdir+`, Linux 6.8), and its own words when it refuses.
//! Where it is missing, the lower directories are named relative to their common parent, from a thread that works there: as
//! containerd does. Shorter overlays are mounted by `mount(2)`, which is one call and not one a layer.

use std::io;
use std::path::Path;

use nix::mount::MsFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::MountOptions;
use crate::contract::Mount;

/// What `mount(2)` takes, less what containerd keeps free of it.
const PAGE: usize = 4096;
const SPARE: usize = 512;

/// The longest string that `fsconfig` takes, its NUL included.
const MAX_STRING: usize = 256;

/// Whether the options are too long for `mount(2)`.
pub(super) fn is_long(options: &MountOptions) -> bool {
    options.data.iter().map(|option| option.len() + 1).sum::<usize>() >= PAGE - SPARE
}

/// Mounts an overlay with long options at `point`.
pub(super) fn mount_long(what: &Mount, options: &MountOptions, point: &Path) -> io::Result<()> {
    match by_descriptor(&what.source, options, point) {
        // An old kernel has no such call, or does not know `lowerdir+`.
        Err(Refusal {
            errno: Errno::NOSYS | Errno::INVAL | Errno::PERM,
            log,
        }) => relative(what, options, point).map_err(|error| {
            io::Error::new(
                error.kind(),
                if log.is_empty() {
                    error.to_string()
                } else {
                    format!("{error} ({log})")
                },
            )
        }),
        Err(Refusal { errno, log }) => {
            let error = io::Error::from(errno);
            Err(io::Error::new(error.kind(), format!("{error} ({log})")))
        }
        Ok(()) => Ok(()),
    }
}

/// Why the kernel refused, with what it logged.
struct Refusal {
    errno: Errno,
    log: String,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            log: String::new(),
        }
    }
}

fn by_descriptor(source: &str, options: &MountOptions, point: &Path) -> Result<(), Refusal> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure(context.as_fd(), source, options).map_err(|errno| Refusal {
        errno,
        log: kernel_log(&context),
    })?;
    let overlay =
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes(options.flags)).map_err(|errno| Refusal {
            errno,
            log: kernel_log(&context),
        })?;
    Ok(move_mount(
        &overlay,
        "",
        CWD,
        point,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

fn configure(context: BorrowedFd<'_>, source: &str, options: &MountOptions) -> Result<(), Errno> {
    fsconfig_set_string(context, "source", source)?;
    for option in &options.data {
        match option.split_once('=') {
            Some(("lowerdir", lower)) => {
                for layer in layers(lower).ok_or(Errno::INVAL)? {
                    set_path(context, "lowerdir+", &layer)?;
                }
            }
            Some((key @ ("upperdir" | "workdir"), path)) => set_path(context, key, path)?,
            Some((key, value)) => fsconfig_set_string(context, key, value)?,
            None => fsconfig_set_flag(context, &option[..])?,
        }
    }
    let words = [
        (MsFlags::MS_RDONLY, "ro"),
        (MsFlags::MS_SYNCHRONOUS, "sync"),
        (MsFlags::MS_DIRSYNC, "dirsync"),
        (MsFlags::MS_MANDLOCK, "mand"),
    ];
    for (flag, word) in words {
        if options.flags.contains(flag) {
            fsconfig_set_flag(context, word)?;
        }
    }
    fsconfig_create(context)
}

/// A path, by descriptor (Linux 6.13) when it is too long for a string.
fn set_path(context: BorrowedFd<'_>, key: &str, path: &str) -> Result<(), Errno> {
    if path.len() < MAX_STRING {
        return fsconfig_set_string(context, key, path);
    }
    let directory = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    fsconfig_set_fd(context, key, &directory)
}

/// The layers in a `lowerdir=`, whose colons and backslashes may be escaped. `None` when it has layers for data only (`::`), which
/// are another option.
fn layers(lower: &str) -> Option<Vec<String>> {
    let mut layers = vec![String::new()];
    let mut characters = lower.chars();
    while let Some(character) = characters.next() {
        let last = layers.last_mut()?;
        match character {
            '\\' => last.push(characters.next().unwrap_or('\\')),
            ':' if last.is_empty() => return None,
            ':' => layers.push(String::new()),
            other => last.push(other),
        }
    }
    (!layers.last()?.is_empty()).then_some(layers)
}

fn attributes(flags: MsFlags) -> MountAttrFlags {
    let pairs = [
        (MsFlags::MS_RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MsFlags::MS_NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MsFlags::MS_NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (MsFlags::MS_NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
        (MsFlags::MS_STRICTATIME, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
    ];
    pairs
        .into_iter()
        .filter(|(flag, _)| flags.contains(*flag))
        .fold(MountAttrFlags::empty(), |all, (_, attribute)| all | attribute)
}

/// What the kernel has to say about a configuration that it refused: one message a read, `e MESSAGE`.
fn kernel_log(context: &OwnedFd) -> String {
    let mut messages = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = rustix::io::read(context, &mut buffer) {
        messages.push(String::from_utf8_lossy(&buffer[..n]).trim().to_owned());
    }
    messages.join("; ")
}

/// `mount(2)` with the lower directories relative to their common parent.
fn relative(what: &Mount, options: &MountOptions, point: &Path) -> io::Result<()> {
    let too_long = |length: usize| {
        io::Error::new(
            io::ErrorKind::ArgumentListTooLong,
            format!("the options take {length} bytes, and this kernel takes {PAGE} and no layers one by one"),
        )
    };
    let (parent, data) = compact(&options.data).ok_or_else(|| too_long(options.data.join(",").len()))?;
    if data.len() > PAGE {
        return Err(too_long(data.len()));
    }
    // The new root of relative paths must be this mount's alone: a thread that shares its working directory with nobody.
    std::thread::scope(|scope| {
        let mounting = scope.spawn(|| -> io::Result<()> {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            nix::unistd::chdir(parent.as_str())?;
            nix::mount::mount(
                Some(what.source.as_str()),
                point,
                Some("overlay"),
                options.flags,
                Some(data.as_str()),
            )?;
            Ok(())
        });
        mounting
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}

/// The common parent of all lower directories, and the options with the lower directories relative to it.
fn compact(data: &[String]) -> Option<(String, String)> {
    let (parent, layers) = lower_layers(data)?;
    let options = data
        .iter()
        .map(|option| {
            if option.starts_with("lowerdir=") {
                format!("lowerdir={}", layers.join(":"))
            } else {
                option.clone()
            }
        })
        .collect::<Vec<_>>();
    Some((parent, options.join(",")))
}

/// The common parent of all lower directories, and these relative to it. `None` when they share nothing but `/`.
pub(super) fn lower_layers(data: &[String]) -> Option<(String, Vec<String>)> {
    let lower = data.iter().find_map(|option| option.strip_prefix("lowerdir="))?;
    let layers: Vec<&str> = lower.split(':').collect();
    let first = layers.first()?;
    let common = layers.iter().fold(first.len(), |common, layer| {
        first
            .bytes()
            .zip(layer.bytes())
            .take(common)
            .take_while(|(a, b)| a == b)
            .count()
    });
    // A whole component, and not all of a path.
    let end = first[..common].rfind('/')?;
    if end == 0 {
        return None;
    }
    let relative = layers.iter().map(|layer| layer[end + 1..].to_owned()).collect();
    Some((first[..end].to_owned(), relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_directories_are_told_apart() {
        assert_eq!(layers("/a:/b"), Some(vec!["/a".into(), "/b".into()]));
        assert_eq!(layers(r"/a\:b:/c\\d"), Some(vec!["/a:b".into(), r"/c\d".into()]));
        assert_eq!(layers("/a::/data"), None);
        assert_eq!(layers(""), None);
    }

    #[test]
    fn lower_directories_are_shortened_by_what_they_share() {
        let data = |lower: &str| vec![format!("lowerdir={lower}"), "index=off".to_owned()];
        let (parent, options) = compact(&data("/root/snapshots/12/fs:/root/snapshots/1/fs")).expect("a parent");
        assert_eq!(parent, "/root/snapshots");
        assert_eq!(options, "lowerdir=12/fs:1/fs,index=off");
        assert!(compact(&data("/a/fs:/b/fs")).is_none());
    }

    #[test]
    fn old_kernels_get_relative_paths() {
        let all = tempfile::tempdir().expect("a directory");
        let layers: Vec<String> = (0..60)
            .map(|n| {
                let layer = all.path().join(format!("{n:040}")).join("fs");
                std::fs::create_dir_all(&layer).expect("made");
                std::fs::write(layer.join(n.to_string()), "").expect("written");
                layer.display().to_string()
            })
            .collect();
        let point = all.path().join("point");
        std::fs::create_dir(&point).expect("made");
        let options = MountOptions::parse(&[format!("lowerdir={}", layers.join(":"))]);
        let what = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            ..Mount::default()
        };
        relative(&what, &options, &point).expect("mounted");
        let found = std::fs::read_dir(&point).expect("read").count();
        super::super::unmount(&point, super::super::Lazy::Never).expect("unmounted");
        assert_eq!(found, 60);
    }
}
