//! User namespaces' id maps in the labels of snapshots.

use super::{GID_MAPPING, UID_MAPPING};
use crate::contract::Labels;
use crate::id_map::IdMap;
use crate::{Error, Result};

/// Who owns the root directory of a container with these labels: the host's user and group of its id 0. `None` without a map.
///
/// As in containerd there are both maps or none: with one alone nothing can be mounted.
pub fn root_owner(labels: &Labels) -> Result<Option<(u32, u32)>> {
    let (uids, gids) = match (labels.get(UID_MAPPING), labels.get(GID_MAPPING)) {
        (None, None) => return Ok(None),
        (Some(uids), Some(gids)) => (uids, gids),
        (uids, _) => {
            let (there, missing) = if uids.is_some() {
                (UID_MAPPING, GID_MAPPING)
            } else {
                (GID_MAPPING, UID_MAPPING)
            };
            return Err(Error::invalid_argument(format!(
                "label {there} is there and {missing} is not: ids are mapped by both or not at all"
            )));
        }
    };
    let root = |label: &str, map: &str| {
        let root = map.parse().and_then(|map: IdMap| map.root());
        root.map_err(|why| Error::invalid_argument(format!("label {label}={map:?}: {why}")))
    };
    Ok(Some((root(UID_MAPPING, uids)?, root(GID_MAPPING, gids)?)))
}

/// The options that make a mount show the ids of a container with these labels (`uidmap=`, `gidmap=`). None without a map.
pub fn map_options(labels: &Labels) -> Vec<String> {
    let option = |key: &str, label: &str| labels.get(label).map(|map| format!("{key}={map}"));
    [option("uidmap", UID_MAPPING), option("gidmap", GID_MAPPING)]
        .into_iter()
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(uids: &str, gids: &str) -> Labels {
        let labels = [(UID_MAPPING, uids), (GID_MAPPING, gids)];
        let labels = labels.iter().filter(|(_, map)| !map.is_empty());
        labels.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn owner(uids: &str, gids: &str) -> Result<Option<(u32, u32)>> {
        root_owner(&labels(uids, gids))
    }

    #[test]
    fn the_root_is_whom_id_zero_is_mapped_to() {
        assert_eq!(owner("", "").expect("none"), None);
        assert_eq!(
            owner("0:1000:65536", "0:2000:65536").expect("valid"),
            Some((1000, 2000))
        );
        assert_eq!(owner("1:5:10,0:1000:1", "0:7:1").expect("valid"), Some((1000, 7)));
    }

    #[test]
    fn one_map_alone_and_maps_without_a_root_are_refused() {
        for (uids, gids) in [
            ("0:1000:10", ""),
            ("", "0:1000:10"),
            ("1:0:1", "0:0:1"),
            ("0:0:0", "0:0:1"),
            ("0:0:1", "x"),
        ] {
            assert!(owner(uids, gids).is_err(), "{uids} {gids}");
        }
    }

    #[test]
    fn a_mount_is_told_the_maps() {
        assert_eq!(map_options(&labels("", "")), [""; 0]);
        assert_eq!(
            map_options(&labels("0:1000:10", "0:2000:10")),
            ["uidmap=0:1000:10", "gidmap=0:2000:10"]
        );
    }
}
