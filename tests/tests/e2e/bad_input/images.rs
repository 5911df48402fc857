//! Documents: manifests, indexes and configurations that are wrong, two things at once, or too many.

use orlop_tests::Daemon;
use orlop_tests::crafted::{GZIP_LAYER, INDEX, Image, MANIFEST, Tar, descriptor, digest, gzip, write_archive};
use serde_json::{Value, json};

use super::{Case, Decides, Refused, Taken, Verdict, assert_empty, check};

fn tar(name: &str) -> Vec<u8> {
    Tar::new().file(&format!("marks/{name}"), name.as_bytes()).finish()
}

fn case(name: &'static str, ours: Verdict, containerds: Verdict, change: impl FnOnce(&mut Image)) -> Case {
    let mut image = Image::new().layer(&tar(name)).layer(&tar(&format!("{name}, second")));
    change(&mut image);
    Case {
        name,
        image,
        ours,
        containerds,
    }
}

/// A case whose manifest has layers of one's own words.
fn layers(name: &'static str, ours: Verdict, containerds: Verdict, change: impl FnOnce(&mut Vec<Value>)) -> Case {
    case(name, ours, containerds, |image| {
        let mut layers: Vec<Value> = image
            .layers
            .iter()
            .map(|(kind, blob, _)| descriptor(kind, blob))
            .collect();
        change(&mut layers);
        image.manifest["layers"] = json!(layers);
    })
}

#[test]
fn documents_that_are_wrong() {
    let other = digest(b"something else");
    check(
        Decides::Client,
        &[
            case("nothing wrong", Taken, Taken, |_| {}),
            case(
                "a wrong diff id",
                Refused("the image is inconsistent"),
                Refused(""),
                |image| {
                    image.layers[1].2.clone_from(&other);
                },
            ),
            case(
                "fewer diff ids than layers",
                Refused("but its configuration has 1 diff ids"),
                Refused(""),
                |image| {
                    image.config["rootfs"] = json!({"type": "layers", "diff_ids": [image.layers[0].2]});
                },
            ),
            case(
                "no diff ids",
                Refused("but its configuration has 0 diff ids"),
                Refused(""),
                |image| {
                    image.config["rootfs"] = json!({"type": "layers", "diff_ids": null});
                },
            ),
            case(
                "more diff ids than layers",
                Refused("but its configuration has 3 diff ids"),
                Refused(""),
                |image| {
                    let ids = [&image.layers[0].2, &image.layers[1].2, &other];
                    image.config["rootfs"] = json!({"type": "layers", "diff_ids": ids});
                },
            ),
            case("a layer twice", Taken, Taken, |image| {
                let again = image.layers[0].clone();
                image.layers.push(again);
            }),
            case("an empty layer", Taken, Taken, |image| {
                let empty = Tar::new().finish();
                image.layers.push((GZIP_LAYER.to_owned(), gzip(&empty), digest(&empty)));
            }),
            layers(
                "a size that is too small",
                Refused("but 1 are said of it"),
                Taken,
                |layers| {
                    layers[0]["size"] = json!(1);
                },
            ),
            layers("a size that is too large", Refused("are said of it"), Taken, |layers| {
                layers[0]["size"] = json!(1_u64 << 40);
            }),
            layers("a negative size", Refused("-1"), Taken, |layers| {
                layers[0]["size"] = json!(-1);
            }),
            layers("a digest in capitals", Refused("digest"), Refused(""), |layers| {
                layers[0]["digest"] = json!(
                    layers[0]["digest"]
                        .as_str()
                        .unwrap()
                        .to_uppercase()
                        .replace("SHA", "sha")
                );
            }),
            layers("a short digest", Refused("digest"), Refused(""), |layers| {
                layers[0]["digest"] = json!("sha256:00");
            }),
            layers("a digest that climbs", Refused("digest"), Refused(""), |layers| {
                layers[0]["digest"] = json!("sha256:../../../../etc/passwd");
            }),
            layers("an algorithm nobody knows", Refused("digest"), Refused(""), |layers| {
                layers[0]["digest"] = json!("md5:00000000000000000000000000000000");
            }),
            layers(
                "a layer that is not there",
                Refused("is not in the content store"),
                Refused(""),
                |layers| {
                    layers[0]["digest"] = json!(other);
                },
            ),
            case(
                "a manifest with manifests",
                Refused("parts of an index"),
                Refused(""),
                |image| {
                    image.manifest["manifests"] = json!([descriptor(MANIFEST, b"x")]);
                },
            ),
            case(
                "a manifest that calls itself an index",
                Refused("parts of an index"),
                Refused(""),
                |image| {
                    image.manifest["mediaType"] = json!(INDEX);
                },
            ),
            case(
                "a manifest that the index calls an index",
                Refused("parts of a manifest"),
                Refused(""),
                |image| {
                    image.media_type = INDEX.to_owned();
                },
            ),
            case("schema 1", Refused("schema 1"), Refused(""), |image| {
                image.manifest = json!({"schemaVersion": 1, "fsLayers": [], "config": {}, "layers": []});
            }),
            case(
                "a configuration that is none",
                Refused("not valid"),
                Refused(""),
                |image| {
                    image.config = json!({"architecture": 5, "os": ["linux"], "rootfs": 7});
                },
            ),
            case(
                "a manifest over the limit",
                Refused("a document of an image may have"),
                Taken,
                |image| {
                    image.manifest["annotations"] = json!({"x": "x".repeat(8 << 20)});
                },
            ),
            case(
                "a configuration over the limit",
                Refused("a document of an image may have"),
                Taken,
                |image| {
                    image.config["x"] = json!("x".repeat(8 << 20));
                },
            ),
        ],
    );
}

/// An index of an index of an index.
fn nested(levels: usize) -> (Value, Vec<Vec<u8>>) {
    let image = Image::new().layer(&tar("nested"));
    let mut blobs = image.blobs();
    let mut entry = image.entry();
    for _ in 0..levels {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})
            .to_string()
            .into_bytes();
        entry = descriptor(INDEX, &index);
        blobs.push(index);
    }
    (entry, blobs)
}

#[test]
fn indexes_that_are_deep_or_wide() {
    let daemon = Daemon::orlop().start();
    let import = |name: &str, mut entry: Value, blobs: &[Vec<u8>]| {
        entry["annotations"] = json!({"io.containerd.image.name": format!("docker.io/library/{name}:v1")});
        let archive = write_archive(&daemon.path(""), name, &[entry], blobs);
        daemon.ctr(&format!("images import {}", archive.display()))
    };
    let (entry, blobs) = nested(3);
    import("shallow", entry, &blobs).ok();
    let (entry, blobs) = nested(100);
    let said = import("deep", entry, &blobs).fails();
    assert!(said.contains("one in the other"), "{said}");

    let elsewhere = |nth: usize| {
        let mut entry = descriptor(MANIFEST, format!("{nth}").as_bytes());
        entry["platform"] = json!({"os": "plan9", "architecture": format!("processor{nth}")});
        entry
    };
    let mut entries: Vec<Value> = (0..10_000).map(elsewhere).collect();
    let index = |entries: &[Value]| {
        json!({"schemaVersion": 2, "manifests": entries})
            .to_string()
            .into_bytes()
    };
    let image = Image::new().layer(&tar("wide"));
    entries.push(image.entry());
    let wide = index(&entries);
    let mut blobs = image.blobs();
    let entry = descriptor(INDEX, &wide);
    blobs.push(wide);
    import("found", entry, &blobs).ok();
    assert_empty(&daemon);
}
