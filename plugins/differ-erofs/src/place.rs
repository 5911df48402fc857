//! Where an image goes: the directory of the snapshot that mounts stand for.

use std::path::{Path, PathBuf};

use orlop_plugin::contract::Mount;
use orlop_plugin::erofs::MARK;
use orlop_plugin::{Error, Result};

/// A snapshot that an image is wanted for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// Where its own files would go: what an unpacked layer's root is to look like.
    pub(crate) upper: PathBuf,
    /// The layers below, the topmost first.
    pub(crate) lowers: Vec<PathBuf>,
}

/// The snapshot of `mounts`. `Unimplemented` when they are not the EROFS snapshotter's, or not to be written.
pub(crate) fn of(mounts: &[Mount]) -> Result<Place> {
    let place = named(mounts).ok_or_else(|| {
        Error::unimplemented("the EROFS differ makes images for active snapshots only, and these mounts are none's")
    })?;
    if place.directory.join(MARK).is_file() {
        return Ok(place);
    }
    Err(Error::unimplemented(format!(
        "{} is no snapshot of the EROFS snapshotter (it has no {MARK})",
        place.directory.display()
    )))
}

/// What `mounts` say, whatever is there.
fn named(mounts: &[Mount]) -> Option<Place> {
    let [only] = mounts else { return None };
    let option = |key: &str| {
        only.options
            .iter()
            .find_map(|option| option.strip_prefix(key)?.strip_prefix('='))
    };
    let (upper, lower) = match only.kind.as_str() {
        "overlay" => (option("upperdir")?, option("lowerdir").unwrap_or_default()),
        "bind" if !only.options.iter().any(|option| option == "ro") => (only.source.as_str(), ""),
        _ => return None,
    };
    let upper = Path::new(upper);
    // The paths of other snapshotters may have colons in them, which are escaped. Ours have none.
    let lowers = lower
        .split(':')
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .collect();
    Some(Place {
        directory: upper.is_absolute().then(|| upper.parent()).flatten()?.to_owned(),
        upper: upper.to_owned(),
        lowers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_plugin::contract::Code;

    fn mount(kind: &str, source: &str, options: &str) -> Vec<Mount> {
        vec![Mount {
            kind: kind.into(),
            source: source.into(),
            target: String::new(),
            options: options.split(' ').map(str::to_owned).collect(),
        }]
    }

    #[test]
    fn an_active_snapshot_is_found_in_its_mounts() {
        let first = named(&mount("bind", "/s/1/fs", "rw rbind")).expect("active");
        assert_eq!((first.directory.as_path(), first.lowers.len()), (Path::new("/s/1"), 0));
        let options = "workdir=/s/3/work upperdir=/s/3/fs lowerdir=/s/2/layer:/s/1/layer";
        let third = named(&mount("overlay", "overlay", options)).expect("active");
        assert_eq!(third.directory, Path::new("/s/3"));
        assert_eq!(third.upper, Path::new("/s/3/fs"));
        assert_eq!(third.lowers, [Path::new("/s/2/layer"), Path::new("/s/1/layer")]);
    }

    #[test]
    fn what_is_no_active_snapshot_of_its_own_is_for_others() {
        for mounts in [
            mount("bind", "/s/1/fs", "ro rbind"),
            mount("erofs", "/s/1/layer.erofs", "ro loop"),
            mount("overlay", "overlay", "lowerdir=/s/2/layer:/s/1/layer"),
            mount("btrfs", "/dev/sda", "rw"),
            mount("bind", "fs", "rw"),
            Vec::new(),
        ] {
            assert_eq!(
                of(&mounts).expect_err("refused").code,
                Code::Unimplemented,
                "{mounts:?}"
            );
        }
        let directory = tempfile::tempdir().expect("a directory");
        let upper = directory.path().join("fs").display().to_string();
        let mounts = mount("bind", &upper, "rw rbind");
        assert_eq!(of(&mounts).expect_err("not marked").code, Code::Unimplemented);
        std::fs::write(directory.path().join(MARK), "").expect("written");
        assert_eq!(of(&mounts).expect("marked").directory, directory.path());
    }
}
