//! The overlayfs snapshotter against the snapshotter contract, with real mounts, in each of its configurations.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use orlop_plugin::contract::{Code, Ctx};
use orlop_plugin::snapshots::UID_MAPPING;
use orlop_plugin::{InitError, Instance, testkit};

async fn start(root: &Path, config: &str) -> Result<Instance, InitError> {
    let registration = &crate::registrations()[0];
    testkit::start(registration, root, config.parse().expect("TOML")).await
}

async fn conforms(config: &str) {
    let root = tempfile::tempdir().expect("a directory");
    let instance = start(root.path(), config).await.expect("it starts");
    testkit::snapshotter(instance.contracts.snapshotter.expect("a snapshotter")).await;
    let directories = Path::new(&instance.exports["root"]).join("snapshots");
    assert_eq!(
        std::fs::read_dir(directories).expect("there").count(),
        0,
        "nothing is left behind"
    );
}

#[tokio::test]
async fn it_keeps_the_contract() {
    conforms("").await;
}

#[tokio::test]
async fn it_keeps_the_contract_when_it_removes_at_once() {
    conforms("sync_remove = true").await;
}

#[tokio::test]
async fn it_keeps_the_contract_with_labels_and_options() {
    conforms("upperdir_label = true\nmount_options = [\"xino=off\"]").await;
}

#[tokio::test]
async fn a_remapped_root_belongs_to_the_containers_root() {
    let root = tempfile::tempdir().expect("a directory");
    let instance = start(root.path(), "upperdir_label = true").await.expect("it starts");
    let snapshotter = instance.contracts.snapshotter.expect("a snapshotter");
    let ctx = Ctx::daemon();
    let labels = |map: &str| BTreeMap::from([(UID_MAPPING.to_owned(), map.to_owned())]);
    snapshotter
        .prepare(&ctx, "a", "", labels("0:4000:1000"))
        .await
        .expect("prepared");
    snapshotter
        .commit(&ctx, "A", "a", BTreeMap::new())
        .await
        .expect("committed");
    snapshotter
        .prepare(&ctx, "b", "A", BTreeMap::new())
        .await
        .expect("prepared");
    for key in ["A", "b"] {
        let info = snapshotter.stat(&ctx, key).await.expect("there");
        let layer = &info.labels["containerd.io/snapshot/overlay.upperdir"];
        assert_eq!(std::fs::metadata(layer).expect("the layer").uid(), 4000, "{key}");
    }
    for bad in ["1:4000:1000", "x", "0:4000"] {
        let refused = snapshotter.prepare(&ctx, "bad", "", labels(bad)).await;
        assert_eq!(refused.expect_err(bad).code, Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_file_system_that_cannot_is_skipped() {
    // An overlay cannot be the upper directory of another.
    let root = tempfile::tempdir().expect("a directory");
    let base = root.path().display().to_string();
    for name in ["l", "u", "w", "m"] {
        std::fs::create_dir(root.path().join(name)).expect("made");
    }
    let overlay = orlop_plugin::contract::Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("lowerdir={base}/l"),
            format!("upperdir={base}/u"),
            format!("workdir={base}/w"),
        ],
    };
    let handle = tokio::runtime::Handle::current();
    let outcome = tokio::task::spawn_blocking(move || {
        testkit::mounted(&[overlay], |at| handle.block_on(start(at, "")).map(|_| ()))
    });
    match outcome.await.expect("no panic").expect("mounted") {
        Err(InitError::Skip(reason)) => assert!(reason.contains("overlayfs does not work on"), "{reason}"),
        other => panic!("it should be skipped: {other:?}"),
    }
}
