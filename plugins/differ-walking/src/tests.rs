//! Layers on a real file system, as root: whiteouts under a real overlay, hostile archives, and a tree that comes back as it was.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use orlop_plugin::contract::{Code, Mount};
use tar::{Builder, EntryType, Header};

use crate::target::Target;
use crate::unpack::unpack;
use crate::walk;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn bind(path: &Path) -> Target {
    let mount = Mount {
        kind: "bind".into(),
        source: path.display().to_string(),
        target: String::new(),
        options: vec!["rw".into(), "rbind".into()],
    };
    Target::of(&[mount]).expect("a target")
}

/// An archive of `(name, type, link or content)`; names are written as they are, however bad.
fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        let data = if kind.is_file() { content.as_bytes() } else { b"" };
        if matches!(kind, EntryType::Link | EntryType::Symlink) {
            header.set_link_name_literal(content).expect("it fits");
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, data).expect("appended");
    }
    tar.into_inner().expect("finished")
}

const FILE: EntryType = EntryType::Regular;
const DIRECTORY: EntryType = EntryType::Directory;
const SYMLINK: EntryType = EntryType::Symlink;
const HARD_LINK: EntryType = EntryType::Link;

#[test]
fn whiteouts_take_away_what_lies_below() {
    let root = directory();
    let base = [
        ("d/", DIRECTORY, ""),
        ("d/old", FILE, "x"),
        ("gone", FILE, "x"),
        ("tree/", DIRECTORY, ""),
        ("tree/a", FILE, "x"),
    ];
    unpack(&mut archive(&base).as_slice(), &bind(root.path())).expect("unpacked");
    let over = [
        (".wh.gone", FILE, ""),
        (".wh.tree", FILE, ""),
        ("d/new", FILE, "y"),
        ("d/.wh..wh..opq", FILE, ""),
    ];
    unpack(&mut archive(&over).as_slice(), &bind(root.path())).expect("unpacked");
    assert!(!root.path().join("gone").exists() && !root.path().join("tree").exists());
    assert!(
        !root.path().join("d/old").exists(),
        "an opaque directory shows nothing of the layers below"
    );
    assert_eq!(fs::read_to_string(root.path().join("d/new")).expect("there"), "y");
    assert_eq!(
        fs::metadata(root.path().join("d/new")).expect("there").mtime(),
        1_000_000_000
    );
}

#[test]
fn whiteouts_in_an_upper_directory_are_overlayfs_own() {
    let all = directory();
    let path = |name: &str| all.path().join(name);
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(path(name)).expect("made");
    }
    let base = [
        ("d/", DIRECTORY, ""),
        ("d/old", FILE, "x"),
        ("gone", FILE, "x"),
        ("kept/", DIRECTORY, ""),
    ];
    unpack(&mut archive(&base).as_slice(), &bind(&path("lower"))).expect("unpacked");
    fs::set_permissions(path("lower/kept"), fs::Permissions::from_mode(0o700)).expect("set");
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        path("lower").display(),
        path("upper").display(),
        path("work").display()
    );
    let overlay = Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: options.split(',').map(str::to_owned).collect(),
    };
    let over = [
        (".wh.gone", FILE, ""),
        ("d/.wh..wh..opq", FILE, ""),
        ("d/new", FILE, "y"),
        ("kept/file", FILE, "z"),
    ];
    unpack(
        &mut archive(&over).as_slice(),
        &Target::of(&[overlay]).expect("a target"),
    )
    .expect("unpacked");
    mount(
        Some("overlay"),
        &path("merged"),
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .expect("mounted");
    let shown = |name: &str| path("merged").join(name).exists();
    let seen = (shown("gone"), shown("d/old"), shown("d/new"), shown("kept/file"));
    let mode = fs::metadata(path("merged/kept")).expect("there").permissions().mode() & 0o777;
    umount2(&path("merged"), MntFlags::MNT_DETACH).expect("unmounted");
    assert_eq!(seen, (false, false, true, true));
    // A directory that the layer takes for granted looks like the one below.
    assert_eq!(mode, 0o700);
}

#[track_caller]
fn refused(entries: &[(&str, EntryType, &str)], why: &str) {
    let all = directory();
    let (root, outside) = (all.path().join("root"), all.path().join("outside"));
    fs::create_dir(&root).expect("made");
    fs::write(&outside, "untouched").expect("written");
    let error = unpack(&mut archive(entries).as_slice(), &bind(&root)).expect_err("it must be refused");
    assert!(error.message.contains(why), "{error}");
    assert_eq!(fs::read_to_string(&outside).expect("there"), "untouched");
    assert_eq!(fs::metadata(&outside).expect("there").permissions().mode() & 0o111, 0);
}

