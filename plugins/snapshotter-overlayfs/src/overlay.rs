//! The directories and the mounts of a snapshot.

use std::os::unix::fs::{MetadataExt, lchown};
use std::path::PathBuf;

use orlop_plugin::contract::{Mount, SnapshotInfo, SnapshotKind, Usage};
use orlop_plugin::snapshots::{Directories, Layers, Snapshot, disk_usage, map_options, root_owner};
use orlop_plugin::{Error, Result};

use crate::probe::Support;

/// With `upperdir_label`: where a snapshot's own files are.
const UPPERDIR_LABEL: &str = "containerd.io/snapshot/overlay.upperdir";

/// Snapshots as overlays.
pub(crate) struct Overlay {
    upperdir_label: bool,
    /// Whether mounts show a container's own ids.
    maps_ids: bool,
    /// The options of every overlay.
    options: Vec<String>,
}

fn upper(directories: &Directories, id: u64) -> PathBuf {
    directories.of(id).join("fs")
}

fn bind(source: PathBuf, mut options: Vec<String>, access: &str) -> Vec<Mount> {
    options.extend([access.to_owned(), "rbind".to_owned()]);
    vec![Mount {
        kind: "bind".to_owned(),
        source: source.display().to_string(),
        target: String::new(),
        options,
    }]
}

/// The upper directory is the root of the mount: its owner is the container's root, or whoever owns the layer below.
fn own(directories: &Directories, snapshot: &Snapshot) -> Result<()> {
    let fs = upper(directories, snapshot.id);
    let owner = match (root_owner(&snapshot.info.labels)?, snapshot.parents.first()) {
        (Some(owner), _) => Some(owner),
        (None, Some(parent)) => {
            let parent = upper(directories, *parent);
            let below = std::fs::metadata(&parent)
                .map_err(|error| Error::io(format!("look at the parent's {}", parent.display()), &error))?;
            Some((below.uid(), below.gid()))
        }
        (None, None) => None,
    };
    if let Some((uid, gid)) = owner {
        lchown(&fs, Some(uid), Some(gid))
            .map_err(|error| Error::io(format!("give {} to {uid}:{gid}", fs.display()), &error))?;
    }
    Ok(())
}

// === impl Overlay ===

impl Overlay {
    /// `options` are the user's and win over what the kernel would get by default.
    pub(crate) fn new(support: Support, upperdir_label: bool, options: Vec<String>) -> Self {
        let mut all = Vec::new();
        if support.index_off && !options.iter().any(|option| option.starts_with("index=")) {
            all.push("index=off".to_owned());
        }
        if support.userxattr && !options.iter().any(|option| option == "userxattr") {
            all.push("userxattr".to_owned());
        }
        all.extend(options);
        Self {
            upperdir_label,
            maps_ids: support.maps_ids,
            options: all,
        }
    }
}

impl Layers for Overlay {
    fn make(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        let fs = upper(directories, snapshot.id);
        Directories::make(&fs, 0o755)?;
        if snapshot.info.kind == SnapshotKind::Active {
            Directories::make(&directories.of(snapshot.id).join("work"), 0o711)?;
        }
        own(directories, snapshot)
    }

    fn mounts(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Vec<Mount>> {
        let mut options = if self.maps_ids {
            map_options(&snapshot.info.labels)
        } else {
            Vec::new()
        };
        // An overlay needs two layers: one by itself is bound.
        let view = snapshot.info.kind == SnapshotKind::View;
        match snapshot.parents.as_slice() {
            [] => {
                let access = if view { "ro" } else { "rw" };
                return Ok(bind(upper(directories, snapshot.id), options, access));
            }
            [parent] if view => return Ok(bind(upper(directories, *parent), options, "ro")),
            _ => {}
        }
        options.extend(self.options.iter().cloned());
        if !view {
            let work = directories.of(snapshot.id).join("work");
            options.push(format!("workdir={}", work.display()));
            options.push(format!("upperdir={}", upper(directories, snapshot.id).display()));
        }
        let lower: Vec<String> = snapshot
            .parents
            .iter()
            .map(|id| upper(directories, *id).display().to_string())
            .collect();
        options.push(format!("lowerdir={}", lower.join(":")));
        Ok(vec![Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options,
        }])
    }

