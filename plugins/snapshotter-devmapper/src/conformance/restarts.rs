//! What a restart, a reboot or a crash leaves.

use orlop_plugin::contract::Ctx;
use orlop_plugin::testkit::mounted;

use super::fixture::{Running, ThinPool, run};
use super::{EXT4, GIB};
use crate::config::FileSystem;
use crate::devices::Devices;

#[tokio::test]
#[ignore = "needs a device-mapper: just devmapper"]
async fn snapshots_are_there_after_a_reboot() {
    let pool = ThinPool::new(GIB, "");
    let snapshotter = Running::start(&pool, EXT4).await;
    let mounts = snapshotter.prepare("a", "").await.expect("prepared");
    mounted(&mounts, |root| std::fs::write(root.join("file"), "1").expect("written")).expect("mounted");
    snapshotter.commit("A", "a").await.expect("committed");
    let mounts = snapshotter.prepare("b", "A").await.expect("prepared");
    mounted(&mounts, |root| std::fs::write(root.join("file"), "2").expect("written")).expect("mounted");
    snapshotter.stop().await;
    pool.deactivate();

    let snapshotter = Running::start(&pool, EXT4).await;
    let again = snapshotter.contract().mounts(&Ctx::daemon(), "b").await.expect("known");
    assert_eq!(again, mounts);
    let read = |root: &std::path::Path| std::fs::read_to_string(root.join("file")).expect("read");
    assert_eq!(mounted(&again, read).expect("mounted"), "2");
    let view = snapshotter.view("v", "A").await.expect("viewed");
    assert_eq!(mounted(&view, read).expect("mounted"), "1");
    pool.deactivate();
    snapshotter.commit("B", "b").await.expect("committed, active or not");
    let view = snapshotter.view("w", "B").await.expect("viewed");
    assert_eq!(mounted(&view, read).expect("mounted"), "2");
    for key in ["w", "v", "B", "A"] {
        snapshotter.remove(key).await.expect("removed");
    }
    assert_eq!(pool.used_blocks(), 0);
    snapshotter.stop().await;
}

#[tokio::test]
#[ignore = "needs a device-mapper: just devmapper"]
async fn what_a_crash_left_suspended_or_active_is_ended() {
    let pool = ThinPool::new(GIB, "");
    let snapshotter = Running::start(&pool, EXT4).await;
    snapshotter.prepare("a", "").await.expect("prepared");
    snapshotter.prepare("b", "").await.expect("prepared");
    snapshotter.commit("A", "a").await.expect("committed");
    let root = pool.root();
    snapshotter.stop().await;
    // As if it died while it took a snapshot of b's device, and before it let go of A's.
    let (first, second) = (format!("{}-snap-1", pool.name()), format!("{}-snap-2", pool.name()));
    run("dmsetup", &["suspend", &second]);
    let number = Devices::open(&root, pool.name())
        .expect("opened")
        .get(1)
        .expect("there")
        .number;
    let table = format!("0 131072 thin /dev/mapper/{} {number}", pool.name());
    run("dmsetup", &["create", &first, "--table", &table]);

    let snapshotter = Running::start(&pool, EXT4).await;
    assert_eq!(pool.devices(), [second.as_str()]);
    let state = run(
        "dmsetup",
        &["info", "--columns", "--noheadings", "-o", "suspended", &second],
    );
    assert_eq!(state, "Active");
    snapshotter.stop().await;
}

#[tokio::test]
#[ignore = "needs a device-mapper: just devmapper"]
async fn a_device_that_a_crash_left_open_is_faulty_and_one_that_was_made_goes() {
    let pool = ThinPool::new(GIB, "");
    let snapshotter = Running::start(&pool, EXT4).await;
    snapshotter.prepare("a", "").await.expect("prepared");
    snapshotter.stop().await;
    // As if it died before, and after, it knew that the pool made a device; in both cases before the snapshot was recorded.
    let devices = Devices::open(&pool.root(), pool.name()).expect("opened");
    for id in [1000, 1001] {
        std::fs::create_dir(pool.root().join(format!("snapshots/{id}"))).expect("made");
        let number = devices.reserve(id, 64 << 20, FileSystem::Ext4).expect("reserved");
        pool.message(&format!("create_thin {number}")).expect("made");
    }
    devices.created(1001).expect("recorded");
    let (open, made) = (
        devices.get(1000).expect("there").number,
        devices.get(1001).expect("there").number,
    );
    drop(devices);

    let snapshotter = Running::start(&pool, EXT4).await;
    snapshotter
        .contract()
        .cleanup(&Ctx::daemon())
        .await
        .expect("cleaned up");
    assert_eq!(pool.entries("snapshots"), ["1"]);
    pool.message(&format!("create_thin {made}"))
        .expect("the made one is gone");
    pool.message(&format!("delete {made}")).expect("deleted");
    let there = pool
        .message(&format!("create_thin {open}"))
        .expect_err("the open one stays");
    assert!(there.contains("File exists"), "{there}");
    for key in ["b", "c", "d"] {
        snapshotter.prepare(key, "").await.expect("prepared");
    }
    snapshotter.stop().await;
    let devices = Devices::open(&pool.root(), pool.name()).expect("opened");
    for name in pool.devices() {
        let id = name.rsplit('-').next().and_then(|id| id.parse().ok()).expect("an id");
        assert_ne!(
            devices.get(id).expect("recorded").number,
            open,
            "its number is not used again"
        );
    }
}
