//! Imports that work.

use containerd_client::to_any;
use containerd_client::types::transfer::{Data, ImageImportStream, ImageReference, ImageStore, OciRegistry};
use futures_util::StreamExt;
use orlop_plugin::contract::{Code, Labels, Leases, Streaming, Transfer, stream_of};

use super::{here, plain, platform, unpacked};
use crate::fixture::{Daemon, TestImage, ctx, docker_archive, gzip, oci_archive, oci_files, tar_of};
use crate::oci::media_type;
use crate::unpack::chain_ids;

#[tokio::test]
async fn an_oci_archive_becomes_an_unpacked_image() {
    let image = TestImage::new(&here(), &["one", "two", "three"]);
    for archive in [oci_archive(&image), gzip(&oci_archive(&image))] {
        let daemon = Daemon::new();
        let events = daemon.import(&archive, &unpacked()).await.expect("imported");
        assert_eq!(events, ["Importing", "saved app:v1", "Completed import"]);

        let stored = daemon.images.image("app:v1");
        assert_eq!(stored.target.digest, image.manifest_digest());
        assert_eq!(stored.target.media_type, media_type::MANIFEST);

        let top = chain_ids(&image.diff_ids()).pop().expect("has layers").to_string();
        assert_eq!(daemon.snapshots.layers(&top), image.layer_digests());
        assert_eq!(
            daemon.snapshots.applied(),
            image.layer_digests(),
            "each layer is applied once"
        );
        let config = daemon.content.labels(&image.config_digest());
        assert_eq!(config["containerd.io/gc.ref.snapshot.overlayfs"], top);
        let layer = daemon.content.labels(&image.layer_digests()[1]);
        assert_eq!(layer["containerd.io/uncompressed"], image.diff_ids()[1].to_string());
        let manifest = daemon.content.labels(&image.manifest_digest());
        assert_eq!(
            manifest["containerd.io/gc.ref.content.config"],
            image.config_digest().to_string()
        );
        assert_eq!(
            manifest["containerd.io/gc.ref.content.l.2"],
            image.layer_digests()[2].to_string()
        );
        daemon.assert_tidy();
    }
}

#[tokio::test]
async fn the_order_of_an_archive_does_not_matter() {
    let image = TestImage::new(&here(), &["one", "two"]);
    let files = oci_files(&[&image], &[image.entry(Some("v1"))]);
    for turn in 0..files.len() {
        let mut files = files.clone();
        files.rotate_left(turn);
        if turn % 2 == 1 {
            files.reverse();
        }
        let daemon = Daemon::new();
        daemon.import(&tar_of(&files), &unpacked()).await.expect("imported");
        assert_eq!(daemon.images.names(), ["app:v1"]);
        assert_eq!(daemon.snapshots.applied(), image.layer_digests());
        daemon.assert_tidy();
    }
}

#[tokio::test]
async fn what_is_there_is_neither_written_nor_unpacked_again() {
    let image = TestImage::new(&here(), &["one", "two"]);
    let daemon = Daemon::new();
    daemon
        .import(&oci_archive(&image), &unpacked())
        .await
        .expect("imported");
    let written = daemon.content.written();
    daemon
        .import(&oci_archive(&image), &unpacked())
        .await
        .expect("imported again");
    assert!(
        daemon.content.written() - written < 1000,
        "only index.json has no digest in its name"
    );
    assert_eq!(daemon.snapshots.applied().len(), 2);
    daemon.assert_tidy();
}

#[tokio::test]
async fn docker_archives_get_a_manifest() {
    let image = TestImage::new(&here(), &["one", "two", "one"]);
    let archive = docker_archive(&image, "busybox:1");
    let store = ImageStore {
        extra_references: vec![ImageReference {
            name: "import".to_owned(),
            is_prefix: true,
            allow_overwrite: true,
            ..ImageReference::default()
        }],
        ..unpacked()
    };
    for compress in [false, true] {
        let daemon = Daemon::new();
        daemon.import_with(&archive, &store, compress).await.expect("imported");
        let stored = daemon.images.image("docker.io/library/busybox:1");
        assert_eq!(stored.target.media_type, media_type::DOCKER_MANIFEST);
        let manifest = daemon.content.bytes(&stored.target.digest).expect("stored");
        let manifest: crate::oci::Manifest = serde_json::from_slice(&manifest).expect("a manifest");
        let kind = if compress {
            media_type::DOCKER_LAYER_GZIP
        } else {
            media_type::DOCKER_LAYER
        };
        assert!(manifest.layers.len() == 3 && manifest.layers.iter().all(|layer| layer.media_type == kind));
        let top = chain_ids(&image.diff_ids()).pop().expect("has layers").to_string();
        assert_eq!(daemon.snapshots.layers(&top).len(), 3);
        daemon.assert_tidy();
    }
}

