//! Archives that tar(1), gzip(1) and zstd(1) made.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use orlop_plugin::contract::Digest;
use orlop_plugin::layer::{ApplyOptions, Compression, apply};

use crate::support::{describe, directory, run, text, unpack};

fn touch(path: &Path, time: SystemTime) {
    File::open(path).expect("open").set_modified(time).expect("set");
}

/// One of everything.
fn menagerie(root: &Path) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 0);
    let long = root.join("d".repeat(120)).join("e".repeat(120));
    fs::create_dir_all(&long).expect("made");
    fs::write(long.join("f".repeat(200)), "long").expect("written");
    fs::write(root.join("empty"), "").expect("written");
    fs::write(root.join("block"), vec![7; 512]).expect("written");
    fs::write(root.join("large"), b"0123456789abcdef".repeat(100_000)).expect("written");
    fs::write(root.join("setuid"), "#!").expect("written");
    chown(root.join("setuid"), Some(1000), Some(2000)).expect("set");
    fs::set_permissions(root.join("setuid"), fs::Permissions::from_mode(0o6751)).expect("set");
    fs::hard_link(root.join("large"), root.join("zz-link")).expect("linked");
    symlink("/absolute/target", root.join("symlink")).expect("linked");
    symlink("t".repeat(150), root.join("symlink-long")).expect("linked");
    mknod(&root.join("fifo"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o640), 0).expect("made");
    mknod(
        &root.join("null"),
        SFlag::S_IFCHR,
        Mode::from_bits_truncate(0o666),
        makedev(1, 3),
    )
    .expect("made");
    mknod(
        &root.join("loop"),
        SFlag::S_IFBLK,
        Mode::from_bits_truncate(0o660),
        makedev(7, 300),
    )
    .expect("made");
    for name in ["empty", "block", "large", "setuid"] {
        touch(&root.join(name), time);
    }
    run("touch", &["-h", "-d", "@1500000000", text(&root.join("symlink"))]);
    touch(root, time);
    touch(&long, time);
}

fn tar_of(root: &Path, options: &[&str]) -> Vec<u8> {
    let mut arguments = options.to_vec();
    arguments.extend(["--sort=name", "--numeric-owner", "-C", text(root), "-cf", "-", "."]);
    run("tar", &arguments)
}

#[test]
fn every_dialect_gives_the_same_tree() {
    let source = directory();
    menagerie(source.path());
    fs::write(source.path().join("ünï"), "x").expect("written");
    for format in ["gnu", "posix", "oldgnu"] {
        // Whole seconds, which all of them can say.
        run(
            "find",
            &[
                text(source.path()),
                "-depth",
                "-exec",
                "touch",
                "-h",
                "-d",
                "@1600000001",
                "{}",
                "+",
            ],
        );
        let layer = tar_of(source.path(), &[&format!("--format={format}")]);
        let root = directory();
        let applied = unpack(&layer, root.path()).unwrap_or_else(|error| panic!("{format}: {error}"));
        assert_eq!(describe(root.path(), true), describe(source.path(), true), "{format}");
        assert_eq!(applied.size, layer.len() as u64);
    }
}

#[test]
fn ustar_and_v7_too() {
    let source = directory();
    fs::create_dir_all(source.path().join("d".repeat(80)).join("e".repeat(60))).expect("made");
    fs::write(
        source.path().join("d".repeat(80)).join("e".repeat(60)).join("file"),
        "x",
    )
    .expect("written");
    run(
        "find",
        &[
            text(source.path()),
            "-depth",
            "-exec",
            "touch",
            "-d",
            "@1600000001",
            "{}",
            "+",
        ],
    );
    let root = directory();
    unpack(&tar_of(source.path(), &["--format=ustar"]), root.path()).expect("applied");
    assert_eq!(describe(root.path(), true), describe(source.path(), true));

    let (short, root) = (directory(), directory());
    fs::create_dir(short.path().join("d")).expect("made");
    fs::write(short.path().join("d/file"), "x").expect("written");
    unpack(&tar_of(short.path(), &["--format=v7"]), root.path()).expect("applied");
    assert_eq!(fs::read_to_string(root.path().join("d/file")).expect("there"), "x");
}

