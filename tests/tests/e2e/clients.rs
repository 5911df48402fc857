//! The daemon under containerd's own client and under ours, and our client with containerd's daemon.

use orlop_tests::command::eventually;
use orlop_tests::image::{BUSYBOX, busybox};
use orlop_tests::{Daemon, Output};

/// One of two clients.
type Ctr = fn(&Daemon, &str) -> Output;

#[test]
fn debians_client_on_orlop() {
    first_session(Daemon::orlop().start(), Daemon::debian_ctr);
}

#[test]
fn our_client_on_orlop() {
    first_session(Daemon::orlop().start(), Daemon::ctr);
}

#[test]
fn our_client_on_debians_containerd() {
    first_session(Daemon::containerd().start(), Daemon::ctr);
}

fn first_session(daemon: Daemon, ctr: Ctr) {
    let version = ctr(&daemon, "version").ok();
    assert!(version.contains("Server:") && version.contains("UUID:"), "{version}");
    let plugins = ctr(&daemon, "plugins ls").ok();
    assert!(
        plugins
            .lines()
            .next()
            .is_some_and(|head| head.starts_with("TYPE") && head.ends_with("STATUS    ")),
        "{plugins}"
    );
    assert!(row(&plugins, "overlayfs").contains("linux/amd64"), "{plugins}");

    ctr(&daemon, "namespaces create other").ok();
    assert!(
        ctr(&daemon, "namespaces ls -q")
            .ok()
            .lines()
            .any(|name| name == "other")
    );
    ctr(&daemon, "namespaces label other purpose=test").ok();
    assert!(row(&ctr(&daemon, "namespaces ls").ok(), "other").contains("purpose=test"));
    ctr(&daemon, "namespaces rm other").ok();
    assert!(!ctr(&daemon, "namespaces ls -q").ok().contains("other"));

    let archive = busybox(&daemon.path(""), BUSYBOX, daemon.namespace());
    let imported = ctr(&daemon, &format!("images import {}", archive.display())).ok();
    assert!(imported.contains(BUSYBOX), "{imported}");
    assert_eq!(ctr(&daemon, "images ls -q").ok().trim(), BUSYBOX);
    let images = ctr(&daemon, "images ls").ok();
    assert!(
        row(&images, BUSYBOX).contains("application/vnd.oci.image.manifest.v1+json"),
        "{images}"
    );
    assert!(ctr(&daemon, "images check").ok().contains("complete (2/2)"));
    // A manifest, a configuration and a layer; the archive's index goes with the next collection.
    assert!(matches!(ctr(&daemon, "content ls -q").ok().lines().count(), 3 | 4));
    let snapshots = ctr(&daemon, "snapshots ls").ok();
    assert!(row(&snapshots, "sha256:").contains("Committed"), "{snapshots}");

    let hello = ctr(&daemon, &format!("run --rm {BUSYBOX} t1 /bin/echo hello")).ok();
    assert_eq!(hello, "hello\n");
    for code in [0, 1, 42, 255] {
        ctr(
            &daemon,
            &format!("run --rm {BUSYBOX} e{code} /bin/busybox awk BEGIN{{exit({code})}}"),
        )
        .exits(code);
    }
    ctr(&daemon, &format!("run --rm {BUSYBOX} t1 /bin/no-such-program")).fails();

    // Detached, with everything one does to a task.
    ctr(&daemon, &format!("run -d {BUSYBOX} t2 /bin/sleep 1000")).ok();
    let tasks = ctr(&daemon, "tasks ls").ok();
    assert!(row(&tasks, "t2").contains("RUNNING"), "{tasks}");
    assert_eq!(
        ctr(&daemon, "tasks exec --exec-id x1 t2 /bin/echo again").ok(),
        "again\n"
    );
    ctr(&daemon, "tasks exec --exec-id x2 t2 /bin/busybox awk BEGIN{exit(7)}").exits(7);
    assert!(ctr(&daemon, "tasks ps t2").ok().lines().count() >= 2);
    assert!(!ctr(&daemon, "tasks metrics t2").ok().is_empty());
    ctr(&daemon, "tasks pause t2").ok();
    assert!(row(&ctr(&daemon, "tasks ls").ok(), "t2").contains("PAUSED"));
    ctr(&daemon, "tasks resume t2").ok();
    ctr(&daemon, "containers rm t2").fails();
    ctr(&daemon, "tasks kill -s SIGKILL t2").ok();
    eventually("the task stops", || {
        row(&ctr(&daemon, "tasks ls").ok(), "t2").contains("STOPPED")
    });
    assert!(ctr(&daemon, "tasks rm t2").exits(0).stderr.contains("137"));
    assert_eq!(ctr(&daemon, "tasks ls -q").ok().trim(), "");
    assert!(ctr(&daemon, "containers info t2").ok().contains(BUSYBOX));
    ctr(&daemon, "containers rm t2").ok();
    assert_eq!(ctr(&daemon, "containers ls -q").ok().trim(), "");

    ctr(&daemon, &format!("images tag {BUSYBOX} example.com/copy:1")).ok();
    let exported = daemon.path("exported.tar");
    ctr(
        &daemon,
        &format!("images export {} example.com/copy:1", exported.display()),
    )
    .ok();
    assert!(std::fs::metadata(exported).unwrap().len() > 100_000);
    ctr(&daemon, &format!("images rm example.com/copy:1 {BUSYBOX}")).ok();
    assert_eq!(ctr(&daemon, "images ls -q").ok().trim(), "");
}

