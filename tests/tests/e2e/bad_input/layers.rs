//! Layers: compressed badly, or archives that are damaged or mean harm.

use orlop_tests::crafted::{GZIP_LAYER, Image, Tar, ZSTD_LAYER, gzip, zstd};
use tar::EntryType;

use super::{Case, Decides, Refused, Taken, Verdict, check};

/// A good layer, another one for each case: what was unpacked once is not unpacked again.
fn good(name: &str) -> Tar {
    Tar::new().file(&format!("marks/{name}"), name.as_bytes())
}

fn packed(
    name: &'static str,
    kind: &str,
    pack: impl FnOnce(&[u8]) -> Vec<u8>,
    ours: Verdict,
    containerds: Verdict,
) -> Case {
    // Incompressible, so that a cut takes something away, and longer than what is read at once.
    let noise: Vec<u8> = (0..200_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes())
        .collect();
    let tar = good(name).file("noise", &noise).finish();
    Case {
        name,
        image: Image::new().packed(kind, &pack(&tar), &tar),
        ours,
        containerds,
    }
}

/// A skippable frame of zstd.
fn skippable(bytes: &[u8]) -> Vec<u8> {
    [
        &[0x50, 0x2a, 0x4d, 0x18][..],
        &(bytes.len() as u32).to_le_bytes(),
        bytes,
    ]
    .concat()
}

#[test]
fn compressed_badly() {
    let halves = |tar: &[u8], pack: fn(&[u8]) -> Vec<u8>| {
        let (one, two) = tar.split_at(tar.len() / 2);
        [pack(one), pack(two)].concat()
    };
    let cut = |mut bytes: Vec<u8>, by: usize| {
        bytes.truncate(bytes.len() - by);
        bytes
    };
    check(
        Decides::Daemon,
        &[
            packed("gzip", GZIP_LAYER, gzip, Taken, Taken),
            packed("a bare tar called gzip", GZIP_LAYER, <[u8]>::to_vec, Taken, Taken),
            packed("zstd called gzip", GZIP_LAYER, zstd, Taken, Taken),
            packed("gzip called zstd", ZSTD_LAYER, gzip, Taken, Taken),
            packed("gzip of two members", GZIP_LAYER, |tar| halves(tar, gzip), Taken, Taken),
            packed(
                "gzip with an empty member",
                GZIP_LAYER,
                |tar| [gzip(tar), gzip(b"")].concat(),
                Taken,
                Taken,
            ),
            packed(
                "gzip cut in the data",
                GZIP_LAYER,
                |tar| cut(gzip(tar), 5000),
                Refused("apply layer"),
                Refused(""),
            ),
            packed(
                "gzip cut in the check",
                GZIP_LAYER,
                |tar| cut(gzip(tar), 6),
                Refused("apply layer"),
                Refused(""),
            ),
            packed(
                "gzip cut to its header",
                GZIP_LAYER,
                |tar| gzip(tar)[..8].to_vec(),
                Refused("apply layer"),
                Refused(""),
            ),
            packed(
                "gzip with a wrong check",
                GZIP_LAYER,
                |tar| {
                    let mut bytes = gzip(tar);
                    let crc = bytes.len() - 8;
                    bytes[crc] ^= 1;
                    bytes
                },
                Refused("apply layer"),
                Refused(""),
            ),
            packed(
                "gzip with zeros behind",
                GZIP_LAYER,
                |tar| [gzip(tar), vec![0; 512]].concat(),
                Refused("apply layer"),
                Refused(""),
            ),
            packed(
                "gzip with rubbish behind",
                GZIP_LAYER,
                |tar| [gzip(tar), b"rubbish, rubbish".to_vec()].concat(),
                Refused("apply layer"),
                Refused(""),
            ),
            packed("zstd", ZSTD_LAYER, zstd, Taken, Taken),
            packed("zstd of two frames", ZSTD_LAYER, |tar| halves(tar, zstd), Taken, Taken),
            packed(
                "zstd with skippable frames",
                ZSTD_LAYER,
                |tar| {
                    [
                        zstd(&tar[..1000]),
                        skippable(b"skip"),
                        zstd(&tar[1000..]),
                        skippable(b"table of contents"),
                    ]
                    .concat()
                },
                Taken,
                Taken,
            ),
            packed(
                "zstd with a skippable frame in front",
                ZSTD_LAYER,
                |tar| [skippable(b"skip"), zstd(tar)].concat(),
                Taken,
                Taken,
            ),
            packed(
                "zstd cut off",
                ZSTD_LAYER,
                |tar| cut(zstd(tar), 20),
                Refused("apply layer"),
                Refused(""),
            ),
            packed(
                "zstd with rubbish behind",
                ZSTD_LAYER,
                |tar| [zstd(tar), b"rubbish".to_vec()].concat(),
                Refused("apply layer"),
                Refused(""),
            ),
        ],
    );
}

fn layer(name: &'static str, tar: Vec<u8>, ours: Verdict, containerds: Verdict) -> Case {
    Case {
        name,
        image: Image::new().layer(&tar),
        ours,
        containerds,
    }
}

