//! The bundle of a task on disk: made before its shim starts, removed after the task is gone.
//!
//! ```text
//!  STATE/NAMESPACE/ID/         0700, so that nobody else reads specs or roots (CVE-2021-41103)
//!    config.json               the OCI specification
//!    rootfs/                   where the shim mounts the root file system
//!    work ─▶ ROOT/NAMESPACE/ID what the runtime keeps across a reboot
//!    log                       a fifo: the shim's log
//!    address, bootstrap.json   how to reach the shim
//!    shim-binary-path          which shim it is
//!    sandbox                   the sandbox it shares the shim of
//! ```
//!
//! A bundle with a leading dot in its name is being removed.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use orlop_plugin::contract::{Any, validate_identifier};
use orlop_plugin::{Error, Result};
use serde::Deserialize;

use crate::bootstrap::write_whole;

/// The type of an OCI runtime specification, without the host that some clients put in front.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const SHIM_BINARY_FILE: &str = "shim-binary-path";
const SANDBOX_FILE: &str = "sandbox";

/// The bundle of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The namespace of the task.
    pub namespace: String,
    /// The id of the task.
    pub id: String,
    /// Its directory.
    pub path: PathBuf,
}

// === impl Bundle ===

impl Bundle {
    /// The bundle of a task, which may be there or not.
    pub fn of(state: &Path, namespace: &str, id: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            id: id.to_owned(),
            path: state.join(namespace).join(id),
        }
    }

    /// Makes it, with `spec` as its `config.json`. Leaves nothing behind when that fails. Blocks.
    pub fn create(root: &Path, state: &Path, namespace: &str, id: &str, spec: Option<&Any>) -> Result<Self> {
        validate_identifier(id)?;
        let bundle = Self::of(state, namespace, id);
        let work = root.join(namespace).join(id);
        make_dirs(&state.join(namespace))?;
        // Not recursive: a bundle that is there belongs to someone.
        make_dir(&bundle.path, 0o700)?;
        bundle.fill(&work, spec).inspect_err(|_| {
            for leftover in [&bundle.path, &work] {
                if let Err(error) = std::fs::remove_dir_all(leftover) {
                    tracing::debug!(path = %leftover.display(), %error, "cannot remove an unfinished bundle");
                }
            }
        })?;
        Ok(bundle)
    }

    fn fill(&self, work: &Path, spec: Option<&Any>) -> Result<()> {
        let group = match spec {
            Some(spec) if spec.type_url.trim_start_matches("type.googleapis.com/") == SPEC_TYPE => {
                mapped_root_group(&spec.value)?
            }
            _ => None,
        };
        let io = |doing: &str, path: &Path| {
            let doing = format!("{doing} {}", path.display());
            move |error: io::Error| Error::io(doing, &error)
        };
        let mut config_mode = 0o600;
        if let Some(group) = group {
            // The container's root must get through to its rootfs, and its hooks may read the specification.
            chown(&self.path, None, Some(group)).map_err(io("give to the mapped group", &self.path))?;
            std::fs::set_permissions(&self.path, Permissions::from_mode(0o710)).map_err(io("chmod", &self.path))?;
            config_mode = 0o640;
        }
        make_dir(&self.rootfs(), 0o711)?;
        make_dirs(work.parent().unwrap_or(work))?;
        if let Err(error) = make_dir(work, 0o711) {
            if !error.is_already_exists() {
                return Err(error);
            }
            // What a task of the same name left before a reboot.
            std::fs::remove_dir_all(work).map_err(io("remove the old", work))?;
            make_dir(work, 0o711)?;
        }
        symlink(work, self.path.join("work")).map_err(io("link to", work))?;
        if let Some(spec) = spec {
            let path = self.path.join("config.json");
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(config_mode)
                .open(&path)
                .and_then(|mut file| file.write_all(&spec.value))
                .map_err(io("write", &path))?;
            if let Some(group) = group {
                chown(&path, None, Some(group)).map_err(io("give to the mapped group", &path))?;
            }
        }
        Ok(())
    }

    /// Where the shim mounts the root file system.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// Whether nothing was put into it: the daemon died while making it.
    pub fn is_empty(&self) -> bool {
        std::fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Notes which shim it is, for the next daemon.
    pub fn save_shim_binary(&self, binary: &Path) -> Result<()> {
        write_whole(&self.path.join(SHIM_BINARY_FILE), binary.as_os_str().as_encoded_bytes())
    }

    /// Which shim it is, if that was noted.
    pub fn shim_binary(&self) -> Option<PathBuf> {
        let noted = std::fs::read_to_string(self.path.join(SHIM_BINARY_FILE)).ok()?;
        (!noted.is_empty()).then(|| noted.into())
    }

    /// Notes the sandbox whose shim it shares.
    pub fn save_sandbox(&self, sandbox: &str) -> Result<()> {
        write_whole(&self.path.join(SANDBOX_FILE), sandbox.as_bytes())
    }

    /// Whether it shares the shim of a sandbox.
    pub fn is_sandboxed(&self) -> bool {
        self.path.join(SANDBOX_FILE).exists()
    }

    /// Removes it with its work directory; what is still mounted is unmounted first. Blocks. Done already is no error.
    pub fn delete(&self) -> Result<()> {
        let work = std::fs::read_link(self.path.join("work")).ok();
        let rootfs = self.rootfs();
        unmount_all(&rootfs)?;
        // Never recursively: should anything still be mounted, its files are not ours to remove.
        match std::fs::remove_dir(&rootfs) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("remove {}", rootfs.display()), &error)),
        }
        let removed = remove_hidden(&self.path);
        if let Some(work) = work {
            remove_hidden(&work)?;
        }
        removed
    }
}