#[tokio::test]
async fn platforms_choose_what_is_stored() {
    let (arm, s390x) = (TestImage::new("arm64", &["arm"]), TestImage::new("s390x", &["z"]));
    let mut files = oci_files(&[&arm, &s390x], &[arm.entry(Some("a")), s390x.entry(Some("z"))]);
    let store = ImageStore {
        platforms: vec![platform("arm64")],
        ..plain()
    };
    // Layers of a platform that nobody wants may be missing.
    let unwanted = format!("blobs/sha256/{}", s390x.layer_digests()[0].hex());
    files.retain(|(name, _)| *name != unwanted);
    let daemon = Daemon::new();
    daemon.import(&tar_of(&files), &store).await.expect("imported");
    assert_eq!(daemon.images.names(), ["app:a"]);

    let both = ImageStore {
        all_metadata: true,
        ..store.clone()
    };
    let daemon = Daemon::new();
    daemon.import(&tar_of(&files), &both).await.expect("imported");
    assert_eq!(daemon.images.names(), ["app:a", "app:z"]);
    assert!(
        daemon
            .content
            .labels(&s390x.manifest_digest())
            .contains_key("containerd.io/gc.ref.content.config")
    );

    let limited = ImageStore {
        platforms: vec![platform("s390x"), platform("arm64")],
        manifest_limit: 1,
        all_metadata: false,
        ..store
    };
    let error = Daemon::new()
        .import(&tar_of(&files), &limited)
        .await
        .expect_err("its layer is missing");
    assert_eq!(error.code, Code::NotFound);
}

#[tokio::test]
async fn an_index_has_the_name_it_is_given() {
    let image = TestImage::new("s390x", &["one"]);
    let store = ImageStore {
        name: "whole:1".to_owned(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..unpacked()
    };
    let daemon = Daemon::new();
    daemon.import(&oci_archive(&image), &store).await.expect("imported");
    assert_eq!(daemon.images.names(), ["app:v1", "whole:1"]);
    let index = daemon.images.image("whole:1");
    assert_eq!(
        (index.target.media_type.as_str(), index.labels["a"].as_str()),
        (media_type::INDEX, "b")
    );
    let labels = daemon.content.labels(&index.target.digest);
    assert_eq!(
        labels["containerd.io/gc.ref.content.m.0"],
        image.manifest_digest().to_string()
    );
    assert!(
        daemon.snapshots.applied().is_empty(),
        "an image of another platform is not unpacked"
    );
}

#[tokio::test]
async fn a_lease_of_the_caller_is_used_and_left() {
    let image = TestImage::new(&here(), &["one"]);
    let daemon = Daemon::new();
    let labels = Labels::from([("containerd.io/gc.expire".to_owned(), "2099-01-01T00:00:00Z".to_owned())]);
    daemon.leases.create(&ctx(), Some("mine"), labels).await.expect("made");
    let sender = daemon.streaming.send(&ctx(), "s", oci_archive(&image)).await;
    let source = ImageImportStream {
        stream: "s".to_owned(),
        ..ImageImportStream::default()
    };
    let done = daemon
        .plugin()
        .transfer(&ctx().with_lease("mine"), to_any(&source), to_any(&unpacked()), "")
        .await;
    done.expect("imported");
    sender.await.expect("sent");
    assert_eq!(daemon.leases.open(), ["mine"]);
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_no_lease() {
    let daemon = Daemon::new();
    let half = Data {
        data: oci_archive(&TestImage::new(&here(), &["one"]))[..1500].to_vec(),
    };
    let never_ending = stream_of(vec![to_any(&half)]).chain(futures_util::stream::pending());
    let _client = daemon
        .streaming
        .open(&ctx(), "s", Box::pin(never_ending))
        .await
        .expect("opened");
    let source = ImageImportStream {
        stream: "s".to_owned(),
        ..ImageImportStream::default()
    };
    let plugin = daemon.plugin();
    let transfer = tokio::spawn(async move { plugin.transfer(&ctx(), to_any(&source), to_any(&unpacked()), "").await });
    while daemon.leases.open().is_empty() {
        tokio::task::yield_now().await;
    }
    // A call that is cancelled drops the transfer wherever it stands.
    transfer.abort();
    while !daemon.leases.open().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_tag_is_a_further_name() {
    let daemon = Daemon::new();
    daemon
        .import(&oci_archive(&TestImage::new(&here(), &["one"])), &plain())
        .await
        .expect("imported");
    let named = |name: &str| ImageStore {
        name: name.to_owned(),
        ..ImageStore::default()
    };
    let tag = |from: &str, to: &str| {
        let (plugin, from, to) = (daemon.plugin(), to_any(&named(from)), to_any(&named(to)));
        async move { plugin.transfer(&ctx(), from, to, "").await }
    };
    tag("app:v1", "other:2").await.expect("tagged");
    tag("app:v1", "other:2").await.expect("tagged over itself");
    assert_eq!(
        daemon.images.image("other:2").target,
        daemon.images.image("app:v1").target
    );
    assert_eq!(
        tag("missing:1", "x:1").await.expect_err("not there").code,
        Code::NotFound
    );
    assert_eq!(
        tag("app:v1", "").await.expect_err("no name").code,
        Code::InvalidArgument
    );
    daemon.assert_tidy();
}

#[tokio::test]
async fn what_is_no_transfer_is_said_to_be_none() {
    let registry = OciRegistry {
        reference: "docker.io/library/alpine:latest".to_owned(),
        ..OciRegistry::default()
    };
    let done = Daemon::new()
        .plugin()
        .transfer(&ctx(), to_any(&registry), to_any(&registry), "")
        .await;
    let error = done.expect_err("from a registry to a registry");
    assert_eq!(error.code, Code::Unimplemented);
    assert!(error.message.contains("docker.io/library/alpine:latest"), "{error}");
}
