//! The EROFS snapshotter against the snapshotter contract, with real images and overlays.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use orlop_plugin::contract::{Code, Ctx, Labels};
use orlop_plugin::erofs::Mkfs;
use orlop_plugin::mount::{Access, Lazy, TempMount, unmount};
use orlop_plugin::snapshots::{GID_MAPPING, UID_MAPPING};
use orlop_plugin::testkit::{self, Disk, mounted};
use orlop_plugin::{InitError, Instance};

async fn start(root: &Path, config: &str) -> Result<Instance, InitError> {
    testkit::start(&crate::registrations()[0], root, config.parse().expect("TOML")).await
}

fn snapshots(instance: &Instance) -> PathBuf {
    Path::new(&instance.exports["root"]).join("snapshots")
}

/// Everything that is mounted below a directory.
fn mounts_below(directory: &Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("proc");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    points
        .filter(|point| Path::new(point).starts_with(directory))
        .map(str::to_owned)
        .collect()
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .expect("there")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    names
}

async fn conforms(config: &str) {
    let root = tempfile::tempdir().expect("a directory");
    let instance = start(root.path(), config).await.expect("it starts");
    let directories = snapshots(&instance);
    testkit::snapshotter(instance.contracts.snapshotter.expect("a snapshotter")).await;
    assert_eq!(entries(&directories), [""; 0], "nothing is left behind");
    assert_eq!(mounts_below(root.path()), [""; 0], "nothing is left mounted");
}

#[tokio::test]
async fn it_keeps_the_contract() {
    conforms("").await;
}

#[tokio::test]
async fn it_keeps_the_contract_with_guarded_layers_and_options() {
    conforms("set_immutable = true\novl_mount_options = [\"index=off\", \"xino=off\"]\ndefault_size = \"0MiB\"").await;
}

#[tokio::test]
async fn a_committed_snapshot_is_an_image_that_a_restart_finds() {
    let root = tempfile::tempdir().expect("a directory");
    let instance = start(root.path(), "set_immutable = true").await.expect("it starts");
    let directories = snapshots(&instance);
    let (first, ctx) = (instance.contracts.snapshotter.expect("a snapshotter"), Ctx::daemon());
    let labels = [UID_MAPPING, GID_MAPPING].map(|label| (label.to_owned(), "0:4000:1000".to_owned()));
    let labels = BTreeMap::from(labels);
    let mounts = first.prepare(&ctx, "a", "", labels).await.expect("prepared");
    mounted(&mounts, |root| std::fs::write(root.join("gone"), "1").expect("written")).expect("mounted");
    first.commit(&ctx, "A", "a", Labels::new()).await.expect("committed");
    let own = directories.join(&entries(&directories)[0]);
    assert_eq!(entries(&own), [".erofslayer", "layer.erofs"]);
    let refused = std::fs::remove_file(own.join("layer.erofs")).expect_err("it is immutable");
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);

    let mounts = first.prepare(&ctx, "b", "A", Labels::new()).await.expect("prepared");
    let owner = mounted(&mounts, |root| {
        std::fs::remove_file(root.join("gone")).expect("removed");
        std::fs::metadata(root).expect("there").uid()
    });
    assert_eq!(owner.expect("mounted"), 4000, "a remapped root is its children's");
    first.commit(&ctx, "B", "b", Labels::new()).await.expect("committed");
    let view = first.view(&ctx, "v", "B", Labels::new()).await.expect("viewed");
    assert_eq!((view[0].kind.as_str(), mounts_below(root.path()).len()), ("overlay", 2));
    instance.shutdown.expect("it ends")().await;

    // As after a reboot.
    for point in mounts_below(root.path()) {
        unmount(Path::new(&point), Lazy::Never).expect("unmounted");
    }
    let second = start(root.path(), "").await.expect("it starts");
    let second = second.contracts.snapshotter.expect("a snapshotter");
    let again = second.mounts(&ctx, "v").await.expect("mountable");
    assert_eq!(again, view);
    let seen = mounted(&again, entries).expect("mounted");
    assert_eq!(seen, [""; 0], "what the upper layer took away is gone");
    let whiteout = mounts_below(root.path())
        .iter()
        .filter_map(|point| Path::new(point).join("gone").symlink_metadata().ok())
        .any(|metadata| metadata.file_type().is_char_device() && metadata.rdev() == 0);
    assert!(whiteout, "the layer above has a whiteout");
    for key in ["v", "B", "A"] {
        second.remove(&ctx, key).await.expect("removed, immutable or not");
    }
    assert_eq!(entries(&directories), [""; 0]);
    assert_eq!(mounts_below(root.path()), [""; 0]);
}

