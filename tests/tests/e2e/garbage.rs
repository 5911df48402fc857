//! Removing an image collects what only it held.

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

const BLOBS: &str = "root/io.containerd.content.v1.content/blobs/sha256";
const LAYERS: &str = "root/io.containerd.snapshotter.v1.overlayfs/snapshots";

#[test]
fn an_image_takes_its_content_and_snapshots_with_it() {
    let daemon = Daemon::orlop().start();
    daemon.import_busybox();
    // The archive's index is held by nothing once its import is over.
    let before = (content(&daemon), snapshots(&daemon));
    assert!(matches!(before, (3 | 4, 1)), "{before:?}");
    assert_eq!((directories(&daemon, BLOBS), directories(&daemon, LAYERS)), before);
    daemon.ctr(&format!("images rm --sync {BUSYBOX}")).ok();
    assert_eq!((content(&daemon), snapshots(&daemon)), (0, 0));
    eventually("the files are gone", || {
        (directories(&daemon, BLOBS), directories(&daemon, LAYERS)) == (0, 0)
    });
}

#[test]
fn the_scheduler_collects_by_itself() {
    let daemon = Daemon::orlop().start();
    daemon.import_busybox();
    // No --sync: the plugin decides when, by the number of deletions.
    let scheduler = "[plugins.\"io.containerd.gc.v1.scheduler\"]\n  deletion_threshold = 1\n";
    drop(daemon);
    let daemon = Daemon::orlop().config(scheduler).start();
    daemon.import_busybox();
    daemon.ctr(&format!("images rm {BUSYBOX}")).ok();
    eventually("the content is collected", || {
        content(&daemon) == 0 && snapshots(&daemon) == 0
    });
}

#[test]
fn a_container_keeps_its_snapshot_and_its_parents() {
    let daemon = Daemon::orlop().start();
    daemon.import_busybox();
    daemon
        .ctr(&format!("containers create {BUSYBOX} c1 /bin/echo still here"))
        .ok();
    daemon.ctr(&format!("images rm --sync {BUSYBOX}")).ok();
    assert_eq!((content(&daemon), snapshots(&daemon)), (0, 2));
    assert_eq!(daemon.ctr("tasks start c1").ok(), "still here\n");
    daemon.ctr("tasks rm c1");
    daemon.ctr("containers rm c1").ok();
    daemon.ctr("leases create --id nudge").ok();
    daemon.ctr("leases rm --sync nudge").ok();
    assert_eq!(snapshots(&daemon), 0);
}

#[test]
fn a_lease_keeps_what_it_holds() {
    let daemon = Daemon::orlop().start();
    daemon.import_busybox();
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
    daemon.ctr("leases create --id nudge").ok();
    daemon.ctr("leases rm --sync nudge").ok();
    assert_eq!(content(&daemon), 0);
}
