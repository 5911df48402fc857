//! Images whose layers programs must make layers of first: `[stream_processors]`.

use std::path::{Path, PathBuf};
use std::process::Command;

use orlop_tests::image::{BUSYBOX, busybox};
use orlop_tests::registry::Registry;
use orlop_tests::{Daemon, Output, command};
use serde_json::{Value, json};

const ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+encrypted";
const PASSWORD: &str = "pass:secret";

/// The busybox image, its layers encrypted, as an OCI archive.
fn encrypted(directory: &Path, unique: &str) -> PathBuf {
    let archive = busybox(directory, BUSYBOX, unique);
    let layout = directory.join("layout");
    std::fs::create_dir(&layout).unwrap();
    command::run(Command::new("tar").arg("-C").arg(&layout).arg("-xf").arg(&archive)).ok();
    let blob = |digest: &Value| layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
    let read = |path: &Path| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap();

    let mut index = read(&layout.join("index.json"));
    // What is not encrypted must not be there to be unpacked.
    let clear = blob(&index["manifests"][0]["digest"]);
    let mut manifest = read(&clear);
    std::fs::remove_file(clear).unwrap();
    let config = read(&blob(&manifest["config"]["digest"]));
    for (nth, layer) in manifest["layers"].as_array_mut().unwrap().iter_mut().enumerate() {
        let (bare, secret) = (layout.join("bare"), layout.join("secret"));
        let unpacked = Command::new("gzip")
            .arg("-dcf")
            .stdin(std::fs::File::open(blob(&layer["digest"])).unwrap())
            .output();
        std::fs::write(&bare, unpacked.unwrap().stdout).unwrap();
        let (_, diff_id) = digest(&bare);
        assert_eq!(config["rootfs"]["diff_ids"][nth], diff_id);
        command::run(
            Command::new("openssl")
                .args(["enc", "-aes-256-cbc", "-pbkdf2", "-pass", PASSWORD, "-in"])
                .arg(&bare)
                .arg("-out")
                .arg(&secret),
        )
        .ok();
        let (size, digest) = digest(&secret);
        std::fs::remove_file(blob(&layer["digest"])).unwrap();
        *layer = json!({"mediaType": ENCRYPTED, "size": size, "digest": digest});
        std::fs::rename(&secret, blob(&layer["digest"])).unwrap();
        std::fs::remove_file(&bare).unwrap();
    }
    let written = layout.join("manifest");
    std::fs::write(&written, manifest.to_string()).unwrap();
    let (size, digest) = digest(&written);
    index["manifests"][0]["size"] = size.into();
    index["manifests"][0]["digest"] = digest.into();
    std::fs::rename(&written, blob(&index["manifests"][0]["digest"])).unwrap();
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let archive = directory.join("encrypted.tar");
    command::run(
        Command::new("tar")
            .arg("-C")
            .arg(&layout)
            .arg("-cf")
            .arg(&archive)
            .arg("."),
    )
    .ok();
    archive
}

fn digest(path: &Path) -> (u64, String) {
    let said = command::run(Command::new("sha256sum").arg(path)).ok();
    let hex = said.split(' ').next().unwrap();
    (std::fs::metadata(path).unwrap().len(), format!("sha256:{hex}"))
}

/// A table for a processor that decrypts with `password`.
fn decrypting(password: &str) -> String {
    format!(
        "[stream_processors.decrypt]\naccepts = [{ENCRYPTED:?}]\nreturns = \"application/vnd.oci.image.layer.v1.tar\"\n\
         path = \"openssl\"\nargs = [\"enc\", \"-d\", \"-aes-256-cbc\", \"-pbkdf2\", \"-pass\", \"env:PASSWORD\"]\n\
         env = [\"PASSWORD={password}\"]"
    )
}

#[test]
fn encrypted_layers_are_imported_pulled_and_run() {
    let daemon = Daemon::orlop().config(&decrypting("secret")).start();
    let archive = encrypted(&daemon.path(""), daemon.namespace());
    let clients: [fn(&Daemon, &str) -> Output; 2] = [Daemon::debian_ctr, Daemon::ctr];
    for (nth, ctr) in clients.into_iter().enumerate() {
        ctr(&daemon, &format!("images import {}", archive.display())).ok();
        let ran = ctr(&daemon, &format!("run --rm {BUSYBOX} t{nth} /bin/echo decrypted"));
        assert_eq!(ran.ok(), "decrypted\n");
        daemon.ctr(&format!("images rm --sync {BUSYBOX}")).ok();
        assert_eq!(daemon.ctr("content ls -q").ok(), "");
    }

    let registry = Registry::start();
    registry.fill(&archive, "secret/busybox:1");
    let name = registry.name("secret/busybox:1");
    daemon.ctr(&format!("images pull --plain-http {name}")).ok();
    assert_eq!(
        daemon.ctr(&format!("run --rm {name} t3 /bin/echo pulled")).ok(),
        "pulled\n"
    );
}

#[test]
fn the_wrong_key_is_an_error_that_says_so_and_leaves_no_snapshot() {
    let daemon = Daemon::orlop().config(&decrypting("guess")).start();
    let archive = encrypted(&daemon.path(""), daemon.namespace());
    let error = daemon.ctr(&format!("images import {}", archive.display())).fails();
    assert!(error.contains("apply layer sha256:"), "{error}");
    let snapshots = daemon.ctr("snapshots ls").ok();
    assert_eq!(snapshots.lines().count(), 1, "{snapshots}");

    // Nobody installed containerd's own decoder here, which is the default.
    let daemon = Daemon::orlop().start();
    let error = daemon.ctr(&format!("images import {}", archive.display())).fails();
    assert!(error.contains("ctd-decoder"), "{error}");
}