/// The line of a table that begins with, or has a cell that begins with, `cell`.
fn row<'a>(table: &'a str, cell: &str) -> &'a str {
    table
        .lines()
        .find(|line| line.split_whitespace().any(|word| word.starts_with(cell)))
        .unwrap_or_default()
}

#[test]
fn events_show_the_life_of_a_task() {
    let daemon = Daemon::orlop().start();
    daemon.import_busybox();
    for (client, id) in [
        (orlop_tests::built("ctr"), "ours"),
        (orlop_tests::program("ctr"), "theirs"),
    ] {
        let file = daemon.path(id);
        let mut events = daemon
            .command(client)
            .arg("events")
            .stdout(std::fs::File::create(&file).unwrap())
            .spawn()
            .unwrap();
        // A subscription has no answer before its first event: make some until one is seen.
        let seen = || std::fs::read_to_string(&file).unwrap_or_default();
        let mut probe = 0;
        eventually("the subscription stands", || {
            probe += 1;
            daemon
                .ctr(&format!("namespaces label {} probe=p{probe}", daemon.namespace()))
                .ok();
            seen().contains("/namespaces/update")
        });
        daemon.ctr(&format!("run --rm {BUSYBOX} {id} /bin/true")).ok();
        for topic in [
            "/containers/create",
            "/tasks/create",
            "/tasks/start",
            "/tasks/exit",
            "/tasks/delete",
            "/containers/delete",
        ] {
            eventually(topic, || {
                seen().lines().any(|line| line.contains(topic) && line.contains(id))
            });
        }
        events.kill().unwrap();
        events.wait().unwrap();
    }
}

#[test]
fn what_we_export_the_peer_imports() {
    let (ours, theirs) = (Daemon::orlop().start(), Daemon::containerd().start());
    ours.import_busybox();
    let file = ours.path("from-orlop.tar");
    ours.ctr(&format!("images export {} {BUSYBOX}", file.display())).ok();
    theirs.debian_ctr(&format!("images import {}", file.display())).ok();
    let digests = |daemon: &Daemon| {
        let mut digests: Vec<_> = daemon
            .debian_ctr("content ls -q")
            .ok()
            .lines()
            .map(str::to_owned)
            .collect();
        digests.sort();
        digests
    };
    // The archive's own index is garbage after an import, for each daemon in its own time.
    eventually("both stores to hold the same blobs", || {
        digests(&ours) == digests(&theirs)
    });
    assert_eq!(
        theirs.debian_ctr(&format!("run --rm {BUSYBOX} t1 /bin/echo hi")).ok(),
        "hi\n"
    );
}

#[test]
fn a_damaged_blob_is_found_and_named() {
    for daemon in [Daemon::orlop().start(), Daemon::containerd().start()] {
        daemon.import_busybox();
        let checked = daemon.ctr("content check").ok();
        assert!(checked.lines().skip(1).all(|line| line.contains("ok")), "{checked}");
        let blobs = daemon.path("root/io.containerd.content.v1.content/blobs/sha256");
        let largest = std::fs::read_dir(&blobs)
            .unwrap()
            .flatten()
            .max_by_key(|entry| entry.metadata().unwrap().len())
            .unwrap();
        let mut bytes = std::fs::read(largest.path()).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        // The store keeps blobs read-only, which root does not notice.
        std::fs::write(largest.path(), &bytes).unwrap();
        let digest = format!("sha256:{}", largest.file_name().to_string_lossy());
        let complaint = daemon.ctr("content check").fails();
        assert!(complaint.contains("1 of"), "{complaint}");
        let named = daemon.ctr("content check -q");
        assert_eq!(named.stdout.trim(), digest);
        daemon.ctr(&format!("content check {digest}")).fails();
    }
}
