//! Databases that are overwritten, cut and deleted: the daemon starts, says what it did, and goes on with what could be saved.

use std::path::Path;

use orlop_tests::command;
use orlop_tests::image::BUSYBOX;
use orlop_tests::{Daemon, Output, built};

const METADATA: &str = "root/io.containerd.metadata.v1.bolt";
const SNAPSHOTS: &str = "root/io.containerd.snapshotter.v1.overlayfs";
const DATABASES: [(&str, &str); 2] = [(METADATA, "meta.redb"), (SNAPSHOTS, "metadata.redb")];

/// With an image and a container that are in the copies, and another container that is not.
fn daemon_with_containers() -> Daemon {
    let mut daemon = Daemon::orlop().start();
    daemon.import_busybox();
    daemon.ctr(&format!("run -d {BUSYBOX} older /bin/sleep 1000")).ok();
    // An orderly end takes copies.
    daemon.stop();
    daemon.start();
    daemon.ctr(&format!("run -d {BUSYBOX} newer /bin/sleep 1000")).ok();
    daemon
}

/// Removing a lease with `--sync` returns after a collection.
fn collect(daemon: &Daemon) {
    daemon.ctr("leases create --id nudge").ok();
    daemon.ctr("leases rm --sync nudge").ok();
}

fn content(daemon: &Daemon) -> Vec<String> {
    let mut digests: Vec<_> = daemon.ctr("content ls -q").ok().lines().map(str::to_owned).collect();
    digests.sort();
    digests
}

/// Both containers, whole: their records, their tasks and what they run on.
#[track_caller]
fn both_go_on(daemon: &Daemon) {
    let (containers, snapshots, tasks) = (
        daemon.ctr("containers ls -q").ok(),
        daemon.ctr("snapshots ls").ok(),
        daemon.ctr("tasks ls").ok(),
    );
    for name in ["older", "newer"] {
        let first = |line: &str| line.split_whitespace().next() == Some(name);
        assert!(containers.lines().any(first), "{name} is no container:\n{containers}");
        assert!(snapshots.lines().any(first), "{name} has no snapshot:\n{snapshots}");
        assert!(
            tasks.lines().any(|line| first(line) && line.contains("RUNNING")),
            "{name} does not run:\n{tasks}"
        );
        assert_eq!(
            daemon
                .ctr(&format!("tasks exec --exec-id x {name} /bin/echo alive"))
                .ok(),
            "alive\n"
        );
    }
}

fn files_beside(daemon: &Daemon, directory: &str, with: &str) -> usize {
    let entries = std::fs::read_dir(daemon.path(directory)).unwrap().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().contains(with))
        .count()
}

fn goes_on_after(damage: fn(&Path)) {
    let mut daemon = daemon_with_containers();
    let before = content(&daemon);
    daemon.kill();
    for (directory, file) in DATABASES {
        damage(&daemon.path(directory).join(file));
    }
    daemon.start();
    let log = daemon.log();
    for (_, file) in DATABASES {
        let told =
            |line: &str| line.contains("level=error") && line.contains(file) && line.contains("was restored from");
        assert!(log.lines().any(told), "nothing is said of {file}");
    }
    both_go_on(&daemon);
    assert!(daemon.ctr("images ls -q").ok().contains(BUSYBOX));
    // What was made after the copy is not taken for garbage.
    collect(&daemon);
    both_go_on(&daemon);
    assert_eq!(content(&daemon), before);
    assert_eq!(
        daemon.ctr(&format!("run --rm {BUSYBOX} third /bin/echo fine")).ok(),
        "fine\n"
    );
    // It was restored once; the next start has nothing to tell.
    daemon.stop();
    let told = daemon.log().len();
    daemon.start();
    assert!(!daemon.log()[told..].contains("was restored"));
    both_go_on(&daemon);
}

#[test]
fn databases_that_were_overwritten_come_back() {
    goes_on_after(|file| {
        let mut bytes = std::fs::read(file).unwrap();
        let middle = bytes.len() / 8;
        for (number, byte) in bytes[middle..].iter_mut().enumerate() {
            *byte = (number % 251) as u8;
        }
        std::fs::write(file, bytes).unwrap();
    });
}

#[test]
fn databases_that_were_cut_come_back() {
    goes_on_after(|file| {
        let length = std::fs::metadata(file).unwrap().len();
        std::fs::File::options()
            .write(true)
            .open(file)
            .unwrap()
            .set_len(length / 3)
            .unwrap();
    });
}

#[test]
fn databases_that_were_deleted_come_back() {
    goes_on_after(|file| std::fs::remove_file(file).unwrap());
}

#[test]
fn without_a_copy_all_but_images_and_leases_is_rebuilt() {
    let mut daemon = daemon_with_containers();
    let before = content(&daemon);
    daemon.kill();
    for (directory, file) in DATABASES {
        std::fs::remove_dir_all(daemon.path(directory).join("backup")).unwrap();
        std::fs::write(daemon.path(directory).join(file), "x".repeat(100_000)).unwrap();
    }
    daemon.start();
    assert!(daemon.log().contains("there is no whole copy of it"));
    for (directory, _) in DATABASES {
        assert_eq!(
            files_beside(&daemon, directory, ".damaged-"),
            1,
            "the damaged file is kept"
        );
    }
    both_go_on(&daemon);
    assert_eq!(daemon.ctr("images ls -q").ok(), "");
    collect(&daemon);
    both_go_on(&daemon);
    assert_eq!(content(&daemon), before);
    daemon.import_busybox();
    assert_eq!(
        daemon.ctr(&format!("run --rm {BUSYBOX} third /bin/echo fine")).ok(),
        "fine\n"
    );
}

fn orlopd(daemon: &Daemon, what: &str) -> Output {
    command::run(
        std::process::Command::new(built("orlopd"))
            .arg("--config")
            .arg(daemon.path("config.toml"))
            .arg(what),
    )
}

#[test]
fn check_names_what_is_wrong_and_repair_mends_it() {
    let mut daemon = daemon_with_containers();
    let busy = orlopd(&daemon, "check").exits(1);
    assert!(busy.stderr.contains("another process has it open"), "{}", busy.stderr);
    daemon.stop();
    assert_eq!(orlopd(&daemon, "check").ok(), "");
    for (directory, file) in DATABASES {
        std::fs::write(daemon.path(directory).join(file), "x".repeat(100_000)).unwrap();
    }
    let found = orlopd(&daemon, "check").exits(1);
    assert_eq!(found.stdout.lines().count(), 2, "{}", found.stdout);
    for (line, (directory, file)) in found.stdout.lines().zip(DATABASES) {
        assert!(
            line.starts_with(&daemon.path(directory).join(file).display().to_string()),
            "{line}"
        );
    }
    let done = orlopd(&daemon, "repair").exits(0);
    assert_eq!(done.stdout.matches("was restored from").count(), 2, "{}", done.stdout);
    assert_eq!(orlopd(&daemon, "check").ok(), "");
    daemon.start();
    both_go_on(&daemon);
}
