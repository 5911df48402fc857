//! Whiteouts, both ways: names removed, and names hidden by an overlay's own means.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use orlop_plugin::layer::{ApplyOptions, Compression, Whiteouts, apply};
use tar::EntryType;

use crate::support::{DIRECTORY, FILE, HARD_LINK, archive, describe, directory, unpack};

type Entries<'a> = &'a [(&'a str, EntryType, &'a str)];

/// An overlay of `lower` and what a layer makes of the empty directory above it.
pub(crate) struct Overlay {
    all: tempfile::TempDir,
    lower: PathBuf,
}

impl Overlay {
    pub(crate) fn over(lower: &Path) -> Self {
        let all = directory();
        for name in ["upper", "work", "merged"] {
            fs::create_dir(all.path().join(name)).expect("made");
        }
        Self {
            all,
            lower: lower.to_owned(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.all.path().join(name)
    }

    pub(crate) fn apply(&self, layer: &[u8], userxattr: bool) {
        let options = ApplyOptions {
            whiteouts: Whiteouts::Overlay { userxattr },
            lowers: vec![self.lower.clone()],
            ..ApplyOptions::default()
        };
        apply(layer, Compression::None, &self.path("upper"), &options).expect("applied");
    }

    /// Calls `look` with what the overlay shows.
    pub(crate) fn shown<T>(&self, userxattr: bool, look: impl FnOnce(&Path) -> T) -> T {
        let (upper, work, merged) = (self.path("upper"), self.path("work"), self.path("merged"));
        let options = format!(
            "lowerdir={},upperdir={},workdir={}{}",
            self.lower.display(),
            upper.display(),
            work.display(),
            if userxattr { ",userxattr" } else { "" }
        );
        mount(
            Some("overlay"),
            &merged,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("mounted");
        let unmount = Unmount(merged);
        look(&unmount.0)
    }
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("unmounted");
    }
}

/// Applies `over` to `base` in every way; each must show the files `expected`.
#[track_caller]
fn becomes(base: Entries<'_>, over: Entries<'_>, expected: &[&str]) {
    let files = |root: &Path| -> Vec<String> {
        let mut tree = describe(root, false);
        tree.retain(|_, what| !what.starts_with("directory"));
        tree.into_keys().collect()
    };
    let lower = directory();
    unpack(&archive(base), lower.path()).expect("applied");
    for userxattr in [false, true] {
        let overlay = Overlay::over(lower.path());
        overlay.apply(&archive(over), userxattr);
        assert_eq!(
            overlay.shown(userxattr, files),
            expected,
            "as an overlay, userxattr {userxattr}"
        );
    }
    unpack(&archive(over), lower.path()).expect("applied");
    assert_eq!(files(lower.path()), expected, "removed");
}

const BASE: Entries<'static> = &[
    ("d/", DIRECTORY, ""),
    ("d/old", FILE, "x"),
    ("d/e/", DIRECTORY, ""),
    ("d/e/older", FILE, "x"),
    ("f", FILE, "x"),
    ("kept", FILE, "x"),
];

#[test]
fn names_are_taken_away() {
    becomes(BASE, &[(".wh.f", FILE, "")], &["d/e/older", "d/old", "kept"]);
    becomes(BASE, &[(".wh.d", FILE, "")], &["f", "kept"]);
    becomes(BASE, &[("d/.wh.e", FILE, "")], &["d/old", "f", "kept"]);
    becomes(
        BASE,
        &[(".wh.never", FILE, ""), ("d/.wh.f", FILE, "")],
        &["d/e/older", "d/old", "f", "kept"],
    );
    becomes(
        BASE,
        &[(".wh.f", FILE, ""), (".wh.f", FILE, "")],
        &["d/e/older", "d/old", "kept"],
    );
}

#[test]
fn an_opaque_directory_shows_its_own_layer_only() {
    let expected = ["d/new", "f", "kept"];
    becomes(BASE, &[("d/.wh..wh..opq", FILE, ""), ("d/new", FILE, "y")], &expected);
    // The marker may come last, and the directory without an entry of its own.
    becomes(BASE, &[("d/new", FILE, "y"), ("d/.wh..wh..opq", FILE, "")], &expected);
    becomes(
        BASE,
        &[
            ("d/", DIRECTORY, ""),
            ("d/new", FILE, "y"),
            ("d/.wh..wh..opq", FILE, ""),
        ],
        &expected,
    );
    becomes(
        BASE,
        &[("d/e/new", FILE, "y"), ("d/.wh..wh..opq", FILE, "")],
        &["d/e/new", "f", "kept"],
    );
}

#[test]
fn a_whiteout_hides_nothing_of_its_own_layer() {
    becomes(
        BASE,
        &[("f", FILE, "y"), (".wh.f", FILE, "")],
        &["d/e/older", "d/old", "f", "kept"],
    );
    becomes(
        BASE,
        &[(".wh.f", FILE, ""), ("f", FILE, "y")],
        &["d/e/older", "d/old", "f", "kept"],
    );
    becomes(
        BASE,
        &[("d/new", FILE, "y"), (".wh.d", FILE, "")],
        &["d/new", "f", "kept"],
    );
    becomes(
        BASE,
        &[(".wh.d", FILE, ""), ("d/new", FILE, "y")],
        &["d/new", "f", "kept"],
    );
    becomes(
        BASE,
        &[(".wh.d", FILE, ""), ("d/", DIRECTORY, ""), ("d/new", FILE, "y")],
        &["d/new", "f", "kept"],
    );
    // A file in between hid the directory, too.
    becomes(BASE, &[("d", FILE, "y"), ("d/", DIRECTORY, "")], &["f", "kept"]);
}

#[test]
fn whiteouts_are_character_devices_and_opaque_directories_have_an_attribute() {
    let lower = directory();
    unpack(&archive(BASE), lower.path()).expect("applied");
    for (userxattr, name) in [(false, "trusted.overlay.opaque"), (true, "user.overlay.opaque")] {
        let overlay = Overlay::over(lower.path());
        overlay.apply(
            &archive(&[(".wh.f", FILE, ""), ("d/.wh..wh..opq", FILE, "")]),
            userxattr,
        );
        let stat = fs::symlink_metadata(overlay.path("upper/f")).expect("there");
        assert!(stat.file_type().is_char_device() && stat.rdev() == 0);
        assert_eq!(
            xattr::get(overlay.path("upper/d"), name).expect("read").as_deref(),
            Some(&b"y"[..])
        );
    }
}

#[test]
fn directories_on_the_way_look_like_the_ones_below() {
    let lower = directory();
    fs::create_dir_all(lower.path().join("a/b")).expect("made");
    fs::set_permissions(lower.path().join("a/b"), fs::Permissions::from_mode(0o1770)).expect("set");
    std::os::unix::fs::chown(lower.path().join("a/b"), Some(12), Some(34)).expect("set");
    xattr::set(lower.path().join("a"), "user.note", b"kept").expect("set");
    let overlay = Overlay::over(lower.path());
    overlay.apply(&archive(&[("a/b/file", FILE, "x"), ("new/file", FILE, "x")]), false);
    let stat = fs::metadata(overlay.path("upper/a/b")).expect("there");
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o1770, 12, 34));
    assert_eq!(
        stat.mtime(),
        fs::metadata(lower.path().join("a/b")).expect("there").mtime()
    );
    assert_eq!(
        xattr::get(overlay.path("upper/a"), "user.note")
            .expect("read")
            .as_deref(),
        Some(&b"kept"[..])
    );
    assert_eq!(
        fs::metadata(overlay.path("upper/new")).expect("there").mode() & 0o7777,
        0o755
    );
}

#[test]
fn symlinks_of_lower_layers_lead_where_they_lead_in_the_container() {
    let lower = directory();
    fs::create_dir_all(lower.path().join("usr/bin")).expect("made");
    symlink("usr/bin", lower.path().join("bin")).expect("linked");
    let overlay = Overlay::over(lower.path());
    overlay.apply(&archive(&[("bin/tool", FILE, "x")]), false);
    let is_link = overlay.shown(false, |merged| {
        assert!(merged.join("usr/bin/tool").is_file());
        merged.join("bin").is_symlink()
    });
    assert!(is_link, "the layer's file must not turn the symlink into a directory");
}

#[test]
fn hard_links_within_an_upper_directory() {
    let lower = directory();
    let overlay = Overlay::over(lower.path());
    overlay.apply(&archive(&[("d/a", FILE, "x"), ("e/b", HARD_LINK, "d/a")]), false);
    assert_eq!(fs::metadata(overlay.path("upper/e/b")).expect("there").nlink(), 2);
}
