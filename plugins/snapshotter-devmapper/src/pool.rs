//! The thin pool, and what it does with thin devices.
//!
//! See "thin-provisioning" in the kernel's guide to the device-mapper. A device has a number inside the pool, and, while it is active, a name
//! beside it in `/dev/mapper`: `POOL-snap-ID`, as containerd calls it.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use orlop_plugin::{Error, Result};

use crate::config::DEVICES;
use crate::devices::Device;
use crate::dmsetup::{Dmsetup, Failure, SECTOR, Target, if_there};

const KIND_OF_POOL: &str = "thin-pool";
const KIND_OF_DEVICE: &str = "thin";

/// A thin pool that is there already.
pub(crate) struct Pool {
    name: String,
    dmsetup: Dmsetup,
    /// Between a suspension and its end: who resumed a device under somebody else's snapshot of it would break that.
    suspending: Mutex<()>,
}

// === impl Pool ===

impl Pool {
    /// The pool called `name`.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let pool = Self {
            name: name.to_owned(),
            dmsetup: Dmsetup::find()?,
            suspending: Mutex::default(),
        };
        pool.status()?;
        Ok(pool)
    }

    /// What the device of snapshot `id` is called.
    pub(crate) fn device_name(&self, id: u64) -> String {
        format!("{}{id}", self.prefix())
    }

    /// Where the device of snapshot `id` is.
    pub(crate) fn device_path(&self, id: u64) -> PathBuf {
        PathBuf::from(format!("{DEVICES}{}", self.device_name(id)))
    }

    fn prefix(&self) -> String {
        format!("{}-snap-", self.name)
    }

    fn status(&self) -> Result<Target> {
        let status = self.dmsetup.status(&self.name)?.ok_or_else(|| {
            Error::failed_precondition(format!(
                "there is no thin pool {:?} (pool_name): make it first, as docs/devmapper.md tells",
                self.name
            ))
        })?;
        if status.kind != KIND_OF_POOL {
            return Err(Error::failed_precondition(format!(
                "the device {:?} (pool_name) is no thin pool: it is of the kind {:?}",
                self.name, status.kind
            )));
        }
        Ok(status)
    }

    /// Whether it can take more: an error that says what is wrong with it.
    pub(crate) fn ready(&self) -> Result<()> {
        ready(&self.name, &self.status()?.words)
    }

    /// Makes an empty device inside the pool.
    pub(crate) fn create(&self, number: u32) -> Result<(), Failure> {
        self.dmsetup.message(&self.name, &format!("create_thin {number}"))
    }

    /// Makes a device that shares everything with `origin`, the device of snapshot `id`.
    pub(crate) fn snapshot(&self, number: u32, id: u64, origin: &Device) -> Result<(), Failure> {
        self.held(id, origin, || {
            self.dmsetup
                .message(&self.name, &format!("create_snap {number} {}", origin.number))
        })?
    }

    /// Writes out what is pending on an active device, and in a file system that is mounted from it.
    pub(crate) fn flush(&self, id: u64, device: &Device) -> Result<()> {
        let path = self.device_path(id);
        // Which works while no file system has it.
        let alone = OpenOptions::new()
            .write(true)
            .custom_flags(OFlag::O_EXCL.bits())
            .open(&path);
        match alone.and_then(|file| file.sync_all()) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(self.held(id, device, || ())?),
            result => result.map_err(|error| Error::io(format!("sync {}", path.display()), &error)),
        }
    }

    /// Does `work` while `device`, should it be active, takes no writes and has none pending.
    fn held<T>(&self, id: u64, device: &Device, work: impl FnOnce() -> T) -> Result<T, Failure> {
        let name = self.device_name(id);
        let _alone = self.suspending.lock().unwrap_or_else(PoisonError::into_inner);
        // It may go at any time, if it was only waiting for its last user.
        let active = self.is_active(id, device)? && if_there(self.dmsetup.suspend(&name))?.is_some();
        let done = work();
        if active {
            // By then the work is done.
            if_there(self.dmsetup.resume(&name)).map_err(Failure::uncertain)?;
        }
        Ok(done)
    }

    /// Makes the device that the pool has usable as [`Pool::device_path`]. It is fine if it is already.
    pub(crate) fn activate(&self, id: u64, device: &Device) -> Result<()> {
        let name = self.device_name(id);
        let table = format!(
            "0 {} {KIND_OF_DEVICE} {DEVICES}{} {}",
            device.size / SECTOR,
            self.name,
            device.number
        );
        match self.dmsetup.create(&name, &table) {
            Err(failure) if failure.errno == Some(Errno::EBUSY) && self.is_active(id, device)? => {
                if self.device_path(id).exists() {
                    return Ok(());
                }
                Ok(self.dmsetup.make_node(&name)?)
            }
            result => Ok(result?),
        }
    }

    /// [`Pool::activate`], for a device that most likely is active.
    pub(crate) fn stay_active(&self, id: u64, device: &Device) -> Result<()> {
        if self.is_active(id, device)? && self.device_path(id).exists() {
            return Ok(());
        }
        self.activate(id, device)
    }

    /// Takes an active device out of `/dev/mapper` when nobody uses it any more.
    pub(crate) fn deactivate_later(&self, id: u64) -> Result<()> {
        let _alone = self.suspending.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.dmsetup.remove_later(&self.device_name(id))?)
    }

    /// Takes a device out of `/dev/mapper` and out of the pool. It is fine if either has none. `Unavailable` while it is in use.
    pub(crate) fn delete(&self, id: u64, device: &Device) -> Result<()> {
        let message = format!("delete {}", device.number);
        let delete = || match self.dmsetup.message(&self.name, &message) {
            Err(failure) if failure.errno == Some(Errno::ENODATA) => Ok(()),
            result => result,
        };
        match delete() {
            // It is active, or was in use a moment ago.
            Err(failure) if failure.errno == Some(Errno::EBUSY) => {}
            result => return Ok(result?),
        }
        if self.is_active(id, device)? {
            self.dmsetup.remove(&self.device_name(id))?;
        }
        Ok(delete()?)
    }

    /// The bytes that an active device has mapped, those it shares included.
    pub(crate) fn mapped(&self, id: u64) -> Result<u64> {
        let name = self.device_name(id);
        let status = self
            .dmsetup
            .status(&name)?
            .ok_or_else(|| Error::failed_precondition(format!("the device {name} is not active")))?;
        // MAPPED_SECTORS HIGHEST_MAPPED_SECTOR
        let sectors = status.words.first().and_then(|word| word.parse::<u64>().ok());
        sectors.map(|sectors| sectors * SECTOR).ok_or_else(|| {
            Error::internal(format!(
                "the state of the device {name} is {:?}, and should begin with a number of sectors",
                status.words.join(" ")
            ))
        })
    }

    /// The ids of the snapshots whose devices are active, or seem so by their names; and whether they are suspended.
    pub(crate) fn active(&self) -> Result<Vec<(u64, bool)>> {
        let prefix = self.prefix();
        let loaded = self.dmsetup.loaded(&prefix)?;
        let ids = loaded.into_iter().filter_map(|device| {
            let id = device.name.strip_prefix(&prefix)?.parse().ok()?;
            Some((id, device.suspended))
        });
        Ok(ids.collect())
    }

    /// Lets an active device go on that a crash left suspended.
    pub(crate) fn resume(&self, id: u64) -> Result<()> {
        if_there(self.dmsetup.resume(&self.device_name(id)))?;
        Ok(())
    }

    /// Whether the device is active. An error when something else has its name: that is somebody else's, and not touched.
    pub(crate) fn is_active(&self, id: u64, device: &Device) -> Result<bool, Failure> {
        let name = self.device_name(id);
        let Some(table) = self.dmsetup.table(&name)? else {
            return Ok(false);
        };
        // POOL_DEVICE NUMBER
        let pool = std::fs::metadata(format!("{DEVICES}{}", self.name))
            .map(|metadata| metadata.rdev())
            .map(|device| format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device)));
        let ours = [pool.unwrap_or_default(), device.number.to_string()];
        if table.kind == KIND_OF_DEVICE && table.words == ours {
            return Ok(true);
        }
        Err(Failure::certain(Error::failed_precondition(format!(
            "the device {name} is somebody else's ({} {}, and ours is {KIND_OF_DEVICE} {}): does another daemon use the pool? If not, it is left \
             from a root that is gone, and `dmsetup remove {name}` removes it",
            table.kind,
            table.words.join(" "),
            ours.join(" ")
        ))))
    }
}

