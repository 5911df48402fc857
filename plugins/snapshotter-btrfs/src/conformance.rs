//! The btrfs snapshotter against the snapshotter contract, on a real btrfs, and where there is none.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orlop_plugin::contract::{Ctx, Labels, Snapshotter};
use orlop_plugin::testkit::{self, Disk, mounted};
use orlop_plugin::{InitError, Instance};

use crate::ioctl;

const DISK_BYTES: u64 = 1 << 30;

fn disk() -> Disk {
    Disk::new("btrfs", DISK_BYTES).expect("a btrfs")
}

async fn start(root: &Path, config: &str) -> Result<Instance, InitError> {
    testkit::start(&crate::registrations()[0], root, config.parse().expect("TOML")).await
}

async fn snapshotter(root: &Path) -> Arc<dyn Snapshotter> {
    let instance = start(root, "").await.expect("it starts");
    instance.contracts.snapshotter.expect("a snapshotter")
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .expect("there")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let disk = disk();
    let elsewhere = tempfile::tempdir().expect("a directory");
    let root = disk.path().join("a/root");
    let instance = start(
        elsewhere.path(),
        &format!("root_path = {:?}", root.display().to_string()),
    )
    .await
    .expect("it starts");
    assert_eq!(instance.exports["root"], root.display().to_string());
    testkit::snapshotter(instance.contracts.snapshotter.expect("a snapshotter")).await;
    assert_eq!(entries(&root.join("snapshots")), [""; 0], "nothing is left behind");
    instance.shutdown.expect("it ends")().await;
}

#[tokio::test]
async fn another_file_system_is_skipped_at_once() {
    let root = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let mut quickest = Duration::MAX;
    let mut reason = String::new();
    // The quickest of some: the machine has other things to do as well.
    for _ in 0..10 {
        let begin = Instant::now();
        let Err(InitError::Skip(said)) = start(root.path(), "").await else {
            panic!("it should be skipped");
        };
        quickest = quickest.min(begin.elapsed());
        reason = said;
    }
    assert!(quickest < Duration::from_millis(1), "{quickest:?}");
    let expected = format!(
        "path {} (tmpfs) must be a btrfs filesystem to be used with the btrfs snapshotter",
        root.path().join("io.containerd.snapshotter.v1.btrfs").display()
    );
    assert_eq!(reason, expected);
}

#[tokio::test]
async fn what_is_written_after_a_commit_is_not_in_it() {
    let disk = disk();
    let (snapshotter, ctx) = (snapshotter(disk.path()).await, Ctx::daemon());
    let mounts = snapshotter
        .prepare(&ctx, "a", "", Labels::new())
        .await
        .expect("prepared");
    let handle = tokio::runtime::Handle::current();
    let late = Arc::clone(&snapshotter);
    tokio::task::spawn_blocking(move || {
        mounted(&mounts, |root| {
            let mut file = std::fs::File::create(root.join("file")).expect("made");
            file.write_all(b"early").expect("written");
            let commit = async { late.commit(&Ctx::daemon(), "A", "a", Labels::new()).await };
            handle.block_on(commit).expect("committed");
            file.write_all(b", late").expect("written");
            file.sync_all().expect("synced");
        })
        .expect("mounted");
    })
    .await
    .expect("no panic");
    let mounts = snapshotter.view(&ctx, "v", "A", Labels::new()).await.expect("viewed");
    assert_eq!(mounts[0].options.last().map(String::as_str), Some("ro"));
    let seen = mounted(&mounts, |root| {
        let refused = std::fs::write(root.join("x"), "x").expect_err("it is read-only");
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        std::fs::read(root.join("file")).expect("read")
    });
    assert_eq!(seen.expect("mounted"), b"early");
}

#[tokio::test]
async fn subvolumes_of_a_container_go_with_it() {
    let disk = disk();
    let (snapshotter, ctx) = (snapshotter(disk.path()).await, Ctx::daemon());
    let mounts = snapshotter
        .prepare(&ctx, "a", "", Labels::new())
        .await
        .expect("prepared");
    mounted(&mounts, |root| {
        std::fs::create_dir(root.join("d")).expect("made");
        ioctl::create(&root.join("d/inner")).expect("made");
        ioctl::create(&root.join("d/inner/innermost")).expect("made");
        std::fs::write(root.join("d/inner/innermost/file"), "x").expect("written");
    })
    .expect("mounted");
    snapshotter.remove(&ctx, "a").await.expect("removed");
    let root = disk.path().join("io.containerd.snapshotter.v1.btrfs/snapshots");
    assert_eq!(entries(&root), [""; 0]);
}

#[tokio::test]
async fn a_crash_in_a_commit_leaves_an_active_snapshot_that_can_be_committed() {
    let disk = disk();
    let instance = start(disk.path(), "").await.expect("it starts");
    let (first, ctx) = (instance.contracts.snapshotter.expect("a snapshotter"), Ctx::daemon());
    let mounts = first.prepare(&ctx, "a", "", Labels::new()).await.expect("prepared");
    mounted(&mounts, |root| std::fs::write(root.join("file"), "1").expect("written")).expect("mounted");
    let snapshots = disk.path().join("io.containerd.snapshotter.v1.btrfs/snapshots");
    let own = snapshots.join(&entries(&snapshots)[0]);
    // As if the power went before the record was renamed.
    ioctl::snapshot(&own.join("fs"), &own.join("committed"), true).expect("made");
    mounted(&mounts, |root| {
        std::fs::write(root.join("file"), "22").expect("written");
    })
    .expect("mounted");
    instance.shutdown.expect("it ends")().await;

    let second = snapshotter(disk.path()).await;
    second.commit(&ctx, "A", "a", BTreeMap::new()).await.expect("committed");
    assert_eq!(entries(&own), ["committed"]);
    assert_eq!(std::fs::read(own.join("committed/file")).expect("read"), b"22");
    // A commit that is refused leaves what it was to commit as it was.
    second.prepare(&ctx, "b", "A", Labels::new()).await.expect("prepared");
    second
        .commit(&ctx, "A", "b", Labels::new())
        .await
        .expect_err("the name is taken");
    second.commit(&ctx, "B", "b", Labels::new()).await.expect("committed");
    let usage = second.usage(&ctx, "B").await.expect("known");
    assert!(
        usage.inodes <= 1,
        "a child that changes nothing takes nothing: {usage:?}"
    );
}
