//! A layer, applied to a root with a file beside it: an error or a tree, never a panic, never anything outside the root.
//!
//! The first byte chooses how: bit 0 gzip and zstd are recognised, bit 1 whiteouts are those of overlayfs, bit 2 checksums are
//! put right, without which hardly any change of a header gets further than its sum.

#![no_main]

use std::fs;
use std::os::unix::fs::MetadataExt;

use libfuzzer_sys::fuzz_target;
use orlop_plugin::layer::{ApplyOptions, Compression, Whiteouts, apply};

const BLOCK: usize = 512;

fn repair(layer: &mut [u8]) {
    for block in layer.chunks_exact_mut(BLOCK).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&how, layer)) = input.split_first() else {
        return;
    };
    let mut layer = layer.to_vec();
    if how & 4 != 0 {
        repair(&mut layer);
    }
    let all = tempfile::tempdir().expect("a directory");
    let (root, outside) = (all.path().join("root"), all.path().join("outside"));
    let lower = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(lower.path().join("d/e")).expect("made");
    std::os::unix::fs::symlink("../..", lower.path().join("up")).expect("made");
    fs::create_dir(&root).expect("made");
    fs::write(&outside, "untouched").expect("written");
    let before = fs::metadata(&outside).expect("there");
    let overlay = how & 2 != 0;
    let options = ApplyOptions {
        whiteouts: if overlay {
            Whiteouts::Overlay { userxattr: how & 8 != 0 }
        } else {
            Whiteouts::Remove
        },
        lowers: if overlay { vec![lower.path().to_owned()] } else { Vec::new() },
        ..ApplyOptions::default()
    };
    let compression = if how & 1 != 0 { Compression::Detect } else { Compression::None };
    let applied = apply(&layer[..], compression, &root, &options);
    if let Err(error) = applied {
        assert!(error.message.len() < 4096, "an error of {} bytes", error.message.len());
    }
    let after = fs::symlink_metadata(&outside).expect("there");
    assert_eq!(fs::read(&outside).expect("read"), b"untouched");
    let facts = |stat: &fs::Metadata| (stat.ino(), stat.mode(), stat.nlink(), stat.uid(), stat.gid(), stat.mtime(), stat.ctime_nsec());
    assert_eq!(facts(&before), facts(&after));
    assert_eq!(fs::read_dir(all.path()).expect("read").count(), 2, "something was put beside the root");
    assert_eq!(fs::read_dir(lower.path()).expect("read").count(), 2, "the lower layer changed");
});
