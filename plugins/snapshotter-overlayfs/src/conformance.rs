//! The overlayfs snapshotter against the snapshotter contract, with real mounts, in each of its configurations.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use orlop_plugin::contract::{Code, Ctx, Labels};
use orlop_plugin::mount::{Access, TempMount};
use orlop_plugin::snapshots::{GID_MAPPING, UID_MAPPING};
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

fn mapping(uids: &str, gids: &str) -> Labels {
    let labels = [(UID_MAPPING, uids), (GID_MAPPING, gids)];
    labels.map(|(label, map)| (label.to_owned(), map.to_owned())).into()
}

#[tokio::test]
async fn a_remapped_root_belongs_to_the_containers_root() {
    let root = tempfile::tempdir().expect("a directory");
    let instance = start(root.path(), "upperdir_label = true").await.expect("it starts");
    let snapshotter = instance.contracts.snapshotter.expect("a snapshotter");
    let ctx = Ctx::daemon();
    snapshotter
        .prepare(&ctx, "a", "", mapping("0:4000:1000", "0:5000:1000"))
        .await
        .expect("prepared");
    snapshotter
        .commit(&ctx, "A", "a", Labels::new())
        .await
        .expect("committed");
    snapshotter
        .prepare(&ctx, "b", "A", Labels::new())
        .await
        .expect("prepared");
    for key in ["A", "b"] {
        let info = snapshotter.stat(&ctx, key).await.expect("there");
        let layer = &info.labels["containerd.io/snapshot/overlay.upperdir"];
        let owner = std::fs::metadata(layer).expect("the layer");
        assert_eq!((owner.uid(), owner.gid()), (4000, 5000), "{key}");
    }
    for bad in ["1:4000:1000", "x", "0:4000"] {
        let refused = snapshotter.prepare(&ctx, "bad", "", mapping(bad, "0:1:1")).await;
        assert_eq!(refused.expect_err(bad).code, Code::InvalidArgument);
    }
    let half = Labels::from([(UID_MAPPING.to_owned(), "0:1:1".to_owned())]);
    let refused = snapshotter.prepare(&ctx, "bad", "", half).await;
    assert_eq!(refused.expect_err("half a map").code, Code::InvalidArgument);
}

/// What a container with ids of its own has: the image's files are its root's, whatever the layers say, and the image stays as it is.
#[tokio::test]
async fn the_layers_of_a_remapped_container_show_its_own_ids() {
    let root = tempfile::tempdir().expect("a directory");
    let instance = start(root.path(), "").await.expect("it starts");
    assert_eq!(instance.capabilities, ["rebase", "remap-ids", "only-remap-ids"]);
    let (snapshotter, ctx) = (instance.contracts.snapshotter.expect("a snapshotter"), Ctx::daemon());
    let mut parent = String::new();
    for layer in ["lower", "upper"] {
        let mounts = snapshotter
            .prepare(&ctx, "layer", &parent, Labels::new())
            .await
            .expect("prepared");
        let write = |root: &Path| {
            std::fs::write(root.join(layer), layer).expect("written");
            chown(root.join(layer), Some(7), Some(8)).expect("owned");
        };
        TempMount::new(&mounts, Access::Write)
            .and_then(|mount| {
                write(mount.path());
                mount.unmount()
            })
            .expect("mounted");
        snapshotter
            .commit(&ctx, layer, "layer", Labels::new())
            .await
            .expect("committed");
        parent = layer.to_owned();
    }
    let owner = |path: &Path| {
        let metadata = std::fs::metadata(path).expect("there");
        (metadata.uid(), metadata.gid())
    };
    let ids = mapping("0:4000:1000", "0:5000:1000");
    // As an overlay of two layers, of one, as one read-only layer, and as none at all.
    for (parent, files) in [
        ("upper", vec!["lower", "upper"]),
        ("lower", vec!["lower"]),
        ("", vec![]),
    ] {
        for view in [false, true] {
            let made = if view {
                snapshotter.view(&ctx, "c", parent, ids.clone()).await
            } else {
                snapshotter.prepare(&ctx, "c", parent, ids.clone()).await
            };
            let mount = TempMount::new(&made.expect("made"), Access::Write).expect("mounted");
            for file in &files {
                assert_eq!(owner(&mount.path().join(file)), (4007, 5008), "{file} on {parent:?}");
            }
            // One layer shows nothing but the container's ids, and this process's own is none of them.
            let written = std::fs::write(mount.path().join("new"), "x");
            assert_eq!(written.is_ok(), !view && !parent.is_empty(), "{parent:?}: {written:?}");
            if let (false, Some(file)) = (view, files.first()) {
                // Copied up, it stays the container's.
                std::fs::write(mount.path().join(file), "changed").expect("written");
                assert_eq!(owner(&mount.path().join(file)), (4007, 5008));
            }
            mount.unmount().expect("unmounted");
            snapshotter.remove(&ctx, "c").await.expect("removed");
        }
    }
    let plain = snapshotter
        .view(&ctx, "v", "upper", Labels::new())
        .await
        .expect("viewed");
    let mount = TempMount::new(&plain, Access::Read).expect("mounted");
    assert_eq!(owner(&mount.path().join("lower")), (7, 8));
    assert_eq!(std::fs::read(mount.path().join("lower")).expect("read"), b"lower");
}

/// Debian's clients and shims take the first page of options; what is mounted here goes as far as overlayfs does.
#[tokio::test]
async fn three_hundred_layers_are_one_root() {
    const LAYERS: usize = 300;
    let root = tempfile::tempdir().expect("a directory");
    let instance = start(root.path(), "").await.expect("it starts");
    let (snapshotter, ctx) = (instance.contracts.snapshotter.expect("a snapshotter"), Ctx::daemon());
    let directories = Path::new(&instance.exports["root"]).join("snapshots");
    let mut parent = String::new();
    for layer in 0..LAYERS {
        snapshotter
            .prepare(&ctx, "layer", &parent, Labels::new())
            .await
            .expect("prepared");
        let newest = std::fs::read_dir(&directories).expect("there").flatten();
        let newest = newest
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok())
            .max();
        let fs = directories.join(newest.expect("one").to_string()).join("fs");
        std::fs::write(fs.join(format!("of-{layer}")), "").expect("written");
        std::fs::write(fs.join("top"), layer.to_string()).expect("written");
        parent = format!("layer-{layer}");
        snapshotter
            .commit(&ctx, &parent, "layer", Labels::new())
            .await
            .expect("committed");
    }
    for labels in [Labels::new(), mapping("0:4000:1000", "0:5000:1000")] {
        let mapped = !labels.is_empty();
        let mounts = snapshotter.prepare(&ctx, "c", &parent, labels).await.expect("prepared");
        assert!(mounts[0].options.join(",").len() > 4096, "more than a page");
        let mount = TempMount::new(&mounts, Access::Write).expect("mounted");
        assert_eq!(std::fs::read_dir(mount.path()).expect("read").count(), LAYERS + 1);
        let top = std::fs::read_to_string(mount.path().join("top")).expect("read");
        assert_eq!(top, (LAYERS - 1).to_string());
        let bottom = std::fs::metadata(mount.path().join("of-0")).expect("there");
        assert_eq!(bottom.uid(), if mapped { 4000 } else { 0 });
        mount.unmount().expect("unmounted");
        snapshotter.remove(&ctx, "c").await.expect("removed");
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
