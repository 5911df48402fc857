//! Removing an image collects what only it held.

use std::sync::Arc;

use orlop_plugin::channel::socket;
use orlop_plugin::contract::{Ctx, LeaseResource, Leases, Namespace};
use orlop_plugin::rpc;
use orlop_tests::Daemon;
use orlop_tests::command::eventually;
use orlop_tests::image::BUSYBOX;

fn content(daemon: &Daemon) -> usize {
    daemon.ctr("content ls -q").ok().lines().count()
}

fn snapshots(daemon: &Daemon) -> usize {
    // The first line is the heading.
    daemon.ctr("snapshots ls").ok().lines().count() - 1
}

fn directories(daemon: &Daemon, path: &str) -> usize {
    std::fs::read_dir(daemon.path(path)).map_or(0, Iterator::count)
}

/// Removing a lease with `--sync` returns after a collection.
fn collect(daemon: &Daemon) {
    daemon.ctr("leases create --id nudge").ok();
    daemon.ctr("leases rm --sync nudge").ok();
}

/// Imports an image and collects what the import itself leaves: nothing holds the archive's index any more.
fn import(daemon: &Daemon) {
    daemon.import_busybox();
    collect(daemon);
}

const BLOBS: &str = "root/io.containerd.content.v1.content/blobs/sha256";
const LAYERS: &str = "root/io.containerd.snapshotter.v1.overlayfs/snapshots";

#[test]
fn an_image_takes_its_content_and_snapshots_with_it() {
    let daemon = Daemon::orlop().start();
    import(&daemon);
    assert_eq!((content(&daemon), snapshots(&daemon)), (3, 1));
    assert_eq!((directories(&daemon, BLOBS), directories(&daemon, LAYERS)), (3, 1));
    daemon.ctr(&format!("images rm --sync {BUSYBOX}")).ok();
    assert_eq!((content(&daemon), snapshots(&daemon)), (0, 0));
    eventually("the files are gone", || {
        (directories(&daemon, BLOBS), directories(&daemon, LAYERS)) == (0, 0)
    });
}

#[test]
fn the_scheduler_collects_by_itself() {
    let daemon = Daemon::orlop().start();
    import(&daemon);
    // No --sync: the plugin decides when, by the number of deletions.
    let scheduler = "[plugins.\"io.containerd.gc.v1.scheduler\"]\n  deletion_threshold = 1\n";
    drop(daemon);
    let daemon = Daemon::orlop().config(scheduler).start();
    import(&daemon);
    daemon.ctr(&format!("images rm {BUSYBOX}")).ok();
    eventually("the content is collected", || {
        content(&daemon) == 0 && snapshots(&daemon) == 0
    });
}

#[test]
fn a_container_keeps_its_snapshot_and_its_parents() {
    let daemon = Daemon::orlop().start();
    import(&daemon);
    daemon
        .ctr(&format!("containers create {BUSYBOX} c1 /bin/echo still here"))
        .ok();
    daemon.ctr(&format!("images rm --sync {BUSYBOX}")).ok();
    assert_eq!((content(&daemon), snapshots(&daemon)), (0, 2));
    assert_eq!(daemon.ctr("tasks start c1").ok(), "still here\n");
    daemon.ctr("tasks rm c1");
    daemon.ctr("containers rm c1").ok();
    collect(&daemon);
    assert_eq!(snapshots(&daemon), 0);
}

#[test]
fn a_labelled_root_is_kept() {
    let daemon = Daemon::orlop().start();
    import(&daemon);
    let digests = daemon.ctr("content ls -q").ok();
    let blob = digests.lines().next().unwrap();
    daemon
        .ctr(&format!(
            "content label {blob} containerd.io/gc.root=2026-01-01T00:00:00Z"
        ))
        .ok();
    daemon.ctr(&format!("images rm --sync {BUSYBOX}")).ok();
    assert!(
        daemon.ctr("content ls -q").ok().contains(blob),
        "a labelled root was collected"
    );
    daemon.ctr(&format!("content label {blob} containerd.io/gc.root=")).ok();
    collect(&daemon);
    assert_eq!(content(&daemon), 0);
}

/// The lease service on the daemon's socket: `ctr` has no command that gives a lease something to hold.
fn leases(daemon: &Daemon) -> (Arc<dyn Leases>, Ctx) {
    let ctx = Ctx::new(Namespace::new(daemon.namespace()).unwrap());
    (rpc::leases::connect(socket::connect(daemon.address())), ctx)
}

#[tokio::test]
async fn a_lease_keeps_what_it_holds_and_what_that_refers_to() {
    let daemon = Daemon::orlop().start();
    import(&daemon);
    let listed = daemon.ctr("images ls").ok();
    let manifest = listed
        .split_whitespace()
        .find(|word| word.starts_with("sha256:"))
        .unwrap();
    let snapshots_listed = daemon.ctr("snapshots ls").ok();
    let layer = snapshots_listed
        .split_whitespace()
        .find(|word| word.starts_with("sha256:"))
        .unwrap();
    let (leases, ctx) = leases(&daemon);
    leases
        .create(&ctx, Some("keeper"), std::collections::BTreeMap::new())
        .await
        .unwrap();
    let hold = |kind: &str, id: &str| LeaseResource {
        kind: kind.to_owned(),
        id: id.to_owned(),
    };
    leases
        .add_resource(&ctx, "keeper", hold("content", manifest))
        .await
        .unwrap();
    leases
        .add_resource(&ctx, "keeper", hold("snapshots/overlayfs", layer))
        .await
        .unwrap();

    daemon.ctr(&format!("images rm --sync {BUSYBOX}")).ok();
    assert_eq!(
        (content(&daemon), snapshots(&daemon)),
        (3, 1),
        "the manifest, what it refers to, and the layer"
    );
    leases
        .delete_resource(&ctx, "keeper", hold("content", manifest))
        .await
        .unwrap();
    collect(&daemon);
    assert_eq!((content(&daemon), snapshots(&daemon)), (0, 1));
    leases.delete(&ctx, "keeper", true).await.unwrap();
    assert_eq!((content(&daemon), snapshots(&daemon)), (0, 0));
}
