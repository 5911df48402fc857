//! Archives that mean harm: nothing outside the root may change, and what is wrong is said.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use orlop_plugin::contract::Code;
use orlop_plugin::layer::{ApplyOptions, Compression, Expansion, apply};
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use crate::support::{DIRECTORY, FILE, HARD_LINK, SYMLINK, archive, describe, directory, unpack};

/// Applies `entries` to a root beside a file; the file must stay as it is. Returns what was said against them, if anything.
#[track_caller]
fn attack(entries: &[(&str, EntryType, &str)]) -> Option<String> {
    let all = directory();
    let (root, outside) = (all.path().join("root"), all.path().join("outside"));
    fs::create_dir(&root).expect("made");
    fs::write(&outside, "untouched").expect("written");
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).expect("set");
    let error = unpack(&archive(entries), &root).err();
    assert_eq!(fs::read_to_string(&outside).expect("there"), "untouched");
    let stat = fs::metadata(&outside).expect("there");
    assert_eq!((stat.mode() & 0o7777, stat.nlink()), (0o600, 1));
    assert_eq!(
        fs::read_dir(all.path()).expect("read").count(),
        2,
        "something was put beside the root"
    );
    error.map(|error| error.message)
}

#[track_caller]
fn refused(entries: &[(&str, EntryType, &str)], why: &str) {
    let said = attack(entries).unwrap_or_default();
    assert!(said.contains(why), "{said:?}");
}

#[track_caller]
fn confined(entries: &[(&str, EntryType, &str)]) {
    assert_eq!(attack(entries), None);
}

#[test]
fn paths_that_go_up_stop_at_the_root() {
    confined(&[("../outside", FILE, "x")]);
    confined(&[("a/../../outside", FILE, "x")]);
    confined(&[("/../../outside", FILE, "x")]);
    confined(&[
        ("..", DIRECTORY, ""),
        ("../", DIRECTORY, ""),
        (".", DIRECTORY, ""),
        ("/", FILE, "x"),
    ]);
    confined(&[("../.wh.outside", FILE, ""), ("../.wh..wh..opq", FILE, "")]);
}

#[test]
fn symlinks_on_the_way_stop_at_the_root() {
    confined(&[("up", SYMLINK, ".."), ("up/outside", FILE, "x")]);
    confined(&[("up", SYMLINK, "../../../.."), ("up/outside", FILE, "x")]);
    confined(&[("a/b/up", SYMLINK, "../../.."), ("a/b/up/outside", FILE, "x")]);
    confined(&[("up", SYMLINK, "x/.."), ("up/../../outside", FILE, "x")]);
    confined(&[("up", SYMLINK, ".."), ("up/.wh.outside", FILE, "")]);
    confined(&[("up", SYMLINK, ".."), ("up/.wh..wh..opq", FILE, "")]);
    // The directory becomes a symlink after its descriptor was kept.
    confined(&[("d/file", FILE, "x"), ("d", SYMLINK, ".."), ("d/outside", FILE, "x")]);
    refused(
        &[("a", SYMLINK, "b"), ("b", SYMLINK, "a"), ("a/file", FILE, "x")],
        "loop of symlinks",
    );
    refused(&[("file", FILE, "x"), ("file/below", FILE, "x")], "is no directory");
}

#[test]
fn a_symlinks_target_is_found_inside() {
    let all = directory();
    let root = all.path();
    let links = [
        ("etc/", DIRECTORY, ""),
        ("absolute", SYMLINK, "/etc"),
        ("absolute/a", FILE, "x"),
        ("deep/relative", SYMLINK, "../etc"),
        ("deep/relative/b", FILE, "x"),
        ("dangling", SYMLINK, "/not/yet/there"),
        ("dangling/c", FILE, "x"),
    ];
    unpack(&archive(&links), root).expect("applied");
    for file in ["etc/a", "etc/b", "not/yet/there/c"] {
        assert!(root.join(file).is_file(), "{file}");
    }
}

#[test]
fn hard_links_stay_inside() {
    refused(&[("l", HARD_LINK, "../outside")], "which is not there");
    refused(&[("l", HARD_LINK, "/outside")], "which is not there");
    refused(
        &[("up", SYMLINK, ".."), ("l", HARD_LINK, "up/outside")],
        "which is not there",
    );
    refused(&[("l", HARD_LINK, "..")], "names no file");
    refused(
        &[("d/", DIRECTORY, ""), ("l", HARD_LINK, "d")],
        "cannot have another name",
    );
    refused(&[("f", FILE, "x"), ("f", HARD_LINK, "f")], "is itself");
    confined(&[("f", FILE, "x"), ("l", HARD_LINK, "/../f")]);
}