/// Reads a pool's status: `TRANSACTION USED/TOTAL USED/TOTAL HELD_ROOT MODE …`, first blocks of metadata, then of data.
fn ready(pool: &str, words: &[String]) -> Result<()> {
    if words.len() < 5 {
        return Err(Error::failed_precondition(format!(
            "the thin pool {pool:?} is out of order (its state is {:?}): its metadata wants repair, see thin_check(8) and thin_repair(8)",
            words.join(" ")
        )));
    }
    let full = |what: &str, blocks: &str| {
        Error::resource_exhausted(format!(
            "the thin pool {pool:?} is out of {what} space ({blocks} blocks are used): enlarge it, or remove images and containers"
        ))
    };
    let is_full = |blocks: &str| {
        let numbers = blocks
            .split_once('/')
            .and_then(|(used, total)| Some((used.parse::<u64>().ok()?, total.parse::<u64>().ok()?)));
        numbers.is_some_and(|(used, total)| used >= total)
    };
    if is_full(&words[1]) {
        return Err(full("metadata", &words[1]));
    }
    if words[4] == "out_of_data_space" || is_full(&words[2]) {
        return Err(full("data", &words[2]));
    }
    if words[4] == "ro" || words.iter().any(|word| word == "needs_check") {
        return Err(Error::failed_precondition(format!(
            "the thin pool {pool:?} is read-only: its metadata wants a check, see thin_check(8)"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_plugin::contract::Code;

    fn said(status: &str) -> Result<()> {
        let words: Vec<String> = status.split(' ').map(str::to_owned).collect();
        ready("thin", &words)
    }

    #[test]
    fn a_pool_says_what_is_wrong_with_it() {
        let fine = "0 17/1024 210/16384 - rw discard_passdown queue_if_no_space - 1024";
        assert_eq!(said(fine), Ok(()));
        let full = said("0 17/1024 16384/16384 - out_of_data_space discard_passdown queue_if_no_space - 1024");
        let full = full.expect_err("full");
        assert_eq!(full.code, Code::ResourceExhausted);
        assert!(full.message.contains("data space (16384/16384 blocks"), "{full}");
        let full = said("0 1024/1024 1/16384 - rw discard_passdown queue_if_no_space - 1024").expect_err("full");
        assert!(full.message.contains("metadata space"), "{full}");
        for broken in [
            "Fail",
            "0 17/1024 210/16384 - ro discard_passdown queue_if_no_space needs_check 1024",
        ] {
            let error = said(broken).expect_err("broken");
            assert_eq!(error.code, Code::FailedPrecondition);
            assert!(error.message.contains("thin_check"), "{error}");
        }
    }
}
