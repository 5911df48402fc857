//! Random trees: what differs between two, made a layer and applied to the first, gives the second; and tar(1) reads it, too.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use orlop_plugin::layer::{ChangeKind, Compression, MakeOptions, apply, changes, make};
use proptest::prelude::*;

use crate::support::{describe, directory, run, text, unpack};
use crate::whiteouts::Overlay;

/// One step in making a tree.
#[derive(Clone, Debug)]
enum Step {
    File {
        path: Vec<u8>,
        content: u8,
        time: u64,
        mode: u32,
    },
    Directory {
        path: Vec<u8>,
        mode: u32,
    },
    Symlink {
        path: Vec<u8>,
        target: u8,
    },
    HardLink {
        path: Vec<u8>,
        to: Vec<u8>,
    },
    Attribute {
        path: Vec<u8>,
        value: u8,
    },
    Remove {
        path: Vec<u8>,
    },
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..4_u8, 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop::sample::select(vec![0o644, 0o600, 0o4755, 0o1777, 0o755]);
    let file = (path(), 0..3_u8, 0..3_u64, mode.clone()).prop_map(|(path, content, time, mode)| Step::File {
        path,
        content,
        time,
        mode,
    });
    prop_oneof![
        4 => file,
        2 => (path(), mode).prop_map(|(path, mode)| Step::Directory { path, mode }),
        1 => (path(), 0..3_u8).prop_map(|(path, target)| Step::Symlink { path, target }),
        2 => (path(), path()).prop_map(|(path, to)| Step::HardLink { path, to }),
        1 => (path(), 0..3_u8).prop_map(|(path, value)| Step::Attribute { path, value }),
        2 => path().prop_map(|path| Step::Remove { path }),
    ]
}

fn resolve(root: &Path, path: &[u8]) -> std::path::PathBuf {
    // A name longer than a ustar header holds, one that is no ASCII, and a prefix of another: orders must agree.
    let names = ["a", "a.b", "ä", &"long".repeat(40)];
    path.iter()
        .fold(root.to_owned(), |path, &name| path.join(names[usize::from(name)]))
}

/// Takes whatever is at `path` away, and makes sure that its parents are directories.
fn clear(root: &Path, path: &Path) {
    let mut above = root.to_owned();
    let below = path.strip_prefix(root).expect("below").to_owned();
    let parents = below.parent().expect("a parent");
    for name in parents {
        above.push(name);
        if !above.is_symlink() && above.is_dir() {
            continue;
        }
        let _ = fs::remove_file(&above);
        fs::create_dir(&above).expect("made");
    }
    if !path.is_symlink() && path.is_dir() {
        fs::remove_dir_all(path).expect("removed");
    } else {
        let _ = fs::remove_file(path);
    }
}

