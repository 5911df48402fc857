//! Capabilities: their names, and the sets containers get.

use super::model::Capabilities;
use anyhow::{Result, ensure};

/// What a container has unless told otherwise.
pub const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability, at the index that is its number (capabilities(7), `linux/capability.h`).
const KNOWN: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The names of the bits of a capability mask; bits without a name are newer than this client and left out.
pub fn from_mask(mask: u64) -> Vec<String> {
    KNOWN
        .iter()
        .enumerate()
        .filter(|(bit, _)| mask & (1 << bit) != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

/// Refuses names without the `CAP_` prefix, which runtimes would drop with a warning that nobody sees.
pub fn check_names(names: &[String]) -> Result<()> {
    for name in names {
        ensure!(
            name.starts_with("CAP_"),
            "capabilities must be specified with 'CAP_' prefix, not {name:?}"
        );
    }
    Ok(())
}

impl Capabilities {
    /// Makes all three sets equal to `names`.
    pub fn set(&mut self, names: &[String]) {
        for set in self.sets() {
            *set = names.to_vec();
        }
    }

    /// Adds `names` to all three sets.
    pub fn add(&mut self, names: &[String]) {
        for set in self.sets() {
            for name in names {
                if !set.contains(name) {
                    set.push(name.clone());
                }
            }
        }
    }

    /// Takes `names` out of all three sets.
    pub fn drop(&mut self, names: &[String]) {
        for set in self.sets() {
            set.retain(|held| !names.contains(held));
        }
    }

    fn sets(&mut self) -> [&mut Vec<String>; 3] {
        [&mut self.bounding, &mut self.effective, &mut self.permitted]
    }
}