    fn rebase(&self, directories: &Directories, snapshot: &Snapshot) -> Result<()> {
        own(directories, snapshot)
    }

    fn usage(&self, directories: &Directories, snapshot: &Snapshot) -> Result<Usage> {
        disk_usage(&upper(directories, snapshot.id))
    }

    fn describe(&self, directories: &Directories, id: u64, info: &mut SnapshotInfo) {
        if self.upperdir_label {
            let upper = upper(directories, id).display().to_string();
            info.labels.insert(UPPERDIR_LABEL.to_owned(), upper);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_plugin::contract::Labels;
    use orlop_plugin::snapshots::{GID_MAPPING, UID_MAPPING};
    use std::path::Path;
    use std::time::SystemTime;

    fn mounts(options: &[&str], kind: SnapshotKind, parents: &[u64]) -> String {
        mounts_with(options, kind, parents, Labels::new())
    }

    fn mounts_with(options: &[&str], kind: SnapshotKind, parents: &[u64], labels: Labels) -> String {
        let support = Support {
            index_off: true,
            userxattr: false,
            maps_ids: true,
        };
        let overlay = Overlay::new(support, false, options.iter().map(ToString::to_string).collect());
        let now = SystemTime::now();
        let snapshot = Snapshot {
            id: 9,
            info: SnapshotInfo {
                kind,
                name: "x".into(),
                parent: String::new(),
                labels,
                created: now,
                updated: now,
            },
            parents: parents.to_vec(),
        };
        let mounts = overlay
            .mounts(&Directories::under(Path::new("/r")), &snapshot)
            .expect("mounts");
        let [mount] = mounts.as_slice() else {
            panic!("one mount")
        };
        format!("{} {} {}", mount.kind, mount.source, mount.options.join(","))
    }

    #[test]
    fn one_layer_is_bound_and_more_are_laid_over_each_other() {
        use SnapshotKind::{Active, View};
        assert_eq!(mounts(&[], Active, &[]), "bind /r/snapshots/9/fs rw,rbind");
        assert_eq!(mounts(&[], View, &[]), "bind /r/snapshots/9/fs ro,rbind");
        assert_eq!(mounts(&[], View, &[3]), "bind /r/snapshots/3/fs ro,rbind");
        assert_eq!(
            mounts(&[], Active, &[3]),
            "overlay overlay index=off,workdir=/r/snapshots/9/work,upperdir=/r/snapshots/9/fs,lowerdir=/r/snapshots/3/fs"
        );
        assert_eq!(
            mounts(&[], View, &[3, 2, 1]),
            "overlay overlay index=off,lowerdir=/r/snapshots/3/fs:/r/snapshots/2/fs:/r/snapshots/1/fs"
        );
    }

    #[test]
    fn a_containers_ids_are_mapped_in_each_kind_of_mount() {
        use SnapshotKind::{Active, View};
        let labels =
            Labels::from([(UID_MAPPING, "0:5:10"), (GID_MAPPING, "0:6:10")].map(|(k, v)| (k.into(), v.into())));
        let mounts = |kind, parents: &[u64]| mounts_with(&[], kind, parents, labels.clone());
        let maps = "uidmap=0:5:10,gidmap=0:6:10";
        assert_eq!(mounts(Active, &[]), format!("bind /r/snapshots/9/fs {maps},rw,rbind"));
        assert_eq!(mounts(View, &[3]), format!("bind /r/snapshots/3/fs {maps},ro,rbind"));
        assert_eq!(
            mounts(Active, &[3]),
            format!(
                "overlay overlay {maps},index=off,workdir=/r/snapshots/9/work,upperdir=/r/snapshots/9/fs,\
                 lowerdir=/r/snapshots/3/fs"
            )
        );
    }

    #[test]
    fn the_users_options_win() {
        assert_eq!(
            mounts(&["index=on", "volatile"], SnapshotKind::View, &[2, 1]),
            "overlay overlay index=on,volatile,lowerdir=/r/snapshots/2/fs:/r/snapshots/1/fs"
        );
    }
}