fn perform(root: &Path, steps: &[Step]) {
    for step in steps {
        match step {
            Step::File {
                path,
                content,
                time,
                mode,
            } => {
                let path = resolve(root, path);
                clear(root, &path);
                fs::write(&path, vec![*content; 600 * usize::from(*content > 0)]).expect("written");
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).expect("set");
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000 + time);
                File::open(&path).expect("open").set_modified(time).expect("set");
            }
            Step::Directory { path, mode } => {
                let path = resolve(root, path);
                if path.is_symlink() || !path.is_dir() {
                    clear(root, &path);
                    fs::create_dir(&path).expect("made");
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).expect("set");
            }
            Step::Symlink { path, target } => {
                let path = resolve(root, path);
                clear(root, &path);
                symlink(format!("{target}/a"), &path).expect("linked");
                run("touch", &["-h", "-d", "@1600000000", text(&path)]);
            }
            Step::HardLink { path, to } => {
                let (path, to) = (resolve(root, path), resolve(root, to));
                if to.is_file() && !to.is_symlink() && path != to && !to.starts_with(&path) && !path.starts_with(&to) {
                    clear(root, &path);
                    fs::hard_link(&to, &path).expect("linked");
                }
            }
            Step::Attribute { path, value } => {
                let path = resolve(root, path);
                // A layer's directory is laid over the one that is there: that an attribute is gone cannot be said.
                if !path.is_symlink() && path.is_file() {
                    xattr::set(&path, "user.note", &[*value]).expect("set");
                }
            }
            Step::Remove { path } => {
                let path = resolve(root, path);
                if path.is_symlink() || path.exists() {
                    clear(root, &path);
                }
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    run("cp", &["-a", "--", &format!("{}/.", text(from)), text(to)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_comes_back_as_it_was(
        first in prop::collection::vec(step(), 0..16),
        then in prop::collection::vec(step(), 0..16),
    ) {
        let (lower, upper, again) = (directory(), directory(), directory());
        perform(lower.path(), &first);
        copy(lower.path(), upper.path());
        copy(lower.path(), again.path());
        perform(upper.path(), &then);
        let expected = describe(upper.path(), false);

        let mut layer = Vec::new();
        let made = make(Some(lower.path()), upper.path(), &MakeOptions::default(), Compression::None, &mut layer)
            .expect("made");
        prop_assert_eq!(made.size, layer.len() as u64);
        let applied = unpack(&layer, again.path()).expect("applied");
        prop_assert_eq!(applied.diff_id, made.diff_id);
        prop_assert_eq!(describe(again.path(), false), expected.clone());

        let overlay = Overlay::over(lower.path());
        overlay.apply(&layer, false);
        // An overlay does not keep the names of a lower file together: only what the layer brought is compared for that.
        let sharing = |tree: std::collections::BTreeMap<String, String>| -> Vec<(String, String)> {
            tree.into_iter()
                .map(|(path, what)| {
                    let start = what.find(" shares ").expect("described");
                    let end = start + what[start..].find('[').expect("described");
                    (path, format!("{}{}", &what[..start], &what[end..]))
                })
                .collect()
        };
        prop_assert_eq!(sharing(overlay.shown(false, |merged| describe(merged, false))), sharing(expected));

        let mut nothing = Vec::new();
        make(Some(upper.path()), again.path(), &MakeOptions::default(), Compression::None, &mut nothing).expect("made");
        prop_assert_eq!(nothing.len(), 1024, "only the end of an archive");
    }
}

#[test]
fn tar_reads_what_is_made() {
    let (upper, root) = (directory(), directory());
    let steps = [
        Step::File {
            path: vec![3, 3, 3],
            content: 1,
            time: 1,
            mode: 0o4755,
        },
        Step::HardLink {
            path: vec![0, 1],
            to: vec![3, 3, 3],
        },
        Step::Symlink {
            path: vec![2],
            target: 1,
        },
        Step::Directory {
            path: vec![1, 2],
            mode: 0o1777,
        },
    ];
    perform(upper.path(), &steps);
    for (compression, name) in [
        (Compression::None, "layer.tar"),
        (Compression::Gzip, "layer.tar.gz"),
        (Compression::Zstd, "layer.tar.zst"),
    ] {
        let mut layer = Vec::new();
        let made = make(None, upper.path(), &MakeOptions::default(), compression, &mut layer).expect("made");
        let mut again = Vec::new();
        make(None, upper.path(), &MakeOptions::default(), compression, &mut again).expect("made");
        assert_eq!(layer, again, "the same tree makes the same bytes");
        let file = root.path().join(name);
        fs::write(&file, &layer).expect("written");
        let out = directory();
        run("tar", &["-C", text(out.path()), "--numeric-owner", "-xpf", text(&file)]);
        assert_eq!(describe(out.path(), false), describe(upper.path(), false), "{name}");
        let applied = apply(
            &layer[..],
            Compression::Detect,
            directory().path(),
            &orlop_plugin::layer::ApplyOptions::default(),
        )
        .expect("applied");
        assert_eq!(applied.diff_id, made.diff_id);
    }
}

#[test]
fn times_are_clamped_and_sockets_left_out() {
    let upper = directory();
    fs::write(upper.path().join("young"), "x").expect("written");
    let _socket = std::os::unix::net::UnixListener::bind(upper.path().join("socket")).expect("bound");
    let options = MakeOptions {
        clamp_mtime: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1000)),
    };
    let mut layer = Vec::new();
    make(None, upper.path(), &options, Compression::None, &mut layer).expect("made");
    let mut archive = tar::Archive::new(&layer[..]);
    let entries: Vec<_> = archive
        .entries()
        .expect("entries")
        .map(|entry| {
            let entry = entry.expect("an entry");
            (
                entry.path().expect("a path").display().to_string(),
                entry.header().mtime().expect("a time"),
            )
        })
        .collect();
    assert_eq!(entries, [("young".to_owned(), 1000)]);
}

#[test]
fn changes_are_told_in_order() {
    let (lower, upper) = (directory(), directory());
    fs::create_dir(lower.path().join("gone")).expect("made");
    fs::write(lower.path().join("gone/file"), "x").expect("written");
    fs::write(lower.path().join("same"), "x").expect("written");
    copy(lower.path(), upper.path());
    fs::remove_dir_all(upper.path().join("gone")).expect("removed");
    fs::create_dir(upper.path().join("new")).expect("made");
    fs::write(upper.path().join("new/file"), "x").expect("written");
    let mut told = Vec::new();
    changes(Some(lower.path()), upper.path(), |change| {
        told.push((change.kind, String::from_utf8_lossy(change.path).into_owned()));
        Ok(())
    })
    .expect("walked");
    let expected = [
        (ChangeKind::Deleted, "gone"),
        (ChangeKind::Added, "new"),
        (ChangeKind::Added, "new/file"),
        (ChangeKind::Unmodified, "same"),
    ];
    assert_eq!(told, expected.map(|(kind, path)| (kind, path.to_owned())));
}