#[test]
fn entries_that_lead_elsewhere() {
    let deep = "d/".repeat(10_000) + "file";
    let long_name = "n".repeat(256);
    let long_path = format!("{}/file", "p".repeat(200) + "/" + &"q/".repeat(2000));
    check(
        Decides::Daemon,
        &[
            layer("up", good("up").file("../../up", b"x").finish(), Taken, Taken),
            layer(
                "absolute",
                good("absolute").file("/absolute", b"x").finish(),
                Taken,
                Taken,
            ),
            layer(
                "absolute link",
                good("absolute link")
                    .entry("etc", EntryType::Symlink, "/proc", b"")
                    .finish(),
                Taken,
                Taken,
            ),
            layer(
                "through an absolute link",
                good("through")
                    .entry("out", EntryType::Symlink, "/", b"")
                    .file("out/inside", b"x")
                    .finish(),
                Taken,
                Taken,
            ),
            layer(
                "hard link out",
                good("hard link out")
                    .entry("passwd", EntryType::Link, "../../../../../../etc/passwd", b"")
                    .finish(),
                Refused("hard link"),
                Refused(""),
            ),
            layer(
                "hard link to nothing",
                good("hard link to nothing")
                    .entry("a", EntryType::Link, "nothing", b"")
                    .finish(),
                Refused("hard link"),
                Refused(""),
            ),
            layer(
                "loop of links",
                good("loop")
                    .entry("a", EntryType::Symlink, "b", b"")
                    .entry("b", EntryType::Symlink, "a", b"")
                    .file("a/file", b"x")
                    .finish(),
                Refused("loop of symlinks"),
                Refused(""),
            ),
            layer(
                "devices",
                good("devices")
                    .entry("null", EntryType::Char, "", b"")
                    .entry("ram", EntryType::Block, "", b"")
                    .entry("pipe", EntryType::Fifo, "", b"")
                    .finish(),
                Taken,
                Taken,
            ),
            layer(
                "10,000 levels",
                good("deep").file(&deep, b"x").finish(),
                Refused("the kernel takes at most 4095"),
                Refused(""),
            ),
            layer(
                "a long name",
                good("long name").file(&long_name, b"x").finish(),
                Refused("name too long"),
                Refused(""),
            ),
            layer(
                "a long path",
                good("long path").file(&long_path, b"x").finish(),
                Refused("the kernel takes at most 4095"),
                Refused(""),
            ),
            layer(
                "whiteout of nothing",
                good("whiteout").file(".wh.", b"").finish(),
                Refused("whiteout"),
                Refused(""),
            ),
            layer(
                "a file below a file",
                good("below").file("f", b"x").file("f/g", b"x").finish(),
                Refused("is no directory"),
                Refused(""),
            ),
        ],
    );
}

