//! Mounts, as root: binds, overlays of many layers, images on loop devices, and that all of them end.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use orlop_plugin::contract::{Code, Mount};
use orlop_plugin::mount::{Access, Lazy, TempMount, direct_directory, mount_all, unmount, unmount_all};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn mount(kind: &str, source: &Path, options: &[String]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.display().to_string(),
        target: String::new(),
        options: options.to_vec(),
    }
}

fn words(options: &str) -> Vec<String> {
    options.split(' ').map(str::to_owned).collect()
}

fn is_mounted(path: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo")
        .expect("read")
        .lines()
        .any(|line| line.split(' ').nth(4) == path.to_str())
}

#[test]
fn a_read_only_bind_refuses_writes() {
    let source = directory();
    fs::write(source.path().join("file"), "x").expect("written");
    let binds = [mount("bind", source.path(), &words("rbind ro rprivate"))];
    let mounted = TempMount::new(&binds, Access::Write).expect("mounted");
    let path = mounted.path().to_owned();
    assert_eq!(fs::read_to_string(path.join("file")).expect("there"), "x");
    let error = fs::write(path.join("new"), "y").expect_err("read-only");
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    mounted.unmount().expect("unmounted");
    assert!(!path.exists() && source.path().join("file").exists());
}

#[test]
fn one_bind_is_its_source() {
    let source = directory();
    let bind = |options| [mount("bind", source.path(), &words(options))];
    assert_eq!(direct_directory(&bind("rbind rw"), Access::Write), Some(source.path()));
    assert_eq!(direct_directory(&bind("rbind ro"), Access::Read), Some(source.path()));
    assert_eq!(direct_directory(&bind("rbind ro"), Access::Write), None);
    assert_eq!(direct_directory(&bind("rbind rw uidmap=0:1000:1"), Access::Write), None);
    assert_eq!(direct_directory(&[], Access::Read), None);
    let direct = TempMount::direct_or_new(&bind("rbind rw"), Access::Write).expect("a directory");
    assert_eq!(direct.path(), source.path());
    drop(direct);
    assert!(source.path().exists());
}

#[test]
fn nothing_stays_mounted_when_a_mount_fails() {
    let source = directory();
    let mounts = [
        mount("bind", source.path(), &words("rbind")),
        mount("no-such-file-system", source.path(), &words("rw")),
    ];
    let error = TempMount::new(&mounts, Access::Write).expect_err("no such file system");
    assert_ne!(error.code, Code::Unimplemented);
    assert!(error.message.contains("no-such-file-system"), "{error}");
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").expect("read");
    assert!(
        !mountinfo.contains(source.path().to_str().expect("UTF-8")),
        "{mountinfo}"
    );
}

/// `count` layers with one file each, under a path of some length.
fn layers(root: &Path, count: usize, name: usize) -> Vec<PathBuf> {
    (0..count)
        .map(|n| {
            let layer = root.join(format!("{n:0name$}")).join("fs");
            fs::create_dir_all(&layer).expect("made");
            fs::write(layer.join(format!("file-{n}")), "").expect("written");
            layer
        })
        .collect()
}

fn overlay(root: &Path, lower: &[PathBuf], more: &str) -> Mount {
    for name in ["upper", "work"] {
        fs::create_dir_all(root.join(name)).expect("made");
    }
    let lower: Vec<String> = lower.iter().map(|path| path.display().to_string()).collect();
    let mut options = words(more);
    options.push(format!("workdir={}", root.join("work").display()));
    options.push(format!("upperdir={}", root.join("upper").display()));
    options.push(format!("lowerdir={}", lower.join(":")));
    mount("overlay", Path::new("overlay"), &options)
}

#[test]
fn overlays_of_any_length() {
    // Fits a page; takes 120 layers; has layers whose paths `fsconfig` takes no string for; nearly as many as overlayfs takes (500).
    for (count, name) in [(2, 4), (120, 60), (20, 240), (490, 4)] {
        let all = directory();
        let lower = layers(all.path(), count, name);
        let what = overlay(all.path(), &lower, "index=off nosuid");
        let mounted = TempMount::new(std::slice::from_ref(&what), Access::Write).expect("mounted");
        assert_eq!(fs::read_dir(mounted.path()).expect("read").count(), count);
        fs::write(mounted.path().join("new"), "x").expect("written");
        mounted.unmount().expect("unmounted");
        assert!(all.path().join("upper/new").exists());

        let read = TempMount::new(&[what], Access::Read).expect("mounted");
        assert_eq!(fs::read_dir(read.path()).expect("read").count(), count + 1);
        fs::write(read.path().join("newer"), "x").expect_err("nothing to write to");
    }
}