/// The host's group that is 0 in the container, when it has a user namespace with one.
fn mapped_root_group(spec: &[u8]) -> Result<Option<u32>> {
    #[derive(Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(Deserialize)]
    struct Linux {
        #[serde(rename = "gidMappings")]
        gid_mappings: Option<Vec<Mapping>>,
    }
    #[derive(Deserialize)]
    struct Mapping {
        #[serde(rename = "containerID")]
        container_id: u32,
        #[serde(rename = "hostID")]
        host_id: u32,
    }
    let spec: Spec = serde_json::from_slice(spec)
        .map_err(|error| Error::invalid_argument(format!("the container's OCI specification is damaged: {error}")))?;
    let mappings = spec.linux.and_then(|linux| linux.gid_mappings).unwrap_or_default();
    Ok(mappings
        .iter()
        .find(|mapping| mapping.container_id == 0)
        .map(|mapping| mapping.host_id)
        .filter(|group| *group != 0))
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new()
        .mode(mode)
        .create(path)
        .map_err(|error| Error::io(format!("make {}", path.display()), &error))
}

fn make_dirs(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|error| Error::io(format!("make {}", path.display()), &error))
}

/// Renames to a hidden name first: a removal cut short is not taken for a bundle.
fn remove_hidden(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = path.with_file_name(format!(".{name}"));
    match std::fs::rename(path, &hidden) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        // Left by a removal that was cut short.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
            std::fs::remove_dir_all(&hidden)
                .and_then(|()| std::fs::rename(path, &hidden))
                .map_err(|error| Error::io(format!("hide {}", path.display()), &error))?;
        }
        Err(error) => return Err(Error::io(format!("hide {}", path.display()), &error)),
    }
    std::fs::remove_dir_all(&hidden).map_err(|error| Error::io(format!("remove {}", hidden.display()), &error))
}

/// Unmounts everything on and below `rootfs`, the last mounted first.
fn unmount_all(rootfs: &Path) -> Result<()> {
    // Almost always nothing is mounted, and an empty directory has nothing mounted below: the mount table need not be read.
    unmount(rootfs)?;
    if std::fs::read_dir(rootfs).is_ok_and(|mut entries| entries.next().is_none()) || rootfs.symlink_metadata().is_err()
    {
        return Ok(());
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Error::io("read /proc/self/mountinfo", &error))?;
    for point in mount_points_below(&table, rootfs) {
        unmount(&point)?;
    }
    Ok(())
}

/// Mount points below `dir` in a mount table (proc(5), mountinfo), the last one first.
fn mount_points_below(table: &str, dir: &Path) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(dir))
        .collect();
    points.reverse();
    points
}

