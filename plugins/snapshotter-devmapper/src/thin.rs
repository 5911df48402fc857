//! What a snapshot is made of: a thin device with a file system.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use orlop_plugin::contract::{Mount, SnapshotInfo, SnapshotKind, Usage};
use orlop_plugin::mount::{Access, TempMount};
use orlop_plugin::snapshots::{Directories, Layers, Snapshot, remove_tree};
use orlop_plugin::{Error, Result, program, tracing};

use crate::config::{FileSystem, Settings};
use crate::devices::{Device, Devices};
use crate::discard;
use crate::pool::Pool;

/// The label with a snapshot's file system, as containerd shows it.
const FILE_SYSTEM_LABEL: &str = "containerd.io/snapshot/devmapper/fstype";
/// How many numbers that somebody else's devices have are passed over for one device.
const FOREIGN_NUMBERS: u32 = 1000;
/// xfs refuses a second file system with the same UUID, and every snapshot has its parent's.
const XFS_SAME_UUID: &str = "nouuid";

/// Snapshots as thin devices.
pub(crate) struct ThinDevices {
    pool: Pool,
    devices: Arc<Devices>,
    settings: Settings,
    mkfs: PathBuf,
    discard: bool,
    /// One device at a time: the number of one that is gone may belong to another a moment later.
    erasing: Mutex<()>,
}

/// The program that makes the file system.
fn mkfs(file_system: FileSystem, find: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    let name = file_system.mkfs();
    find(&name).ok_or_else(|| {
        Error::failed_precondition(format!(
            "{name}, which makes the file systems of snapshots (fs_type), is not there: install it (Debian's package {})",
            file_system.package()
        ))
    })
}

// === impl ThinDevices ===

impl ThinDevices {
    /// Devices in the pool of `settings`, with their records. Blocks.
    pub(crate) fn open(settings: Settings, devices: Arc<Devices>, discard: bool) -> Result<Self> {
        let pool = Pool::open(&settings.pool)?;
        let mkfs = mkfs(settings.file_system, program::find)?;
        let thin = Self {
            pool,
            devices,
            settings,
            mkfs,
            discard,
            erasing: Mutex::default(),
        };
        thin.after_a_crash()?;
        Ok(thin)
    }

    /// Ends what a crash interrupted: whoever uses a suspended device hangs, and a committed one is not for use.
    fn after_a_crash(&self) -> Result<()> {
        for (id, suspended) in self.pool.active()? {
            let Some(device) = self.devices.find(id)? else { continue };
            if let Err(error) = self.tidy(id, &device, suspended) {
                tracing::warn!(%error, device = self.pool.device_name(id), "a device stays as a crash left it");
            }
        }
        Ok(())
    }

    fn tidy(&self, id: u64, device: &Device, suspended: bool) -> Result<()> {
        if !(suspended || device.committed.is_some()) || !self.pool.is_active(id, device)? {
            return Ok(());
        }
        if suspended {
            self.pool.resume(id)?;
        }
        if device.committed.is_some() {
            self.pool.deactivate_later(id)?;
        }
        Ok(())
    }

    /// Makes the device of snapshot `id` in the pool, over its parent's if it has one.
    fn create(&self, id: u64, parent: Option<(u64, &Device)>) -> Result<Device> {
        let (size, file_system) = match parent {
            // The file system of a child is its parent's, and must fit.
            Some((_, parent)) => (self.settings.size.max(parent.size), parent.file_system),
            None => (self.settings.size, self.settings.file_system),
        };
        for _ in 0..FOREIGN_NUMBERS {
            let number = self.devices.reserve(id, size, file_system)?;
            let made = match parent {
                Some((parent, device)) => self.pool.snapshot(number, parent, device),
                None => self.pool.create(number),
            };
            match made {
                Ok(()) => {
                    self.devices.created(id)?;
                    return self.devices.get(id);
                }
                Err(failure) if failure.errno == Some(Errno::EEXIST) => {
                    tracing::warn!(
                        number,
                        pool = self.settings.pool,
                        "somebody else's device has this number; it is passed over"
                    );
                    self.devices
                        .abandon(id, "somebody else has a device with this number")?;
                }
                // Otherwise the record stays, for what is known of it.
                Err(failure) if failure.certain => {
                    self.devices.forget(id)?;
                    return Err(failure.into());
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(Error::failed_precondition(format!(
            "{FOREIGN_NUMBERS} numbers in a row are somebody else's devices in the thin pool {:?}: use a pool that is this snapshotter's alone",
            self.settings.pool
        )))
    }

    /// Makes an empty file system on the active device of snapshot `id`.
    fn make_file_system(&self, id: u64) -> Result<()> {
        let device = self.pool.device_path(id);
        let doing = || format!("make a file system on {}", device.display());
        let output = Command::new(&self.mkfs)
            .arg("-q")
            .args(&self.settings.mkfs_options)
            .arg(&device)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Error::io(format!("{}: start {}", doing(), self.mkfs.display()), &error))?;
        if !output.status.success() {
            // More likely than anything else; and mkfs knows only of failed writes.
            self.pool.ready().map_err(|error| error.context(doing()))?;
            let said = [output.stderr, output.stdout].map(|text| String::from_utf8_lossy(&text).trim().to_owned());
            return Err(Error::internal(format!(
                "{}: {} ended with {}: {}",
                doing(),
                self.mkfs.display(),
                output.status,
                said.join(" ").trim()
            )));
        }
        if self.settings.file_system == FileSystem::Xfs {
            return Ok(());
        }
        // mkfs.ext4 puts a directory there that no image has.
        let mounted = TempMount::new(&[self.mount(id, self.settings.file_system, false)], Access::Write)?;
        match std::fs::remove_dir(mounted.path().join("lost+found")) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io(doing(), &error)),
            _ => {}
        }
        mounted.unmount()
    }