#[test]
fn archives_that_are_damaged_or_odd() {
    let pax = |name: &str, records: &[(&str, &[u8])]| good(name).pax(records).file("file", b"content").finish();
    let raw_pax = |name: &str, body: &[u8]| {
        good(name)
            .header("PaxHeaders.0/x", EntryType::XHeader, "", body)
            .file("file", b"content")
            .finish()
    };
    let sparse_1_0 = |map: &str| {
        let mut body = map.as_bytes().to_vec();
        body.resize(512, 0);
        body.extend_from_slice(b"hello");
        good(map)
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"sparse"),
                ("GNU.sparse.realsize", b"4096"),
            ])
            .file("GNUSparseFile.0/sparse", &body)
            .finish()
    };
    let old_sparse = |offset: &'static [u8; 12]| {
        good("old sparse").file("sparse", b"hello").patched(5, move |header| {
            header[156] = b'S';
            header[386..398].copy_from_slice(offset);
            header[398..410].copy_from_slice(b"00000000005\0");
            header[483..495].copy_from_slice(b"00000010000\0");
        })
    };
    let huge = vec![b'v'; 2 << 20];
    check(
        Decides::Daemon,
        &[
            layer("empty", Vec::new(), Taken, Taken),
            layer("without an end", good("endless").unfinished(), Taken, Taken),
            layer(
                "cut in a header",
                [good("cut header").unfinished(), vec![b'x'; 100]].concat(),
                Refused("ends in the middle"),
                Refused(""),
            ),
            layer(
                "cut in the data",
                {
                    let mut tar = good("cut data").file("big", &[1; 4000]).unfinished();
                    tar.truncate(tar.len() - 2000);
                    tar
                },
                Refused("ends in the middle"),
                Refused(""),
            ),
            layer(
                "rubbish for a header",
                good("rubbish").raw(&[b'x'; 512]).finish(),
                Refused("checksum"),
                Refused(""),
            ),
            layer(
                "rubbish behind the end",
                [good("behind").finish(), vec![b'x'; 5000]].concat(),
                Taken,
                Taken,
            ),
            layer(
                "one block of zeros in the middle",
                good("zeros").raw(&[0; 512]).file("after", b"x").finish(),
                Refused("a block of zeros"),
                Refused(""),
            ),
            layer(
                "a negative size",
                good("negative")
                    .file("f", b"")
                    .patched(0, |header| header[124..136].fill(0xff))
                    .finish(),
                Refused("negative size"),
                Refused(""),
            ),
            layer(
                "a size past the end",
                good("past")
                    .file("f", b"")
                    .patched(0, |header| header[124..136].copy_from_slice(b"77777777777\0"))
                    .finish(),
                Refused("ends in the middle"),
                Refused(""),
            ),
            layer(
                "an unknown type",
                good("type").entry("f", EntryType::new(b'Z'), "", b"").finish(),
                Refused("unknown tar type"),
                Refused(""),
            ),
            layer("pax path", pax("pax path", &[("path", b"elsewhere")]), Taken, Taken),
            layer(
                "pax keys said twice",
                pax("twice", &[("path", b"first"), ("path", b"second")]),
                Taken,
                Taken,
            ),
            layer(
                "pax of 2 MiB",
                pax("huge", &[("comment", &huge)]),
                Refused("at most 1048576 are read"),
                Refused(""),
            ),
            layer(
                "pax with a NUL in a path",
                pax("nul path", &[("path", b"a\0b")]),
                Refused("NUL"),
                Refused(""),
            ),
            layer(
                "pax with a NUL in a key",
                pax("nul key", &[("a\0b", b"x")]),
                Refused("damaged"),
                Refused(""),
            ),
            layer(
                "pax with an empty key",
                pax("empty key", &[("", b"x")]),
                Refused("damaged"),
                Refused(""),
            ),
            layer(
                "pax with a wrong length",
                raw_pax("wrong length", b"99 path=x\n"),
                Refused("damaged"),
                Refused(""),
            ),
            layer(
                "pax without an end of line",
                raw_pax("no newline", b"8 path=xy"),
                Refused("damaged"),
                Refused(""),
            ),
            layer(
                "pax with a negative size",
                pax("pax size", &[("size", b"-1")]),
                Refused("negative size"),
                Refused(""),
            ),
            layer(
                "pax with a word for a uid",
                pax("pax uid", &[("uid", b"root")]),
                Refused("where a number belongs"),
                Refused(""),
            ),
            layer(
                "pax with a uid of 64 bits",
                pax("pax big uid", &[("uid", b"9999999999")]),
                Refused("is no id"),
                Taken,
            ),
            layer(
                "extended attributes",
                pax(
                    "xattrs",
                    &[
                        ("SCHILY.xattr.user.mine", b"a\0b"),
                        ("LIBARCHIVE.xattr.user.other", b"eA=="),
                    ],
                ),
                Taken,
                Taken,
            ),
            layer(
                "an attribute of the overlay",
                pax("overlay", &[("SCHILY.xattr.trusted.overlay.opaque", b"y")]),
                Taken,
                Taken,
            ),
            layer(
                "an attribute without a name",
                pax("no name", &[("SCHILY.xattr.", b"y")]),
                Refused("extended attribute"),
                Refused(""),
            ),
            layer(
                "pax in front of nothing",
                good("nothing").pax(&[("path", b"x")]).finish(),
                Taken,
                Taken,
            ),
            layer(
                "a sparse file (old GNU)",
                old_sparse(b"00000000012\0").finish(),
                Taken,
                Refused(""),
            ),
            layer(
                "a sparse map past its file (old GNU)",
                old_sparse(b"00000007777\0").finish(),
                Refused("sparse map"),
                Refused(""),
            ),
            layer(
                "a sparse file (PAX 0.0)",
                good("sparse 0.0")
                    .pax(&[
                        ("GNU.sparse.size", b"4096"),
                        ("GNU.sparse.numblocks", b"1"),
                        ("GNU.sparse.offset", b"10"),
                        ("GNU.sparse.numbytes", b"5"),
                    ])
                    .file("sparse", b"hello")
                    .finish(),
                Taken,
                Taken,
            ),
            layer(
                "a sparse file (PAX 0.1)",
                good("sparse 0.1")
                    .pax(&[
                        ("GNU.sparse.size", b"4096"),
                        ("GNU.sparse.numblocks", b"1"),
                        ("GNU.sparse.map", b"10,5"),
                    ])
                    .file("sparse", b"hello")
                    .finish(),
                Taken,
                Taken,
            ),
            layer("a sparse file (PAX 1.0)", sparse_1_0("1\n10\n5\n"), Taken, Taken),
            layer(
                "a sparse map that overlaps itself",
                sparse_1_0("2\n10\n3\n11\n2\n"),
                Refused("sparse map"),
                Refused(""),
            ),
            layer(
                "a sparse map with an endless count",
                sparse_1_0("99999999999\n1\n1\n"),
                Refused("sparse map"),
                Refused(""),
            ),
            layer(
                "a sparse map of words",
                sparse_1_0("x\n"),
                Refused("where a number belongs"),
                Refused(""),
            ),
        ],
    );
}