#[test]
fn times_to_the_nanosecond_and_attributes() {
    let (source, root) = (directory(), directory());
    menagerie(source.path());
    let file = source.path().join("large");
    touch(
        &file,
        SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789),
    );
    xattr::set(&file, "user.note", b"with \0 and\nnewline").expect("set");
    xattr::set(source.path().join("empty"), "security.capability", &CAP_NET_RAW).expect("set");
    let layer = tar_of(source.path(), &["--format=posix", "--xattrs", "--xattrs-include=*"]);
    unpack(&layer, root.path()).expect("applied");
    assert_eq!(describe(root.path(), true), describe(source.path(), true));
}

/// `cap_net_raw=ep` as the kernel keeps it.
const CAP_NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn sparse_files_of_every_kind() {
    let source = directory();
    for (name, runs, end) in [
        ("few", 3_u64, 40 << 20),
        ("many", 200, 40 << 20),
        ("no-data", 0, 5 << 20),
        ("to-the-end", 30, 0),
    ] {
        let mut file = File::create(source.path().join(name)).expect("made");
        for run in 0..runs {
            file.seek(SeekFrom::Start(run * 128 * 1024 + 4096)).expect("sought");
            file.write_all(format!("run {run}").repeat(100).as_bytes())
                .expect("written");
        }
        if end > 0 {
            file.set_len(end).expect("set");
        }
    }
    run(
        "find",
        &[
            text(source.path()),
            "-depth",
            "-exec",
            "touch",
            "-d",
            "@1600000001",
            "{}",
            "+",
        ],
    );
    for options in [
        &["--format=gnu", "-S"][..],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
    ] {
        let root = directory();
        let layer = tar_of(source.path(), options);
        assert!(layer.len() < 20 << 20, "tar found the holes");
        unpack(&layer, root.path()).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        assert_eq!(
            describe(root.path(), true),
            describe(source.path(), true),
            "{options:?}"
        );
        let blocks = fs::metadata(root.path().join("no-data")).expect("there").blocks();
        assert_eq!(blocks, 0, "holes stay holes");
    }
}

#[test]
fn compressed_layers_have_the_diff_id_of_what_is_in_them() {
    let source = directory();
    menagerie(source.path());
    // tar(1) pads to 10 KiB: what follows the end belongs to the diff_id.
    let layer = tar_of(source.path(), &["--format=posix", "-b", "64"]);
    let diff_id = Digest::from_sha256(<sha2::Sha256 as sha2::Digest>::digest(&layer));
    let files = directory();
    let plain = files.path().join("layer");
    let (head, tail) = layer.split_at(layer.len() / 3);
    fs::write(files.path().join("head"), head).expect("written");
    fs::write(files.path().join("tail"), tail).expect("written");
    fs::write(&plain, &layer).expect("written");
    let of = |program: &str, names: &[&str]| -> Vec<u8> {
        names
            .iter()
            .flat_map(|name| run(program, &["-c", text(&files.path().join(name))]))
            .collect()
    };
    let expected = describe(source.path(), true);
    for (what, packed, compression) in [
        ("plain", layer.clone(), Compression::None),
        ("plain, said to be packed", layer.clone(), Compression::Detect),
        ("gzip", of("gzip", &["layer"]), Compression::Detect),
        ("gzip of two members", of("gzip", &["head", "tail"]), Compression::Gzip),
        ("zstd", of("zstd", &["layer"]), Compression::Detect),
        ("zstd of two frames", of("zstd", &["head", "tail"]), Compression::Zstd),
    ] {
        let root = directory();
        let applied = apply(&packed[..], compression, root.path(), &ApplyOptions::default())
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(
            (&applied.diff_id, applied.size),
            (&diff_id, layer.len() as u64),
            "{what}"
        );
        assert_eq!(describe(root.path(), true), expected, "{what}");
        let cut = &packed[..packed.len() - 20];
        if what != "plain" && what != "plain, said to be packed" {
            let root = directory();
            apply(cut, compression, root.path(), &ApplyOptions::default()).expect_err("the end is missing");
        }
    }
}