/// Undoes the octal escapes of a mount table (space, tab, newline, backslash).
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// Unmounts whatever is stacked on one point; lazily what is still in use.
fn unmount(point: &Path) -> Result<()> {
    loop {
        match umount2(point, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(nix::Error::EBUSY) => {
                umount2(point, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
                    .map_err(|errno| Error::io(format!("unmount {}", point.display()), &errno.into()))?;
            }
            Err(errno) => return Err(Error::io(format!("unmount {}", point.display()), &errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Any {
        Any {
            type_url: SPEC_TYPE.into(),
            value: json.as_bytes().to_vec(),
        }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn is_private_and_goes_away_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, state) = (dir.path().join("root"), dir.path().join("state"));
        let stale = root.join("ns/box/stale");
        std::fs::create_dir_all(&stale).expect("made");
        let bundle = Bundle::create(&root, &state, "ns", "box", Some(&spec("{}"))).expect("made");
        assert!(!stale.exists(), "the work directory is new");
        assert_eq!(mode(&bundle.path), 0o700);
        assert_eq!(mode(&bundle.path.join("config.json")), 0o600);
        assert_eq!(
            std::fs::read_link(bundle.path.join("work")).expect("a link"),
            root.join("ns/box")
        );
        assert!(
            Bundle::create(&root, &state, "ns", "box", None)
                .expect_err("taken")
                .is_already_exists()
        );
        assert!(bundle.path.join("config.json").exists(), "the first one is untouched");

        std::fs::create_dir(state.join("ns/.box")).expect("made");
        std::fs::write(state.join("ns/.box/left"), "").expect("written");
        bundle.delete().expect("removed");
        assert!(!bundle.path.exists() && !root.join("ns/box").exists() && !state.join("ns/.box").exists());
        bundle.delete().expect("twice is no error");
    }

    #[test]
    fn a_user_namespace_lets_its_root_group_in() {
        let dir = tempfile::tempdir().expect("a directory");
        let mapped = r#"{"linux":{"gidMappings":[{"containerID":5,"hostID":9},{"containerID":0,"hostID":100000,"size":65536}]}}"#;
        assert_eq!(mapped_root_group(mapped.as_bytes()), Ok(Some(100_000)));
        assert_eq!(mapped_root_group(br#"{"linux":{"gidMappings":null}}"#), Ok(None));
        assert_eq!(mapped_root_group(b"{}"), Ok(None));
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let bundle =
            Bundle::create(dir.path(), &dir.path().join("state"), "ns", "box", Some(&spec(mapped))).expect("made");
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(&bundle.path).expect("it is there");
        assert_eq!((metadata.gid(), metadata.mode() & 0o777), (100_000, 0o710));
    }

    #[test]
    fn a_damaged_specification_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, state) = (dir.path().join("root"), dir.path().join("state"));
        let error = Bundle::create(&root, &state, "ns", "box", Some(&spec("{"))).expect_err("no JSON");
        assert_eq!(error.code, orlop_plugin::contract::Code::InvalidArgument);
        assert!(!state.join("ns/box").exists() && !root.join("ns/box").exists());
        for id in ["", "..", "a/b", "../x"] {
            assert!(Bundle::create(&root, &state, "ns", id, None).is_err(), "{id:?}");
        }
    }

    #[test]
    fn what_is_mounted_is_unmounted_and_never_removed() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let precious = dir.path().join("precious");
        std::fs::create_dir_all(precious.join("sub")).expect("made");
        std::fs::write(precious.join("file"), "kept").expect("written");
        let bundle =
            Bundle::create(&dir.path().join("root"), &dir.path().join("state"), "ns", "box", None).expect("made");
        for point in [bundle.rootfs(), bundle.rootfs().join("sub"), bundle.rootfs()] {
            nix::mount::mount(
                Some(&precious),
                &point,
                None::<&str>,
                nix::mount::MsFlags::MS_BIND,
                None::<&str>,
            )
            .expect("mounted");
        }
        bundle.delete().expect("removed");
        assert!(!bundle.path.exists());
        assert!(precious.join("file").exists(), "the mounted files are untouched");
    }

    #[test]
    fn mount_points_are_found_below_a_directory_only() {
        let table = "1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /run/b/rootfs rw - overlay o rw\n\
                     3 2 0:3 / /run/b/rootfs/my\\040dir rw - tmpfs t rw\n4 1 0:4 / /run/b/rootfs2 rw - tmpfs t rw\n";
        assert_eq!(
            mount_points_below(table, Path::new("/run/b/rootfs")),
            [PathBuf::from("/run/b/rootfs/my dir"), "/run/b/rootfs".into()]
        );
    }
}