#[test]
fn owner_mode_and_content_do_not_follow_a_link() {
    // CVE-2021-32760: a hard link to a symlink is one more symlink, and chmod would follow it.
    confined(&[("s", SYMLINK, "../outside"), ("l", HARD_LINK, "s")]);
    confined(&[("s", SYMLINK, "../outside"), ("s", FILE, "x")]);
    confined(&[("s", SYMLINK, ".."), ("s", DIRECTORY, ""), ("s/outside", FILE, "x")]);
    confined(&[("s", SYMLINK, "../outside"), ("s", EntryType::Fifo, "")]);
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for name in ["a/.wh.", "a/.wh..", "a/.wh..."] {
        refused(&[("a/file", FILE, ""), (name, FILE, "")], "invalid whiteout name");
    }
}

#[test]
fn a_path_that_is_too_deep_is_refused_in_few_words() {
    for path in ["a/".repeat(10_000) + "f", "f".repeat(5000)] {
        let mut tar = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        tar.append_data(&mut header, &path, io::empty()).expect("appended");
        let root = directory();
        let error = unpack(&tar.into_inner().expect("finished"), root.path()).expect_err("too deep");
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert!(error.message.contains("the kernel takes at most 4095"), "{error}");
        assert!(error.message.len() < 1000, "{error}");
    }
}

#[test]
fn damaged_archives_are_errors() {
    let whole = archive(&[("file", FILE, &"x".repeat(5000))]);
    for (layer, why) in [
        (&whole[..2000], "ends in the middle"),
        (&whole[..700], "ends in the middle"),
        (&[b'x'; 1024][..], "checksum"),
        (&whole[1..], "checksum"),
    ] {
        let root = directory();
        let error = unpack(layer, root.path()).expect_err("damaged");
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(error.message.contains(why), "{error}");
    }
    // No end at all, and an empty layer, are fine: both are in the wild.
    let root = directory();
    unpack(&whole[..whole.len() - 1024], root.path()).expect("applied");
    unpack(&[], root.path()).expect("applied");
}

#[test]
fn what_grows_beyond_measure_is_given_up() {
    let bomb = archive(&[("zeros", FILE, &"\0".repeat(8 << 20))]);
    let packed = zstd::encode_all(&bomb[..], 1).expect("packed");
    let expand = |free, ratio| {
        let root = directory();
        let options = ApplyOptions {
            expansion: Expansion { free, ratio },
            ..ApplyOptions::default()
        };
        apply(&packed[..], Compression::Detect, root.path(), &options)
    };
    let error = expand(1 << 20, 200).expect_err("a bomb");
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains("more than 200 times"), "{error}");
    expand(1 << 20, 1 << 20).expect("allowed to grow so much");
    expand(16 << 20, 1).expect("small enough");
}

#[test]
fn attributes_of_the_overlay_are_not_the_layers_to_set() {
    let mut tar = Builder::new(Vec::new());
    tar.append_pax_extensions([
        ("SCHILY.xattr.trusted.overlay.opaque", &b"y"[..]),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.mine", b"kept"),
    ])
    .expect("appended");
    let mut header = Header::new_ustar();
    header.set_entry_type(DIRECTORY);
    header.set_size(0);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, "d/", io::empty()).expect("appended");
    let root = directory();
    unpack(&tar.into_inner().expect("finished"), root.path()).expect("applied");
    let names: Vec<_> = xattr::list(root.path().join("d")).expect("listed").collect();
    assert_eq!(names, ["user.mine"]);
}

#[test]
fn an_entry_takes_the_place_of_whatever_is_there() {
    let root = directory();
    let kinds = [FILE, DIRECTORY, SYMLINK, HARD_LINK, EntryType::Fifo, EntryType::Char];
    for before in kinds {
        for after in kinds {
            let content = |kind| if kind == HARD_LINK { "other" } else { "content" };
            let entries = [
                ("other", FILE, "other"),
                ("name", before, content(before)),
                ("name", after, content(after)),
            ];
            unpack(&archive(&entries), root.path()).unwrap_or_else(|error| panic!("{before:?} {after:?}: {error}"));
            let alone = directory();
            unpack(&archive(&[entries[0], entries[2]]), alone.path()).expect("applied");
            assert_eq!(
                describe(root.path(), false),
                describe(alone.path(), false),
                "{before:?} {after:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever becomes of the bytes of an archive: an error or a tree, never a panic, and never anything beside the root.
    #[test]
    fn any_bytes_are_an_error_or_a_tree(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        repair in any::<bool>(),
    ) {
        let mut layer = archive(&[
            ("d/", DIRECTORY, ""),
            ("d/file", FILE, "some content"),
            ("d/link", SYMLINK, "../file"),
            ("other", HARD_LINK, "d/file"),
            (".wh.gone", FILE, ""),
            ("d/.wh..wh..opq", FILE, ""),
            ("d/link/through", FILE, "x"),
        ]);
        for (index, byte) in changes {
            let at = index.index(layer.len());
            layer[at] = byte;
        }
        if repair {
            // With right checksums the damage gets further in.
            for block in layer.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let all = directory();
        let root = all.path().join("root");
        fs::create_dir(&root).expect("made");
        let _ = unpack(&layer, &root);
        prop_assert_eq!(fs::read_dir(all.path()).expect("read").count(), 1);
    }
}
