//! What cannot be done is refused with its reason, and leaves nothing half-done.

use std::path::Path;

use orlop_plugin::contract::Code;
use orlop_plugin::testkit::mounted;
use orlop_plugin::{Error, InitError};

use super::fixture::{Running, ThinPool, run, start};
use super::{EXT4, GIB};

async fn refused(pool: &str, root: &Path, config: &str) -> Error {
    match start(pool, root, config).await {
        Err(InitError::Failed(error)) => error,
        other => panic!("it should fail: {:?}", other.map(|instance| instance.exports)),
    }
}

/// That nothing of a refused snapshot is there.
fn nothing_is_left(pool: &ThinPool) {
    assert_eq!(pool.entries("snapshots"), [""; 0]);
    assert_eq!(pool.devices(), [""; 0]);
    assert_eq!(pool.used_blocks(), 0);
}

#[tokio::test]
#[ignore = "needs a device-mapper: just devmapper"]
async fn a_pool_that_is_not_there_is_named() {
    let root = tempfile::tempdir().expect("a directory");
    let error = refused("orlop-no-such-pool", root.path(), EXT4).await;
    assert_eq!(error.code, Code::FailedPrecondition);
    assert!(
        error.message.contains("there is no thin pool \"orlop-no-such-pool\""),
        "{error}"
    );
    let pool = ThinPool::new(GIB, "");
    let snapshotter = Running::start(&pool, EXT4).await;
    snapshotter.prepare("a", "").await.expect("prepared");
    let device = pool.devices().remove(0);
    let error = refused(&device, root.path(), EXT4).await;
    assert!(error.message.contains("is no thin pool"), "{error}");
    let error = refused(
        pool.name(),
        root.path(),
        "base_image_size = \"1GB\"\nfs_type = \"btrfs\"",
    )
    .await;
    assert_eq!(error.code, Code::InvalidArgument);
    snapshotter.stop().await;
}

#[tokio::test]
#[ignore = "needs a device-mapper: just devmapper"]
async fn a_full_pool_is_said_and_serves_again_when_there_is_room() {
    let pool = ThinPool::new(32 << 20, "error_if_no_space");
    let snapshotter = Running::start(&pool, "base_image_size = \"256MB\"\nfs_type = \"ext2\"").await;
    let mounts = snapshotter.prepare("a", "").await.expect("prepared");
    mounted(&mounts, |root| {
        use std::io::Write;
        let mut file = std::fs::File::create(root.join("large")).expect("made");
        let some = vec![1; 1 << 20];
        let full = (0..64).try_for_each(|_| {
            file.write_all(&some)?;
            file.sync_all()
        });
        full.expect_err("there is no room");
    })
    .expect("mounted");
    let devices = pool.devices();
    for parent in ["", "a"] {
        let error = snapshotter.prepare("b", parent).await.expect_err("refused");
        if parent.is_empty() {
            assert_eq!(error.code, Code::ResourceExhausted);
            assert!(error.message.contains("is out of data space"), "{error}");
        }
    }
    assert_eq!(pool.devices(), devices);
    assert_eq!(pool.entries("snapshots").len(), 1);
    snapshotter.remove("a").await.expect("removed");
    nothing_is_left(&pool);
    snapshotter.prepare("b", "").await.expect("there is room again");
    snapshotter.stop().await;
}

#[tokio::test]
#[ignore = "needs a device-mapper: just devmapper"]
async fn a_file_system_that_cannot_be_made_leaves_no_device() {
    let pool = ThinPool::new(1 << 20, "error_if_no_space");
    let snapshotter = Running::start(&pool, "base_image_size = \"512MB\"").await;
    let error = snapshotter.prepare("a", "").await.expect_err("no room");
    assert_eq!(error.code, Code::ResourceExhausted);
    assert!(
        error.message.contains("make a file system") && error.message.contains("is out of data space"),
        "{error}"
    );
    nothing_is_left(&pool);
    snapshotter.stop().await;
    let snapshotter = Running::start(&pool, "base_image_size = \"8MB\"\nfs_options = \"no-such-option\"").await;
    let error = snapshotter.prepare("a", "").await.expect_err("refused");
    assert!(
        error.message.contains("mkfs.ext4 ended with") && error.message.contains("no-such-option"),
        "{error}"
    );
    nothing_is_left(&pool);
    snapshotter.stop().await;
}

#[tokio::test]
#[ignore = "needs a device-mapper: just devmapper"]
async fn what_is_somebody_elses_stays_so() {
    let pool = ThinPool::new(GIB, "");
    pool.message("create_thin 1").expect("made");
    let name = format!("{}-snap-1", pool.name());
    let table = format!("0 2048 thin /dev/mapper/{} 1", pool.name());
    run("dmsetup", &["create", &name, "--table", &table]);
    let snapshotter = Running::start(&pool, EXT4).await;
    let error = snapshotter.prepare("a", "").await.expect_err("its name is taken");
    assert_eq!(error.code, Code::FailedPrecondition);
    assert!(
        error.message.contains(&format!("the device {name} is somebody else's")),
        "{error}"
    );
    assert_eq!(pool.devices(), [name.as_str()]);
    assert_eq!(pool.entries("snapshots"), [""; 0]);
    pool.message("create_thin 2").expect("the device that was made is gone");
    pool.message("delete 2").expect("deleted");
    run("dmsetup", &["remove", "--retry", &name]);

    // The number is passed over, and the device with it is left alone.
    snapshotter.prepare("a", "").await.expect("prepared");
    snapshotter.remove("a").await.expect("removed");
    let taken = pool.message("create_thin 1").expect_err("it is there");
    assert!(taken.contains("File exists"), "{taken}");
    pool.message("delete 1").expect("deleted");
    snapshotter.stop().await;
}

#[tokio::test]
#[ignore = "needs a device-mapper: just devmapper"]
async fn a_device_in_use_stays_until_it_is_not() {
    let pool = ThinPool::new(GIB, "");
    let snapshotter = Running::start(&pool, EXT4).await;
    let mounts = snapshotter.prepare("a", "").await.expect("prepared");
    let contract = snapshotter.contract();
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        mounted(&mounts, |root| {
            handle
                .block_on(contract.remove(&orlop_plugin::contract::Ctx::daemon(), "a"))
                .expect("it is forgotten");
            std::fs::write(root.join("file"), "still works").expect("written");
        })
        .expect("mounted");
    })
    .await
    .expect("no panic");
    assert_eq!(pool.devices().len(), 1, "it stays");
    let ctx = orlop_plugin::contract::Ctx::daemon();
    snapshotter.contract().cleanup(&ctx).await.expect("cleaned up");
    nothing_is_left(&pool);
    snapshotter.stop().await;
}
