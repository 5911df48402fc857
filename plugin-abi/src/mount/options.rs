//! Options as in fstab, read. Pure.

use nix::mount::MsFlags;

use crate::contract::Mount;

/// The options of a mount, sorted by who reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// What `mount(2)` itself understands.
    pub flags: MsFlags,
    /// How mounts and unmounts spread; a call of its own. Empty: not said.
    pub propagation: MsFlags,
    /// Whether the source is an image that a loop device must carry.
    pub loop_device: bool,
    /// Whose user ids the mount shows, `CONTAINER:HOST:LENGTH,…`.
    pub uid_map: Option<String>,
    /// The same for group ids.
    pub gid_map: Option<String>,
    /// What the file system understands.
    pub data: Vec<String>,
}

/// What a word does.
enum Word {
    Set(MsFlags),
    Clear(MsFlags),
    Propagation(MsFlags),
    Loop,
}

fn word(option: &str) -> Option<Word> {
    use Word::{Clear, Loop, Propagation, Set};
    Some(match option {
        "async" => Clear(MsFlags::MS_SYNCHRONOUS),
        "atime" => Clear(MsFlags::MS_NOATIME),
        "bind" => Set(MsFlags::MS_BIND),
        "dev" => Clear(MsFlags::MS_NODEV),
        "diratime" => Clear(MsFlags::MS_NODIRATIME),
        "dirsync" => Set(MsFlags::MS_DIRSYNC),
        "exec" => Clear(MsFlags::MS_NOEXEC),
        "mand" => Set(MsFlags::MS_MANDLOCK),
        "noatime" => Set(MsFlags::MS_NOATIME),
        "nodev" => Set(MsFlags::MS_NODEV),
        "nodiratime" => Set(MsFlags::MS_NODIRATIME),
        "noexec" => Set(MsFlags::MS_NOEXEC),
        "nomand" => Clear(MsFlags::MS_MANDLOCK),
        "norelatime" => Clear(MsFlags::MS_RELATIME),
        "nostrictatime" => Clear(MsFlags::MS_STRICTATIME),
        "nosuid" => Set(MsFlags::MS_NOSUID),
        "rbind" => Set(MsFlags::MS_BIND.union(MsFlags::MS_REC)),
        "relatime" => Set(MsFlags::MS_RELATIME),
        "remount" => Set(MsFlags::MS_REMOUNT),
        "ro" => Set(MsFlags::MS_RDONLY),
        "rw" => Clear(MsFlags::MS_RDONLY),
        "strictatime" => Set(MsFlags::MS_STRICTATIME),
        "suid" => Clear(MsFlags::MS_NOSUID),
        "sync" => Set(MsFlags::MS_SYNCHRONOUS),
        "defaults" => Set(MsFlags::empty()),
        "private" => Propagation(MsFlags::MS_PRIVATE),
        "shared" => Propagation(MsFlags::MS_SHARED),
        "slave" => Propagation(MsFlags::MS_SLAVE),
        "unbindable" => Propagation(MsFlags::MS_UNBINDABLE),
        "rprivate" => Propagation(MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
        "rshared" => Propagation(MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
        "rslave" => Propagation(MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
        "runbindable" => Propagation(MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC)),
        "loop" => Loop,
        _ => return None,
    })
}

// === impl MountOptions ===

impl MountOptions {
    /// Sorts `options`; later ones win over earlier ones.
    pub fn parse(options: &[String]) -> Self {
        let mut parsed = Self {
            flags: MsFlags::empty(),
            propagation: MsFlags::empty(),
            loop_device: false,
            uid_map: None,
            gid_map: None,
            data: Vec::new(),
        };
        for option in options {
            match word(option) {
                Some(Word::Set(flags)) => parsed.flags |= flags,
                Some(Word::Clear(flags)) => parsed.flags -= flags,
                Some(Word::Propagation(flags)) => parsed.propagation = flags,
                Some(Word::Loop) => parsed.loop_device = true,
                None => match option.split_once('=') {
                    Some(("uidmap", map)) => parsed.uid_map = Some(map.to_owned()),
                    Some(("gidmap", map)) => parsed.gid_map = Some(map.to_owned()),
                    _ => parsed.data.push(option.clone()),
                },
            }
        }
        parsed
    }
}

/// The same mounts, not to be written: an overlay's upper directory becomes its topmost lower one.
pub fn read_only(mounts: &[Mount]) -> Vec<Mount> {
    mounts
        .iter()
        .map(|mount| {
            let mut mount = mount.clone();
            if mount.kind == "overlay" {
                mount.options = read_only_overlay(&mount.options);
            } else {
                mount.options.retain(|option| option != "rw" && option != "ro");
                mount.options.push("ro".to_owned());
            }
            mount
        })
        .collect()
}

fn read_only_overlay(options: &[String]) -> Vec<String> {
    let upper = options.iter().find_map(|option| option.strip_prefix("upperdir="));
    options
        .iter()
        .filter(|option| !option.starts_with("upperdir=") && !option.starts_with("workdir="))
        // What is in the upper directory belongs to the host's ids already: mapped once more it would be nobody's.
        .filter(|option| upper.is_none() || !(option.starts_with("uidmap=") || option.starts_with("gidmap=")))
        // Only an overlay with an upper directory can be volatile.
        .filter(|option| *option != "volatile")
        .map(|option| match (option.strip_prefix("lowerdir="), upper) {
            (Some(lower), Some(upper)) => format!("lowerdir={upper}:{lower}"),
            _ => option.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(options: &str) -> Vec<String> {
        options.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn words_become_flags_and_the_rest_is_data() {
        let parsed = MountOptions::parse(&words(
            "rbind ro nosuid rprivate size=1m loop suid uidmap=0:1:2 index=off",
        ));
        assert_eq!(parsed.flags, MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY);
        assert_eq!(parsed.propagation, MsFlags::MS_PRIVATE | MsFlags::MS_REC);
        assert!(parsed.loop_device);
        assert_eq!(parsed.data, ["size=1m", "index=off"]);
        assert_eq!((parsed.uid_map.as_deref(), parsed.gid_map), (Some("0:1:2"), None));
        assert_eq!(MountOptions::parse(&words("ro rw")).flags, MsFlags::empty());
    }

    #[test]
    fn read_only_overlays_lose_their_upper_directory() {
        let mount = |kind: &str, options: &str| Mount {
            kind: kind.into(),
            source: "s".into(),
            target: String::new(),
            options: words(options),
        };
        let read = read_only(&[
            mount(
                "overlay",
                "uidmap=0:1:2 gidmap=0:1:2 index=off workdir=/w upperdir=/u lowerdir=/a:/b",
            ),
            mount("bind", "rw rbind"),
        ]);
        assert_eq!(read[0].options, ["index=off", "lowerdir=/u:/a:/b"]);
        assert_eq!(read[1].options, ["rbind", "ro"]);
    }
}
