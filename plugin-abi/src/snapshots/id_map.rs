//! User namespaces' id maps, as containerd's clients write them into labels: `CONTAINER:HOST:LENGTH`, several joined by commas.

use super::{GID_MAPPING, UID_MAPPING};
use crate::contract::Labels;
use crate::{Error, Result};

/// The kernel's "no such id": neither an owner nor part of a map.
const INVALID_ID: u32 = u32::MAX;

/// Who owns the root directory of a container with these labels: the host's user and group of its id 0. `None` without a map.
///
/// A missing map of the two means that ids stay what they are.
pub fn root_owner(labels: &Labels) -> Result<Option<(u32, u32)>> {
    let (uids, gids) = (labels.get(UID_MAPPING), labels.get(GID_MAPPING));
    if uids.is_none() && gids.is_none() {
        return Ok(None);
    }
    let root = |label: &str, map: Option<&String>| match map {
        Some(map) => host_root(map).map_err(|why| Error::invalid_argument(format!("label {label}={map:?}: {why}"))),
        None => Ok(0),
    };
    Ok(Some((root(UID_MAPPING, uids)?, root(GID_MAPPING, gids)?)))
}

fn host_root(map: &str) -> Result<u32, String> {
    let mut root = None;
    for entry in map.split(',') {
        let numbers: Vec<u32> = entry
            .split(':')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| format!("{entry:?} is not CONTAINER:HOST:LENGTH"))?;
        let &[container, host, length] = numbers.as_slice() else {
            return Err(format!("{entry:?} is not CONTAINER:HOST:LENGTH"));
        };
        if [container, host, length].contains(&INVALID_ID) || host.checked_add(length).is_none() {
            return Err(format!("{entry:?} reaches past the last id"));
        }
        if container == 0 && length > 0 && root.is_none() {
            root = Some(host);
        }
    }
    root.ok_or_else(|| "it does not map the container's id 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(uids: &str, gids: &str) -> Result<Option<(u32, u32)>> {
        let labels = [(UID_MAPPING, uids), (GID_MAPPING, gids)];
        let labels = labels.iter().filter(|(_, map)| !map.is_empty());
        root_owner(&labels.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn the_root_is_whom_id_zero_is_mapped_to() {
        assert_eq!(owner("", "").expect("none"), None);
        assert_eq!(
            owner("0:1000:65536", "0:2000:65536").expect("valid"),
            Some((1000, 2000))
        );
        assert_eq!(owner("1:5:10,0:1000:1", "0:7:1").expect("valid"), Some((1000, 7)));
        assert_eq!(owner("0:1000:10", "").expect("valid"), Some((1000, 0)));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "0",
            "0:1",
            "0:1:2:3",
            "a:b:c",
            "-1:0:1",
            "1:0:1",
            "0:0:0",
            "0:4294967295:1",
            "0:4294967294:9",
            "0:1:1,",
        ] {
            assert!(owner(bad, "0:0:1").is_err(), "{bad}");
        }
    }
}
