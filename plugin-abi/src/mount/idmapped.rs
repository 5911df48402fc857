//! Mounts that show other owners than those on disk (mount_setattr(2), `MOUNT_ATTR_IDMAP`).
//!
//! The map is a user namespace's, so one is made for the moment. An overlay is not mapped itself, its lower layers are: by way of a mapped
//! mount of the directory that holds them all, which is there only until the overlay is, because an overlay has mounts of its own.
#![expect(
    unsafe_code,
    reason = "neither nix nor rustix has mount_setattr(2), and a process for a user namespace is clone(2)'s"
)]

use std::fs::{File, write};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::mount::{MntFlags, umount2};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::{Lazy, MountOptions, overlay, unmount};
use crate::Error;
use crate::id_map::IdMap;

/// linux/mount.h.
const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// What the process that a user namespace is made with needs, which does nothing but wait.
const STACK_BYTES: usize = 64 << 10;

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const _: () = assert!(size_of::<MountAttributes>() == 32);

/// A map of ids that mounts can be given: a user namespace that nobody is in.
pub(super) struct Mapping(OwnedFd);

/// Lower layers with mapped ids, as long as an overlay of them is being mounted.
pub(super) struct MappedLayers {
    point: PathBuf,
    /// The overlay's options, with these layers.
    pub(super) data: Vec<String>,
}

/// Whether what lies at `directory` can be mounted with other owners. Blocks.
pub(super) fn works(directory: &Path) -> io::Result<()> {
    let map: IdMap = "0:666:1".parse().map_err(io::Error::other)?;
    Mapping::new(&map, &map)?.tree(directory, 0).map(drop)
}

/// A mount that asks for what cannot be.
fn wrong(what: String) -> io::Error {
    io::Error::other(Error::invalid_argument(what))
}

// === impl Mapping ===

impl Mapping {
    /// What `uidmap=` and `gidmap=` ask for; `None` when they are not there.
    pub(super) fn of(options: &MountOptions) -> io::Result<Option<Self>> {
        let (uids, gids) = match (&options.uid_map, &options.gid_map) {
            (None, None) => return Ok(None),
            (Some(uids), Some(gids)) => (uids, gids),
            _ => {
                return Err(wrong(
                    "ids are mapped by both uidmap= and gidmap=, or not at all".to_owned(),
                ));
            }
        };
        let parse = |key: &str, map: &str| map.parse::<IdMap>().map_err(|why| wrong(format!("{key}={map}: {why}")));
        Self::new(&parse("uidmap", uids)?, &parse("gidmap", gids)?).map(Some)
    }

    fn new(uids: &IdMap, gids: &IdMap) -> io::Result<Self> {
        let mut stack = vec![0; STACK_BYTES];
        let wait = Box::new(|| -> isize {
            // Should this process end before it can end that one.
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            loop {
                nix::unistd::pause();
            }
        });
        // Its descriptors are this process's, so that nothing stays open because of it.
        let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_FILES;
        // SAFETY: without CLONE_VM the process has a copy of this memory, its stack included; it makes two system calls, takes no lock and
        // does not return.
        let process = unsafe { nix::sched::clone(wait, &mut stack, flags, Some(libc::SIGCHLD)) }?;
        let of_process = |name: &str| PathBuf::from(format!("/proc/{process}/{name}"));
        let made = write(of_process("uid_map"), uids.for_the_kernel())
            .and_then(|()| write(of_process("gid_map"), gids.for_the_kernel()))
            .and_then(|()| File::open(of_process("ns/user")));
        // It is there, or the call before had failed; somebody else may collect children.
        let _ = kill(process, Signal::SIGKILL);
        let _ = waitpid(process, None);
        let namespace =
            made.map_err(|error| io::Error::new(error.kind(), format!("make a user namespace: {error}")))?;
        Ok(Self(namespace.into()))
    }

    /// A copy of what is mounted at `path`, with these ids, that is mounted nowhere yet.
    fn tree(&self, path: &Path, attributes: u64) -> io::Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(rustix::fs::CWD, path, flags)?;
        let attributes = MountAttributes {
            set: MOUNT_ATTR_IDMAP | attributes,
            clear: 0,
            propagation: libc::MS_PRIVATE,
            user_namespace: u64::from(self.0.as_raw_fd().cast_unsigned()),
        };
        // SAFETY: both descriptors are open, the path is a string with its NUL, and `attributes` has the layout of `struct mount_attr` and
        // the size that is given; the call only reads them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
                &raw const attributes,
                size_of::<MountAttributes>(),
            )
        };
        if result != 0 {
            let error = io::Error::last_os_error();
            return Err(io::Error::new(
                error.kind(),
                format!(
                    "map the ids of {}: {error} (does its file system do idmapped mounts?)",
                    path.display()
                ),
            ));
        }
        Ok(tree)
    }

    /// Puts what is mounted at `point` there anew, with these ids.
    pub(super) fn apply(&self, point: &Path) -> io::Result<()> {
        let mapped = self.tree(point, 0);
        // Mapped or not at all.
        umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
        attach(&mapped?, point)
    }
}

fn attach(tree: &OwnedFd, point: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(tree, "", rustix::fs::CWD, point, flags)?)
}

// === impl MappedLayers ===

impl MappedLayers {
    /// The lower layers in an overlay's options `data`, mapped.
    pub(super) fn new(data: &[String], mapping: &Mapping) -> io::Result<Self> {
        let (parent, layers) = overlay::lower_layers(data).ok_or_else(|| {
            wrong("the lower directories have no directory in common, but /, whose ids could be mapped".to_owned())
        })?;
        let tree = mapping.tree(Path::new(&parent), MOUNT_ATTR_RDONLY)?;
        let point = nix::unistd::mkdtemp(&std::env::temp_dir().join("orlop-layers-XXXXXX"))?;
        // From here on it is removed again.
        let mut mapped = Self {
            point,
            data: Vec::new(),
        };
        attach(&tree, &mapped.point)?;
        let at = mapped.point.display();
        let lower: Vec<String> = layers.iter().map(|layer| format!("{at}/{layer}")).collect();
        let lower = format!("lowerdir={}", lower.join(":"));
        let others = data.iter().filter(|option| !option.starts_with("lowerdir="));
        mapped.data = others.cloned().chain([lower]).collect();
        Ok(mapped)
    }
}

impl Drop for MappedLayers {
    fn drop(&mut self) {
        let gone = unmount(&self.point, Lazy::Always)
            .map_err(|error| error.to_string())
            .and_then(|()| std::fs::remove_dir(&self.point).map_err(|error| error.to_string()));
        if let Err(error) = gone {
            tracing::warn!(error, point = %self.point.display(), "a mount of layers stays behind");
        }
    }
}
