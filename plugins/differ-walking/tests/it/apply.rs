//! Applying.

use std::fs;

use orlop_plugin::contract::{ApplyOptions, Code, Digest, Mount};
use orlop_plugin::mount::{Access, TempMount};
use sha2::{Digest as _, Sha256};

use crate::store::Store;
use crate::support::{bind, ctx, descriptor, differ, directory, overlay, packed};

#[tokio::test]
async fn layers_of_every_media_type() {
    let (store, source) = (Store::default(), directory());
    fs::create_dir(source.path().join("d")).expect("made");
    fs::write(source.path().join("d/file"), "x".repeat(300_000)).expect("written");
    let plain = packed(source.path(), None);
    let diff_id = Digest::from_sha256(Sha256::digest(&plain));
    let (gzip, zstd) = (packed(source.path(), Some("gzip")), packed(source.path(), Some("zstd")));
    let differ = differ(&store).await;
    for (media_type, blob) in [
        ("application/vnd.oci.image.layer.v1.tar", &plain),
        ("application/vnd.oci.image.layer.v1.tar+gzip", &gzip),
        ("application/vnd.oci.image.layer.v1.tar+gzip", &plain),
        ("application/vnd.oci.image.layer.v1.tar+zstd", &zstd),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", &gzip),
        ("application/vnd.docker.image.rootfs.diff.tar", &gzip),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", &gzip),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", &gzip),
    ] {
        let root = directory();
        let layer = descriptor(media_type, store.put(blob.clone()), blob.len());
        let applied = differ
            .apply(&ctx(), layer, bind(root.path(), "rbind,rw"), ApplyOptions::default())
            .await
            .unwrap_or_else(|error| panic!("{media_type}: {error}"));
        assert_eq!(
            applied,
            descriptor("application/vnd.oci.image.layer.v1.tar", diff_id.clone(), plain.len())
        );
        assert_eq!(fs::read(root.path().join("d/file")).expect("there").len(), 300_000);
    }
}

#[tokio::test]
async fn what_it_cannot_apply_it_leaves_to_others_or_refuses() {
    let (store, root) = (Store::default(), directory());
    let differ = differ(&store).await;
    let apply = |media_type: &'static str, digest: Digest| {
        let mounts = bind(root.path(), "rbind,rw");
        let differ = differ.clone();
        async move {
            let layer = descriptor(media_type, digest, 0);
            differ
                .apply(&ctx(), layer, mounts, ApplyOptions::default())
                .await
                .expect_err("not applied")
        }
    };
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    let rubbish = store.put(vec![7; 5000]);
    let cut = {
        fs::write(root.path().join("file"), "x".repeat(5000)).expect("written");
        let whole = packed(root.path(), Some("gzip"));
        store.put(whole[..whole.len() / 2].to_vec())
    };
    assert_eq!(
        apply("application/vnd.erofs.layer.v1", rubbish.clone()).await.code,
        Code::Unimplemented
    );
    let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
    assert_eq!(apply(encrypted, rubbish.clone()).await.code, Code::Unimplemented);
    assert_eq!(apply(gzip, rubbish).await.code, Code::InvalidArgument);
    assert_eq!(apply(gzip, cut).await.code, Code::InvalidArgument);
    let nowhere = Digest::from_sha256(Sha256::digest(b"nowhere"));
    let error = apply(gzip, nowhere.clone()).await;
    assert_eq!(error.code, Code::NotFound);
    assert!(error.message.contains(nowhere.as_str()), "{error}");
}

#[tokio::test]
async fn an_upper_directory_gets_the_layer_without_a_mount() {
    let (store, lower, root, source) = (Store::default(), directory(), directory(), directory());
    fs::write(lower.path().join("gone"), "x").expect("written");
    fs::write(lower.path().join("kept"), "x").expect("written");
    fs::write(source.path().join(".wh.gone"), "").expect("written");
    fs::write(source.path().join("new"), "x").expect("written");
    let blob = packed(source.path(), None);
    let layer = descriptor(
        "application/vnd.oci.image.layer.v1.tar",
        store.put(blob.clone()),
        blob.len(),
    );
    let mounts = overlay(root.path(), lower.path());
    let options = ApplyOptions {
        sync_fs: true,
        ..ApplyOptions::default()
    };
    differ(&store)
        .await
        .apply(&ctx(), layer, mounts.clone(), options)
        .await
        .expect("applied");
    assert!(root.path().join("upper/new").is_file());
    let merged = TempMount::new(&mounts, Access::Write).expect("mounted");
    let mut names: Vec<_> = fs::read_dir(merged.path())
        .expect("read")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["kept", "new"]);
}

#[tokio::test]
async fn anything_else_is_mounted() {
    let (store, root, source) = (Store::default(), directory(), directory());
    let image = root.path().join("image");
    fs::File::create(&image)
        .and_then(|file| file.set_len(16 << 20))
        .expect("made");
    let made = std::process::Command::new("mkfs.ext4")
        .arg("-q")
        .arg(&image)
        .status()
        .expect("mkfs.ext4 starts");
    assert!(made.success());
    fs::write(source.path().join("new"), "x").expect("written");
    let blob = packed(source.path(), Some("zstd"));
    let layer = descriptor(
        "application/vnd.oci.image.layer.v1.tar+zstd",
        store.put(blob.clone()),
        blob.len(),
    );
    let mounts = vec![Mount {
        kind: "ext4".into(),
        source: image.display().to_string(),
        target: String::new(),
        options: vec!["loop".into(), "rw".into()],
    }];
    let differ = differ(&store).await;
    differ
        .apply(&ctx(), layer.clone(), mounts.clone(), ApplyOptions::default())
        .await
        .expect("applied");
    let mounted = TempMount::new(&mounts, Access::Read).expect("mounted");
    assert!(mounted.path().join("new").is_file());
    // A read-only bind mount is not written behind its back.
    let mounts = bind(source.path(), "rbind,ro");
    differ
        .apply(&ctx(), layer, mounts, ApplyOptions::default())
        .await
        .expect_err("read-only");
}
