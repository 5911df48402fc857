//! The blockfile snapshotter against the snapshotter contract, with real file systems on loop devices.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use orlop_plugin::contract::{Code, Ctx, Labels, Mount};
use orlop_plugin::testkit::{self, Disk, image, mounted};
use orlop_plugin::{InitError, Instance};

async fn start(root: &Path, config: &str) -> Result<Instance, InitError> {
    testkit::start(&crate::registrations()[0], root, config.parse().expect("TOML")).await
}

/// An empty file system, without the directory that `mkfs.ext4` puts into it.
fn scratch(directory: &Path, kind: &str, bytes: u64) -> PathBuf {
    let path = directory.join(format!("{kind}.img"));
    image(kind, &path, bytes);
    let mount = Mount {
        kind: kind.to_owned(),
        source: path.display().to_string(),
        target: String::new(),
        options: vec!["loop".to_owned()],
    };
    mounted(&[mount], |root| {
        // Only ext4 has it.
        let _ = std::fs::remove_dir(root.join("lost+found"));
    })
    .expect("mounted");
    path
}

async fn conforms(root: &Path, kind: &str, bytes: u64) {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let scratch = scratch(elsewhere.path(), kind, bytes).display().to_string();
    let instance = start(root, &format!("scratch_file = {scratch:?}\nfs_type = {kind:?}"))
        .await
        .expect("it starts");
    testkit::snapshotter(instance.contracts.snapshotter.expect("a snapshotter")).await;
    let directories = Path::new(&instance.exports["root"]).join("snapshots");
    assert_eq!(
        std::fs::read_dir(directories).expect("there").count(),
        0,
        "nothing is left behind"
    );
    instance.shutdown.expect("it ends")().await;
}

#[tokio::test]
async fn it_keeps_the_contract_with_ext4() {
    let root = tempfile::tempdir().expect("a directory");
    conforms(root.path(), "ext4", 64 << 20).await;
}

#[tokio::test]
async fn it_keeps_the_contract_with_xfs_and_shared_blocks() {
    let disk = Disk::new("xfs", 4 << 30).expect("an xfs");
    conforms(disk.path(), "xfs", 320 << 20).await;
}

#[tokio::test]
async fn without_a_scratch_file_it_is_skipped_at_once() {
    let root = tempfile::tempdir().expect("a directory");
    let mut quickest = Duration::MAX;
    // The quickest of some: the machine has other things to do as well.
    for _ in 0..10 {
        let begin = Instant::now();
        let skipped = start(root.path(), "").await.map(drop).expect_err("skipped");
        quickest = quickest.min(begin.elapsed());
        assert_eq!(skipped, InitError::Skip("no scratch file generator".to_owned()));
    }
    assert!(quickest < Duration::from_millis(1), "{quickest:?}");
    let skipped = start(root.path(), "recreate_scratch = true")
        .await
        .map(drop)
        .expect_err("skipped");
    assert!(matches!(skipped, InitError::Skip(_)), "{skipped:?}");
    let Err(InitError::Failed(error)) = start(root.path(), "scratch_file = \"/nowhere\"").await else {
        panic!("it should fail");
    };
    assert_eq!(error.code, Code::NotFound);
    assert!(
        error.message.contains("scratch_file") && error.message.contains("/nowhere"),
        "{error}"
    );
}

#[tokio::test]
async fn the_scratch_file_is_copied_once_and_sparse() {
    let root = tempfile::tempdir().expect("a directory");
    let file = scratch(root.path(), "ext4", 1 << 30);
    let config = format!("scratch_file = {:?}", file.display().to_string());
    let instance = start(root.path(), &config).await.expect("it starts");
    let home = PathBuf::from(&instance.exports["root"]);
    let copy = home.join("scratch").metadata().expect("copied");
    assert_eq!(copy.len(), 1 << 30);
    assert!(copy.blocks() * 512 < 100 << 20, "{} blocks", copy.blocks());
    instance.shutdown.expect("it ends")().await;

    // It is not needed any more, until it is asked for anew.
    std::fs::remove_file(&file).expect("removed");
    let instance = start(root.path(), &config).await.expect("it starts");
    instance.shutdown.expect("it ends")().await;
    let instance = start(root.path(), "").await.expect("it starts");
    instance.shutdown.expect("it ends")().await;
    let again = format!("{config}\nrecreate_scratch = true");
    assert!(matches!(start(root.path(), &again).await, Err(InitError::Failed(_))));
    assert!(
        home.join("scratch").exists(),
        "what was there stays until there is a new one"
    );
}

#[tokio::test]
async fn a_full_image_is_full_and_no_fuller() {
    let root = tempfile::tempdir().expect("a directory");
    let file = scratch(root.path(), "ext4", 16 << 20);
    let config = format!(
        "scratch_file = {:?}\nmount_options = [\"noatime\"]",
        file.display().to_string()
    );
    let instance = start(root.path(), &config).await.expect("it starts");
    let (snapshotter, ctx) = (instance.contracts.snapshotter.expect("a snapshotter"), Ctx::daemon());
    let mounts = snapshotter
        .prepare(&ctx, "a", "", Labels::new())
        .await
        .expect("prepared");
    assert_eq!(mounts[0].options, ["noatime", "loop", "rw"]);
    let refused = mounted(&mounts, |root| {
        std::fs::write(root.join("large"), vec![1; 32 << 20]).expect_err("too large")
    });
    assert_eq!(refused.expect("mounted").kind(), std::io::ErrorKind::StorageFull);
}
