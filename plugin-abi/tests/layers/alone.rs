//! Layers applied by themselves come out as on top of those below, or say that they cannot.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use orlop_plugin::Result;
use orlop_plugin::contract::Code;
use orlop_plugin::layer::{Applied, ApplyOptions, Compression, Whiteouts, apply};
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use crate::support::{DIRECTORY, FILE, HARD_LINK, SYMLINK, archive, describe, directory};

/// Which names, of what; a small world, so that layers meet.
type Step = (Vec<u8>, u8, u8);

fn step() -> impl Strategy<Value = Step> {
    (prop::collection::vec(0..3_u8, 1..4), 0..16_u8, any::<u8>())
}

fn layer(steps: &[Step]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, kind, what) in steps {
        let names: Vec<_> = path.iter().map(|name| ["a", "b", "c"][usize::from(*name)]).collect();
        let (mut name, mut link) = (names.join("/"), "");
        let kind = match kind {
            0..5 => DIRECTORY,
            5..9 => FILE,
            9 => EntryType::Char,
            10..12 => {
                link = ["a", "/b", "../c", "a/b"][usize::from(what % 4)];
                SYMLINK
            }
            12 => {
                link = ["a", "b/a", "c/b"][usize::from(what % 3)];
                HARD_LINK
            }
            13 => {
                name.push_str("/.wh..wh..opq");
                FILE
            }
            _ => {
                let at = name.rfind('/').map_or(0, |slash| slash + 1);
                name.insert_str(at, ".wh.");
                FILE
            }
        };
        let mut header = Header::new_ustar();
        header.set_path(&name).expect("it fits");
        header.set_entry_type(kind);
        header.set_mode([0o755, 0o700, 0o1777][usize::from(what % 3)]);
        header.set_mtime(u64::from(*what));
        header.set_uid(u64::from(what % 5));
        header.set_gid(0);
        header.set_device_major(5).expect("a number");
        header.set_device_minor(1).expect("a number");
        if !link.is_empty() {
            header.set_link_name_literal(link).expect("it fits");
        }
        let data = if kind == FILE {
            vec![*what; usize::from(*what)]
        } else {
            Vec::new()
        };
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, &data[..]).expect("appended");
    }
    tar.into_inner().expect("finished")
}

/// Upper directories, one over the other.
struct Stack {
    all: tempfile::TempDir,
    /// The topmost first.
    uppers: Vec<PathBuf>,
}

impl Stack {
    fn new() -> Self {
        Self {
            all: directory(),
            uppers: Vec::new(),
        }
    }

    fn put(&mut self, layer: &[u8], alone: bool) -> Result<Applied> {
        let upper = self.all.path().join(self.uppers.len().to_string());
        fs::create_dir(&upper).expect("made");
        let options = ApplyOptions {
            // So that what hides shows in the comparison.
            whiteouts: Whiteouts::Overlay { userxattr: true },
            lowers: if alone { Vec::new() } else { self.uppers.clone() },
            alone,
            ..ApplyOptions::default()
        };
        match apply(layer, Compression::None, &upper, &options) {
            Ok(applied) => {
                self.uppers.insert(0, upper);
                Ok(applied)
            }
            Err(error) => {
                fs::remove_dir_all(&upper).expect("removed");
                Err(error)
            }
        }
    }

    /// By itself if that can be, and else on those below.
    fn put_anyhow(&mut self, layer: &[u8]) -> Result<Applied> {
        match self.put(layer, true) {
            Err(error) if error.code == Code::FailedPrecondition => self.put(layer, false),
            put => put,
        }
    }

    fn trees(&self) -> Vec<BTreeMap<String, String>> {
        let mut trees: Vec<_> = self.uppers.iter().map(|upper| describe(upper, false)).collect();
        // A whiteout is as old as it is.
        let whiteouts = trees.iter_mut().flat_map(BTreeMap::values_mut);
        for whiteout in whiteouts.filter(|file| file.starts_with("special 20000 0 ")) {
            let (start, end) = (whiteout.find(" time "), whiteout.find(" shares "));
            whiteout.replace_range(start.expect("a time")..end.expect("names"), "");
        }
        trees
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn layers_come_out_the_same_in_any_order(
        layers in prop::collection::vec(prop::collection::vec(step(), 1..9), 1..5),
    ) {
        let (mut in_order, mut anyhow) = (Stack::new(), Stack::new());
        for steps in &layers {
            let layer = layer(steps);
            let (expected, got) = (in_order.put(&layer, false), anyhow.put_anyhow(&layer));
            prop_assert_eq!(&expected.is_ok(), &got.is_ok(), "{:?} {:?}", expected, got);
            if expected.is_err() {
                break;
            }
            prop_assert_eq!(expected, got);
            prop_assert_eq!(in_order.trees(), anyhow.trees());
        }
    }
}

#[test]
fn what_needs_the_layers_below_says_so() {
    let directories = [("d/", DIRECTORY, ""), ("d/e/", DIRECTORY, "")];
    let complete = [&directories[..], &[("d/e/file", FILE, "x"), ("d/e/.wh.gone", FILE, "")]].concat();
    for (entries, expected) in [
        (&complete[..], None),
        (&[("file", FILE, "x"), (".wh.d", FILE, "")], None),
        (&[("d/file", FILE, "x")], Some(Code::FailedPrecondition)),
        (&[("d/.wh.file", FILE, "")], Some(Code::FailedPrecondition)),
        (&[("d/.wh..wh..opq", FILE, "")], Some(Code::FailedPrecondition)),
        (&[("link", HARD_LINK, "d/file")], Some(Code::FailedPrecondition)),
        (
            &[("link", SYMLINK, "d"), ("link/file", FILE, "x")],
            Some(Code::FailedPrecondition),
        ),
        (
            &[("d/", DIRECTORY, ""), ("d/e/file", FILE, "x")],
            Some(Code::FailedPrecondition),
        ),
    ] {
        let put = Stack::new().put(&archive(entries), true);
        assert_eq!(
            put.as_ref().err().map(|error| error.code),
            expected,
            "{entries:?}: {put:?}"
        );
    }
}
