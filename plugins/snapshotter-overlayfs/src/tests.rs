//! Overlays on a real file system.

use std::collections::BTreeMap;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use orlop_plugin::contract::{Code, Ctx, Mount, SnapshotKind, Snapshotter};
use orlop_plugin::snapshots::{LayeredSnapshotter, Removal, UID_MAPPING};

use crate::config::Config;
use crate::layers::Overlay;
use crate::probe::probe;

async fn open(root: &Path, config: &Config) -> LayeredSnapshotter<Overlay> {
    let kernel = probe(root).expect("overlayfs works here");
    LayeredSnapshotter::open(root, Overlay::new(config, kernel), Removal::AtOnce)
        .await
        .expect("it opens")
}

/// Mounts as a client does, runs `work` on the mount point, and unmounts.
fn mounted<T>(mounts: &[Mount], work: impl FnOnce(&Path) -> T) -> T {
    let directory = tempfile::tempdir().expect("a directory");
    let [only] = mounts else {
        panic!("one mount expected: {mounts:?}")
    };
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in &only.options {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" => {}
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            other => data.push(other),
        }
    }
    let data = data.join(",");
    mount(
        Some(only.source.as_str()),
        directory.path(),
        Some(only.kind.as_str()),
        flags,
        Some(data.as_str()),
    )
    .unwrap_or_else(|error| panic!("mount {only:?}: {error}"));
    if flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
        // A bind mount becomes read-only in a second step.
        mount(
            None::<&str>,
            directory.path(),
            None::<&str>,
            flags | MsFlags::MS_REMOUNT,
            None::<&str>,
        )
        .expect("read-only");
    }
    let result = work(directory.path());
    umount2(directory.path(), MntFlags::MNT_DETACH).expect("unmounted");
    result
}

#[tokio::test]
async fn layers_hide_and_show_each_other() {
    let root = tempfile::tempdir().expect("a directory");
    let snapshotter = open(root.path(), &Config::default()).await;
    let ctx = Ctx::daemon();
    let mounts = snapshotter
        .prepare(&ctx, "a", "", BTreeMap::new())
        .await
        .expect("prepared");
    assert_eq!((mounts[0].kind.as_str(), mounts[0].options[0].as_str()), ("bind", "rw"));
    mounted(&mounts, |at| {
        std::fs::write(at.join("one"), "1").expect("written");
        std::fs::write(at.join("gone"), "x").expect("written");
    });
    snapshotter
        .commit(&ctx, "A", "a", BTreeMap::new())
        .await
        .expect("committed");
    let mounts = snapshotter
        .prepare(&ctx, "b", "A", BTreeMap::new())
        .await
        .expect("prepared");
    assert_eq!(mounts[0].kind, "overlay");
    assert!(mounts[0].options.iter().any(|option| option == "index=off"));
    mounted(&mounts, |at| {
        assert_eq!(std::fs::read_to_string(at.join("one")).expect("shown"), "1");
        std::fs::remove_file(at.join("gone")).expect("removed");
        std::fs::write(at.join("two"), "2").expect("written");
    });
    snapshotter
        .commit(&ctx, "B", "b", BTreeMap::new())
        .await
        .expect("committed");
    let mounts = snapshotter.view(&ctx, "v", "B", BTreeMap::new()).await.expect("a view");
    mounted(&mounts, |at| {
        assert!(at.join("one").exists() && at.join("two").exists() && !at.join("gone").exists());
        assert!(std::fs::write(at.join("three"), "3").is_err(), "a view is read-only");
    });
    let mounts = snapshotter.view(&ctx, "w", "A", BTreeMap::new()).await.expect("a view");
    assert_eq!((mounts[0].kind.as_str(), mounts[0].options[0].as_str()), ("bind", "ro"));
    assert_eq!(
        snapshotter.remove(&ctx, "A").await.expect_err("it has children").code,
        Code::FailedPrecondition
    );
    assert!(snapshotter.usage(&ctx, "A").await.expect("measured").inodes >= 3);
    for key in ["v", "w", "B", "A"] {
        snapshotter.remove(&ctx, key).await.expect(key);
    }
    assert_eq!(
        std::fs::read_dir(root.path().join("snapshots")).expect("there").count(),
        0
    );
}

#[tokio::test]
async fn remapped_roots_and_labels() {
    use std::os::unix::fs::MetadataExt;
    let root = tempfile::tempdir().expect("a directory");
    let config = Config {
        upperdir_label: true,
        ..Config::default()
    };
    let snapshotter = open(root.path(), &config).await;
    let ctx = Ctx::daemon();
    let labels = BTreeMap::from([(UID_MAPPING.to_owned(), "0:4000:1000".to_owned())]);
    snapshotter.prepare(&ctx, "a", "", labels).await.expect("prepared");
    let info = snapshotter.stat(&ctx, "a").await.expect("there");
    assert_eq!(info.kind, SnapshotKind::Active);
    let layer = &info.labels["containerd.io/snapshot/overlay.upperdir"];
    assert_eq!(std::fs::metadata(layer).expect("the layer").uid(), 4000);
    for bad in ["1:4000:1000", "x", "0:4000"] {
        let labels = BTreeMap::from([(UID_MAPPING.to_owned(), bad.to_owned())]);
        assert_eq!(
            snapshotter.prepare(&ctx, "bad", "", labels).await.expect_err(bad).code,
            Code::InvalidArgument
        );
    }
}

#[test]
fn the_defaults_are_what_containerd_prints() {
    let table = toml::Table::try_from(Config::default()).expect("a table");
    assert_eq!(table.keys().collect::<Vec<_>>(), ["root_path", "upperdir_label"]);
}
