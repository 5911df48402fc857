//! Copies on a real file system.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use orlop_plugin::contract::{Ctx, Snapshotter};
use orlop_plugin::snapshots::{LayeredSnapshotter, Removal};

use crate::Copies;

#[tokio::test]
async fn a_snapshot_is_a_whole_copy_of_its_parent() {
    let root = tempfile::tempdir().expect("a directory");
    let snapshotter = LayeredSnapshotter::open(root.path(), Copies, Removal::AtOnce)
        .await
        .expect("it opens");
    let ctx = Ctx::daemon();
    let mounts = snapshotter
        .prepare(&ctx, "a", "", BTreeMap::new())
        .await
        .expect("prepared");
    let at = Path::new(&mounts[0].source);
    std::fs::write(at.join("file"), "data").expect("written");
    std::fs::set_permissions(at.join("file"), std::fs::Permissions::from_mode(0o4755)).expect("setuid");
    std::os::unix::fs::lchown(at.join("file"), Some(7), Some(8)).expect("owned");
    std::fs::set_permissions(at.join("file"), std::fs::Permissions::from_mode(0o4755)).expect("setuid");
    std::fs::hard_link(at.join("file"), at.join("again")).expect("linked");
    std::os::unix::fs::symlink("file", at.join("link")).expect("linked");
    std::fs::create_dir(at.join("d")).expect("made");
    xattr::set(at.join("d"), "user.note", b"kept").expect("an attribute");
    nix::unistd::mkfifo(&at.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    snapshotter
        .commit(&ctx, "A", "a", BTreeMap::new())
        .await
        .expect("committed");

    let mounts = snapshotter
        .prepare(&ctx, "b", "A", BTreeMap::new())
        .await
        .expect("prepared");
    let copy = Path::new(&mounts[0].source);
    assert_ne!(copy, at);
    let (old, new) = (
        std::fs::metadata(at.join("file")).expect("old"),
        std::fs::metadata(copy.join("file")).expect("new"),
    );
    assert_eq!((new.mode(), new.uid(), new.gid(), new.nlink()), (old.mode(), 7, 8, 2));
    assert_eq!((new.mtime(), new.mtime_nsec()), (old.mtime(), old.mtime_nsec()));
    assert_ne!(new.ino(), old.ino());
    assert_eq!(
        std::fs::read_link(copy.join("link")).expect("a link"),
        Path::new("file")
    );
    assert_eq!(
        xattr::get(copy.join("d"), "user.note").expect("read"),
        Some(b"kept".to_vec())
    );
    std::fs::write(copy.join("file"), "changed").expect("written");
    assert_eq!(std::fs::read_to_string(at.join("file")).expect("read"), "data");
    assert_eq!(mounts[0].options, ["rbind", "rw"]);
    let view = snapshotter.view(&ctx, "v", "A", BTreeMap::new()).await.expect("a view");
    assert_eq!(view[0].options, ["rbind", "ro"]);
    for key in ["v", "b", "A"] {
        snapshotter.remove(&ctx, key).await.expect(key);
    }
    assert_eq!(
        std::fs::read_dir(root.path().join("snapshots")).expect("there").count(),
        0
    );
}
