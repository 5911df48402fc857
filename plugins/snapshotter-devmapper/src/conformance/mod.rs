//! The devmapper snapshotter against the snapshotter contract, and when things go wrong, on real thin pools over loop devices.
//!
//! They need a device-mapper, which most containers and small machines have not: `just devmapper` runs them in a machine that has one.

mod faults;
mod fixture;
mod restarts;

use std::os::unix::fs::MetadataExt;

use orlop_plugin::contract::{Ctx, Labels};
use orlop_plugin::testkit::{self, mounted};
use orlop_plugin::{InitError, toml};

use fixture::{Running, ThinPool};

/// The least that mkfs.xfs takes.
const XFS: &str = "base_image_size = \"320MB\"\nfs_type = \"xfs\"";
const EXT4: &str = "base_image_size = \"64MB\"";
const GIB: u64 = 1 << 30;

async fn conforms(config: &str) {
    let pool = ThinPool::new(2 * GIB, "");
    let snapshotter = Running::start(&pool, config).await;
    testkit::snapshotter(snapshotter.contract()).await;
    snapshotter.stop().await;
    assert_eq!(pool.entries("snapshots"), [""; 0], "nothing is left behind");
    assert_eq!(pool.devices(), [""; 0], "no device is left behind");
    assert_eq!(pool.used_blocks(), 0, "no block is left behind");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a device-mapper: just devmapper"]
async fn it_keeps_the_contract_with_ext4() {
    conforms(EXT4).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a device-mapper: just devmapper"]
async fn it_keeps_the_contract_with_xfs() {
    conforms(XFS).await;
}

#[tokio::test]
#[ignore = "needs a device-mapper: just devmapper"]
async fn mounts_are_containerds() {
    let pool = ThinPool::new(GIB, "");
    let snapshotter = Running::start(&pool, XFS).await;
    let mounts = snapshotter.prepare("a", "").await.expect("prepared");
    let source = format!("/dev/mapper/{}-snap-1", pool.name());
    assert_eq!(
        (
            mounts[0].kind.as_str(),
            mounts[0].source.as_str(),
            mounts[0].options.as_slice()
        ),
        ("xfs", source.as_str(), ["nouuid".to_owned()].as_slice())
    );
    snapshotter.commit("A", "a").await.expect("committed");
    assert_eq!(pool.devices(), [""; 0], "a committed snapshot's device is not active");
    let mounts = snapshotter.view("v", "A").await.expect("viewed");
    assert_eq!(mounts[0].options, ["nouuid", "ro"]);
    let info = snapshotter.contract().stat(&Ctx::daemon(), "A").await.expect("known");
    assert_eq!(info.labels["containerd.io/snapshot/devmapper/fstype"], "xfs");
    snapshotter.stop().await;

    // Children keep their parent's file system and room, whatever is configured now.
    let snapshotter = Running::start(&pool, "base_image_size = \"16MB\"\nfs_type = \"ext2\"").await;
    let mounts = snapshotter.prepare("b", "A").await.expect("prepared");
    assert_eq!(mounts[0].kind, "xfs");
    mounted(&mounts, |root| std::fs::write(root.join("f"), "f").expect("written")).expect("mounted");
    let mounts = snapshotter.prepare("c", "").await.expect("prepared");
    assert_eq!((mounts[0].kind.as_str(), mounts[0].options.len()), ("ext2", 0));
    let names = mounted(&mounts, |root| root.read_dir().expect("listed").count()).expect("mounted");
    assert_eq!(names, 0, "there is no lost+found");
    snapshotter.stop().await;
}

#[tokio::test]
#[ignore = "needs a device-mapper: just devmapper"]
async fn what_is_mounted_is_written_out_by_a_commit() {
    let pool = ThinPool::new(GIB, "");
    let snapshotter = Running::start(&pool, EXT4).await;
    let mounts = snapshotter.prepare("a", "").await.expect("prepared");
    let handle = tokio::runtime::Handle::current();
    let contract = snapshotter.contract();
    tokio::task::spawn_blocking(move || {
        mounted(&mounts, |root| {
            std::fs::write(root.join("file"), "still in memory").expect("written");
            let ctx = Ctx::daemon();
            handle
                .block_on(contract.commit(&ctx, "A", "a", Labels::new()))
                .expect("committed");
            let mounts = handle
                .block_on(contract.view(&ctx, "v", "A", Labels::new()))
                .expect("viewed while its parent is mounted");
            let seen = mounted(&mounts, |view| std::fs::read(view.join("file")).expect("read"));
            assert_eq!(seen.expect("mounted"), b"still in memory");
        })
        .expect("mounted");
    })
    .await
    .expect("no panic");
    // Its device goes with its last user.
    let left = [format!("{}-snap-2", pool.name())];
    for _ in 0..100 {
        if pool.devices() == left {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(pool.devices(), left);
    snapshotter.stop().await;
}

#[tokio::test]
#[ignore = "needs a device-mapper: just devmapper"]
async fn removed_devices_go_with_a_cleanup_and_give_their_blocks_back() {
    let pool = ThinPool::new(GIB, "");
    let config = format!("{EXT4}\nasync_remove = true\ndiscard_blocks = true");
    let snapshotter = Running::start(&pool, &config).await;
    let mounts = snapshotter.prepare("a", "").await.expect("prepared");
    mounted(&mounts, |root| {
        std::fs::write(root.join("large"), vec![1; 24 << 20]).expect("written");
    })
    .expect("mounted");
    snapshotter.commit("A", "a").await.expect("committed");
    let taken = || pool.data().metadata().expect("there").blocks() * 512;
    let before = taken();
    assert!(before > 24 << 20, "{before}");
    snapshotter.remove("A").await.expect("removed");
    assert!(pool.used_blocks() > 0, "it is removed later");
    snapshotter
        .contract()
        .cleanup(&Ctx::daemon())
        .await
        .expect("cleaned up");
    assert_eq!(pool.used_blocks(), 0);
    let after = taken();
    assert!(
        after < 8 << 20,
        "the file below the pool shrank from {before} to {after} bytes"
    );
    snapshotter.stop().await;
}

#[tokio::test]
async fn without_a_pool_it_is_not_configured() {
    let root = tempfile::tempdir().expect("a directory");
    let started = testkit::start(&crate::registrations()[0], root.path(), toml::Table::new()).await;
    let Err(InitError::Failed(error)) = started else {
        panic!("it should fail");
    };
    assert_eq!(error.message, "devmapper not configured");
}