#[test]
fn a_long_overlay_that_is_refused_says_why() {
    let all = directory();
    let mut lower = layers(all.path(), 100, 60);
    lower.push(all.path().join("not-there"));
    let error =
        TempMount::new(&[overlay(all.path(), &lower, "index=off")], Access::Write).expect_err("a layer is missing");
    assert_eq!(error.code, Code::NotFound, "{error}");
}

#[test]
fn a_mount_with_half_a_map_of_ids_is_refused() {
    let source = directory();
    for options in ["rbind uidmap=0:1000:1", "rbind uidmap=0:1000:1 gidmap=x"] {
        let binds = [mount("bind", source.path(), &words(options))];
        let error = TempMount::new(&binds, Access::Write).expect_err(options);
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
    }
}

#[test]
fn a_bind_shows_the_ids_of_a_container() {
    let source = directory();
    fs::write(source.path().join("file"), "x").expect("written");
    let binds = [mount(
        "bind",
        source.path(),
        &words("rbind nosuid uidmap=0:1000:10 gidmap=0:2000:10"),
    )];
    let mounted = TempMount::new(&binds, Access::Write).expect("mounted");
    let seen = fs::metadata(mounted.path().join("file")).expect("there");
    assert_eq!((seen.uid(), seen.gid()), (1000, 2000));
    // Root is not in the map: what it writes would be nobody's.
    fs::write(mounted.path().join("new"), "x").expect_err("no such owner");
    std::os::unix::fs::chown(mounted.path().join("file"), Some(1005), Some(2005)).expect("in the map");
    let stored = fs::metadata(source.path().join("file")).expect("there");
    assert_eq!((stored.uid(), stored.gid()), (5, 5));
    let path = mounted.path().to_owned();
    mounted.unmount().expect("unmounted");
    assert!(!is_mounted(&path) && !path.exists());
}

#[test]
fn images_are_mounted_on_loop_devices() {
    let all = directory();
    let image = all.path().join("image");
    fs::File::create(&image)
        .and_then(|file| file.set_len(16 << 20))
        .expect("made");
    let made = Command::new("mkfs.ext4")
        .arg("-q")
        .arg(&image)
        .status()
        .expect("mkfs.ext4 starts");
    assert!(made.success());
    let what = [mount("ext4", &image, &words("loop"))];
    let mounted = TempMount::new(&what, Access::Write).expect("mounted");
    fs::write(mounted.path().join("file"), "x").expect("written");
    mounted.unmount().expect("unmounted");
    let mounted = TempMount::new(&what, Access::Read).expect("mounted");
    assert_eq!(fs::read_to_string(mounted.path().join("file")).expect("there"), "x");
    fs::write(mounted.path().join("file"), "y").expect_err("read-only");
    mounted.unmount().expect("unmounted");
    let loops = Command::new("losetup")
        .arg("-j")
        .arg(&image)
        .output()
        .expect("losetup starts");
    assert!(loops.stdout.is_empty(), "{}", String::from_utf8_lossy(&loops.stdout));
}

#[test]
fn mounts_inside_mounts_stop_at_the_root() {
    let (all, outer, inner) = (directory(), directory(), directory());
    fs::create_dir(outer.path().join("sub")).expect("made");
    std::os::unix::fs::symlink("/sub", outer.path().join("link")).expect("linked");
    fs::write(inner.path().join("file"), "x").expect("written");
    let mut second = mount("bind", inner.path(), &words("rbind"));
    second.target = "link".into();
    let mounts = [mount("bind", outer.path(), &words("rbind")), second];
    mount_all(&mounts, all.path()).expect("mounted");
    assert!(
        all.path().join("sub/file").exists(),
        "the symlink leads to the mount's own /sub"
    );
    unmount_all(&mounts, all.path(), Lazy::Never).expect("unmounted");
    assert!(!is_mounted(all.path()) && !is_mounted(&all.path().join("sub")));
    unmount(all.path(), Lazy::Never).expect("nothing mounted is fine");
    unmount(&all.path().join("nowhere"), Lazy::Never).expect("nor is a path that is not there");
}

#[test]
fn what_is_in_use_goes_when_its_user_does() {
    let source = directory();
    fs::write(source.path().join("file"), "x").expect("written");
    let mounted = TempMount::new(&[mount("bind", source.path(), &words("rbind"))], Access::Write).expect("mounted");
    let path = mounted.path().to_owned();
    let held = fs::File::open(path.join("file")).expect("open");
    mounted.unmount().expect("unmounted");
    assert!(!is_mounted(&path) && !path.exists());
    drop(held);
}