#[test]
fn nothing_leads_out_of_the_root() {
    refused(&[("../outside", FILE, "x")], "leads out of the layer");
    refused(&[("a/../../outside", FILE, "x")], "leads out of the layer");
    refused(&[("l", HARD_LINK, "../outside")], "leads out of the layer");
    refused(&[("up", SYMLINK, ".."), ("l", HARD_LINK, "up/outside")], "No such file");
    refused(&[("a/.wh...", FILE, "")], "whiteout of nothing");
    // An absolute path is one inside, as every container runtime takes it; so is what a link of the archive leads to.
    let all = directory();
    let root = all.path().join("root");
    fs::create_dir(&root).expect("made");
    fs::create_dir(all.path().join("etc")).expect("made");
    let links = [
        ("/abs", FILE, "x"),
        ("etc/", DIRECTORY, ""),
        ("up", SYMLINK, "../etc"),
        ("up/file", FILE, "inside"),
        ("root-link", SYMLINK, "/etc"),
        ("root-link/other", FILE, "inside"),
    ];
    unpack(&mut archive(&links).as_slice(), &bind(&root)).expect("unpacked");
    assert!(root.join("abs").exists() && root.join("etc/file").exists() && root.join("etc/other").exists());
    assert_eq!(fs::read_dir(all.path().join("etc")).expect("there").count(), 0);
}

#[test]
fn a_mode_does_not_follow_a_link() {
    let all = directory();
    let (root, outside) = (all.path().join("root"), all.path().join("outside"));
    fs::create_dir(&root).expect("made");
    fs::write(&outside, "x").expect("written");
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).expect("set");
    let target = outside.display().to_string();
    // CVE-2021-32760: the same name as a link and then again.
    unpack(
        &mut archive(&[("f", SYMLINK, &target), ("f", FILE, "y")]).as_slice(),
        &bind(&root),
    )
    .expect("unpacked");
    assert_eq!(
        fs::metadata(&outside).expect("there").permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(fs::read_to_string(root.join("f")).expect("there"), "y");
}

#[test]
fn a_deep_path_is_refused_and_a_cut_archive_is_an_error() {
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    tar.append_data(&mut header, "a/".repeat(10_000) + "f", io::empty())
        .expect("appended");
    let deep = tar.into_inner().expect("finished");
    let root = directory();
    let error = unpack(&mut deep.as_slice(), &bind(root.path())).expect_err("too deep");
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(
        error.message.contains("directories deep") && error.message.len() < 25_000,
        "{}",
        error.message.len()
    );
    let whole = archive(&[("file", FILE, &"x".repeat(5000))]);
    assert!(unpack(&mut &whole[..2000], &bind(root.path())).is_err());
}

#[test]
fn what_differs_comes_back_as_it_was() {
    let (lower, upper, again) = (directory(), directory(), directory());
    for root in [lower.path(), again.path()] {
        fs::write(root.join("same"), "same").expect("written");
        fs::write(root.join("changed"), "before").expect("written");
        fs::write(root.join("gone"), "x").expect("written");
        fs::create_dir(root.join("was-a-directory")).expect("made");
        fs::write(root.join("was-a-directory/file"), "x").expect("written");
    }
    let up = upper.path();
    fs::copy(lower.path().join("same"), up.join("same")).expect("copied");
    let metadata = fs::metadata(lower.path().join("same")).expect("there");
    fs::File::open(up.join("same"))
        .expect("open")
        .set_modified(metadata.modified().expect("a time"))
        .expect("set");
    fs::write(up.join("changed"), "after, and longer").expect("written");
    fs::write(up.join("was-a-directory"), "now a file").expect("written");
    fs::create_dir_all(up.join("deep/down")).expect("made");
    fs::write(up.join("deep/down/tool"), "#!").expect("written");
    fs::set_permissions(up.join("deep/down/tool"), fs::Permissions::from_mode(0o4711)).expect("set");
    fs::hard_link(up.join("deep/down/tool"), up.join("deep/link")).expect("linked");
    symlink("down/tool", up.join("deep/symlink")).expect("linked");
    xattr::set(up.join("deep"), "user.note", b"kept").expect("set");
    let mut layer = Vec::new();
    walk::diff(lower.path(), up, None, &mut layer).expect("made");
    let mut names: Vec<String> = tar::Archive::new(layer.as_slice())
        .entries()
        .expect("entries")
        .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
        .collect();
    names.sort();
    let expected = [
        ".wh.gone",
        "changed",
        "deep",
        "deep/down",
        "deep/down/tool",
        "deep/link",
        "deep/symlink",
        "was-a-directory",
    ];
    assert_eq!(names, expected, "`same` is not there");
    unpack(&mut layer.as_slice(), &bind(again.path())).expect("unpacked");
    let tool = fs::metadata(again.path().join("deep/link")).expect("there");
    assert_eq!((tool.permissions().mode() & 0o7777, tool.nlink()), (0o4711, 2));
    assert_eq!(
        fs::read_link(again.path().join("deep/symlink")).expect("a link"),
        Path::new("down/tool")
    );
    assert_eq!(
        xattr::get(again.path().join("deep"), "user.note").expect("read"),
        Some(b"kept".to_vec())
    );
    assert_eq!(
        fs::read_to_string(again.path().join("was-a-directory")).expect("there"),
        "now a file"
    );
    assert!(!again.path().join("gone").exists() && again.path().join("same").exists());
    let mut nothing = Vec::new();
    walk::diff(up, again.path(), None, &mut nothing).expect("made");
    let left = tar::Archive::new(nothing.as_slice())
        .entries()
        .expect("entries")
        .count();
    assert_eq!(left, 0, "the second tree is the first");
}