    fn mount(&self, id: u64, file_system: FileSystem, read_only: bool) -> Mount {
        let mut options = Vec::new();
        if file_system == FileSystem::Xfs {
            options.push(XFS_SAME_UUID.to_owned());
        }
        if read_only {
            options.push("ro".to_owned());
        }
        Mount {
            kind: file_system.name().to_owned(),
            source: self.pool.device_path(id).display().to_string(),
            target: String::new(),
            options,
        }
    }

    /// What an active device has mapped beyond what its parent had when that was committed: containerd's reckoning, in which a block that was
    /// overwritten is not a new one.
    fn added(&self, snapshot: &Snapshot, mapped: u64) -> Result<Usage> {
        let below = match snapshot.parents.first() {
            Some(parent) => self.devices.get(*parent)?.committed.unwrap_or(0),
            None => 0,
        };
        Ok(Usage {
            inodes: 0,
            size: mapped.saturating_sub(below),
        })
    }

    fn discard(&self, id: u64, device: &Device) -> Result<()> {
        self.pool.stay_active(id, device)?;
        let path = self.pool.device_path(id);
        discard::all(&path).map_err(|error| Error::io(format!("discard the blocks of {}", path.display()), &error))
    }

    /// Removes the device of snapshot `id` and its record, if it has one.
    fn erase(&self, id: u64) -> Result<()> {
        let _alone = self.erasing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(device) = self.devices.find(id)? else {
            return Ok(());
        };
        if !device.made {
            tracing::warn!(
                pool = self.settings.pool,
                number = device.number,
                "a crash left open whether the pool has this device, and it may be somebody else's: its number is not used again"
            );
            return self.devices.abandon(id, "a crash while it was made");
        }
        if self.discard
            && let Err(error) = self.discard(id, &device)
        {
            // Without it, the blocks are the pool's again all the same.
            tracing::warn!(%error, "the blocks of a removed snapshot are not discarded");
        }
        self.pool.delete(id, &device)?;
        self.devices.forget(id)
    }
}

impl Layers for ThinDevices {
    // Whether a device is active is asked of the kernel.
    const MOUNTS_BLOCK: bool = true;

    fn make(&self, _: &Directories, snapshot: &Snapshot) -> Result<()> {
        self.pool.ready()?;
        // A crash may have left one under this number, and taken its directory.
        if self.devices.find(snapshot.id)?.is_some() {
            self.erase(snapshot.id)?;
        }
        let parent = snapshot.parents.first().copied();
        let below = parent.map(|parent| self.devices.get(parent)).transpose()?;
        let device = self.create(snapshot.id, parent.zip(below.as_ref()))?;
        self.pool.activate(snapshot.id, &device)?;
        if parent.is_none() {
            self.make_file_system(snapshot.id)?;
        }
        Ok(())
    }

    fn mounts(&self, _: &Directories, snapshot: &Snapshot) -> Result<Vec<Mount>> {
        let device = self.devices.get(snapshot.id)?;
        // After a reboot it is not.
        self.pool.stay_active(snapshot.id, &device)?;
        let read_only = snapshot.info.kind == SnapshotKind::View;
        Ok(vec![self.mount(snapshot.id, device.file_system, read_only)])
    }

    fn usage(&self, _: &Directories, snapshot: &Snapshot) -> Result<Usage> {
        let device = self.devices.get(snapshot.id)?;
        self.pool.stay_active(snapshot.id, &device)?;
        self.added(snapshot, self.pool.mapped(snapshot.id)?)
    }

    fn commit(&self, _: &Directories, snapshot: &Snapshot) -> Result<Usage> {
        let device = self.devices.get(snapshot.id)?;
        self.pool.stay_active(snapshot.id, &device)?;
        self.pool.flush(snapshot.id, &device)?;
        let mapped = self.pool.mapped(snapshot.id)?;
        self.devices.committed(snapshot.id, Some(mapped))?;
        self.added(snapshot, mapped)
    }

    fn revert(&self, _: &Directories, snapshot: &Snapshot) -> Result<()> {
        self.devices.committed(snapshot.id, None)
    }

    /// Nobody looks into a committed snapshot's device: without it, no other program can write to it by mistake.
    fn settle(&self, _: &Directories, snapshot: &Snapshot) -> Result<()> {
        self.pool.deactivate_later(snapshot.id)
    }

    fn unmake(&self, directory: &Path) -> Result<()> {
        let id = directory.file_name().and_then(|name| name.to_str()?.parse().ok());
        if let Some(id) = id {
            self.erase(id)?;
        }
        remove_tree(directory)
    }

    fn describe(&self, _: &Directories, id: u64, info: &mut SnapshotInfo) {
        // Its label is the least that is wrong with a snapshot that has no device.
        if let Ok(Some(device)) = self.devices.find(id) {
            let name = device.file_system.name().to_owned();
            info.labels.insert(FILE_SYSTEM_LABEL.to_owned(), name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_file_systems_is_looked_for_at_once() {
        let missing = mkfs(FileSystem::Xfs, |_| None).expect_err("nothing is found");
        assert!(
            missing.message.contains("mkfs.xfs") && missing.message.contains("xfsprogs"),
            "{missing}"
        );
        let found = mkfs(FileSystem::Ext4, |name| Some(Path::new("/sbin").join(name)));
        assert_eq!(found, Ok(PathBuf::from("/sbin/mkfs.ext4")));
    }
}