#[tokio::test]
async fn a_commit_takes_the_image_of_a_differ_and_makes_a_stale_one_anew() {
    let root = tempfile::tempdir().expect("a directory");
    let instance = start(root.path(), "").await.expect("it starts");
    let directories = snapshots(&instance);
    let (snapshotter, ctx) = (instance.contracts.snapshotter.expect("a snapshotter"), Ctx::daemon());
    let tree = root.path().join("tree");
    std::fs::create_dir(&tree).expect("made");
    std::fs::write(tree.join("of-the-differ"), "x").expect("written");
    let mkfs = Mkfs::find().expect("erofs-utils");

    snapshotter
        .prepare(&ctx, "a", "", Labels::new())
        .await
        .expect("prepared");
    let own = directories.join(&entries(&directories)[0]);
    assert!(own.join(".erofslayer").exists());
    mkfs.of_directory(&own.join("layer.erofs"), &tree).expect("an image");
    snapshotter
        .commit(&ctx, "A", "a", Labels::new())
        .await
        .expect("committed");
    let mounts = snapshotter.view(&ctx, "v", "A", Labels::new()).await.expect("viewed");
    assert_eq!(
        (mounts[0].kind.as_str(), mounts[0].options.join(",")),
        ("erofs", "ro,loop".to_owned())
    );
    assert_eq!(mounted(&mounts, entries).expect("mounted"), ["of-the-differ"]);
    snapshotter.remove(&ctx, "v").await.expect("removed");

    // An image from before a crash, and files that came after it.
    let mounts = snapshotter
        .prepare(&ctx, "b", "A", Labels::new())
        .await
        .expect("prepared");
    mounted(&mounts, |root| {
        std::fs::write(root.join("later"), "x").expect("written");
    })
    .expect("mounted");
    let own = directories.join(&entries(&directories)[1]);
    mkfs.of_directory(&own.join("layer.erofs"), &tree).expect("an image");
    let refused = snapshotter.commit(&ctx, "A", "b", Labels::new()).await;
    assert_eq!(refused.expect_err("taken").code, Code::AlreadyExists);
    snapshotter
        .commit(&ctx, "B", "b", Labels::new())
        .await
        .expect("committed");
    let mounts = snapshotter.view(&ctx, "v", "B", Labels::new()).await.expect("viewed");
    assert_eq!(mounted(&mounts, entries).expect("mounted"), ["later", "of-the-differ"]);
    for key in ["v", "B", "A"] {
        snapshotter.remove(&ctx, key).await.expect("removed");
    }
}

#[tokio::test]
async fn the_layers_of_a_remapped_container_show_its_own_ids() {
    let root = tempfile::tempdir().expect("a directory");
    let instance = start(root.path(), "").await.expect("it starts");
    assert_eq!(instance.capabilities, ["only-remap-ids", "remap-ids"]);
    let (snapshotter, ctx) = (instance.contracts.snapshotter.expect("a snapshotter"), Ctx::daemon());
    let mut parent = String::new();
    for layer in ["lower", "upper"] {
        let mounts = snapshotter
            .prepare(&ctx, "a", &parent, Labels::new())
            .await
            .expect("prepared");
        mounted(&mounts, |root| {
            std::fs::write(root.join(layer), layer).expect("written");
            std::os::unix::fs::chown(root.join(layer), Some(7), Some(8)).expect("owned");
        })
        .expect("mounted");
        snapshotter
            .commit(&ctx, layer, "a", Labels::new())
            .await
            .expect("committed");
        parent = layer.to_owned();
    }
    let ids = [(UID_MAPPING, "0:4000:1000"), (GID_MAPPING, "0:5000:1000")];
    let ids: Labels = ids.map(|(label, map)| (label.to_owned(), map.to_owned())).into();
    for (parent, view) in [("upper", false), ("upper", true), ("lower", false), ("lower", true)] {
        let made = if view {
            snapshotter.view(&ctx, "c", parent, ids.clone()).await
        } else {
            snapshotter.prepare(&ctx, "c", parent, ids.clone()).await
        };
        let mount = TempMount::new(&made.expect("made"), Access::Write).expect("mounted");
        let seen = std::fs::metadata(mount.path().join("lower")).expect("there");
        assert_eq!((seen.uid(), seen.gid()), (4007, 5008), "{parent} {view}");
        mount.unmount().expect("unmounted");
        snapshotter.remove(&ctx, "c").await.expect("removed");
    }
    for key in ["upper", "lower"] {
        snapshotter.remove(&ctx, key).await.expect("removed");
    }
    assert_eq!(mounts_below(root.path()), [""; 0]);
}

#[tokio::test]
async fn what_is_not_there_is_refused() {
    let root = tempfile::tempdir().expect("a directory");
    for (config, reason) in [
        ("default_size = \"20GiB\"", "not available in this release"),
        ("dmverity_mode = \"on\"", "not available in this release"),
        ("dmverity_mode = \"maybe\"", "must be \"auto\", \"on\", or \"off\""),
    ] {
        let started = start(root.path(), config).await;
        let Err(InitError::Failed(error)) = started else {
            panic!("{config} should be refused");
        };
        assert!(error.message.contains(reason), "{error}");
    }
}

/// Where the kernel has fs-verity a layer is sealed; where it has not, nothing starts unsealed.
#[tokio::test]
async fn fs_verity_holds_or_is_refused() {
    let disk = Disk::new("btrfs", 1 << 30).expect("a btrfs");
    let there = Path::new("/sys/fs/btrfs/features/verity").exists();
    match start(disk.path(), "enable_fsverity = true").await {
        Ok(instance) => {
            assert!(there);
            testkit::snapshotter(instance.contracts.snapshotter.expect("a snapshotter")).await;
            instance.shutdown.expect("it ends")().await;
        }
        Err(InitError::Failed(error)) => {
            assert!(!there, "{error}");
            assert!(
                error.message.contains("fsverity is not supported on the filesystem"),
                "{error}"
            );
        }
        Err(skipped) => panic!("{skipped}"),
    }
}
