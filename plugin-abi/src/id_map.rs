//! Maps of user or group ids as containerd writes them, into labels and into mount options: `CONTAINER:HOST:LENGTH,…`. Pure.

use std::fmt::Write as _;
use std::str::FromStr;

/// The kernel's "no such id": neither an owner nor part of a map.
const INVALID_ID: u32 = u32::MAX;

/// Which ids of the host those of a container are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMap(Vec<Entry>);

/// `length` ids from `container` on are those from `host` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    container: u32,
    host: u32,
    length: u32,
}

impl FromStr for IdMap {
    type Err = String;

    fn from_str(map: &str) -> Result<Self, String> {
        map.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(entry: &str) -> Result<Self, String> {
        let malformed = || format!("{entry:?} is not CONTAINER:HOST:LENGTH");
        let numbers: Vec<u32> = entry
            .split(':')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| malformed())?;
        let &[container, host, length] = numbers.as_slice() else {
            return Err(malformed());
        };
        let past_the_last = |first: u32| first == INVALID_ID || first.checked_add(length).is_none();
        if past_the_last(container) || past_the_last(host) {
            return Err(format!("{entry:?} reaches past the last id"));
        }
        Ok(Self {
            container,
            host,
            length,
        })
    }
}

// === impl IdMap ===

impl IdMap {
    /// The host's id of the container's id 0.
    #[cfg(feature = "snapshots")]
    pub(crate) fn root(&self) -> Result<u32, String> {
        let root = self.0.iter().find(|entry| entry.container == 0 && entry.length > 0);
        root.map(|entry| entry.host)
            .ok_or_else(|| "it does not map the container's id 0".to_owned())
    }

    /// What `/proc/PID/uid_map` takes, user_namespaces(7).
    #[cfg_attr(
        not(feature = "mount"),
        expect(dead_code, reason = "only mounts make user namespaces")
    )]
    pub(crate) fn for_the_kernel(&self) -> String {
        let mut text = String::new();
        for entry in &self.0 {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{} {} {}", entry.container, entry.host, entry.length);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_and_written_for_the_kernel() {
        let map: IdMap = "1:5:10,0:1000:1".parse().expect("valid");
        assert_eq!(map.for_the_kernel(), "1 5 10\n0 1000 1\n");
        #[cfg(feature = "snapshots")]
        assert_eq!(map.root(), Ok(1000));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "0",
            "0:1",
            "0:1:2:3",
            "a:b:c",
            "-1:0:1",
            "0:4294967295:1",
            "4294967295:0:1",
            "0:4294967294:9",
            "4294967294:0:9",
            "0:1:1,",
        ] {
            assert!(bad.parse::<IdMap>().is_err(), "{bad}");
        }
    }
}
