//! Images from Debian's registry and to it: by the daemon's transfer service, and by containerd's own client, which speaks to the
//! registry itself.

use orlop_tests::Daemon;
use orlop_tests::image::{BUSYBOX, busybox};
use orlop_tests::registry::Registry;

/// The digest that `daemon` has of an image.
#[track_caller]
fn digest(daemon: &Daemon, name: &str) -> String {
    let images = daemon.debian_ctr(&format!("images ls name=={name}")).ok();
    let digest = images.split_whitespace().find(|word| word.starts_with("sha256:"));
    digest.unwrap_or_else(|| panic!("no {name}:\n{images}")).to_owned()
}

#[test]
fn what_others_push_is_pulled_and_runs() {
    let (registry, daemon) = (Registry::start(), Daemon::orlop().start());
    registry.fill(
        &busybox(&daemon.path(""), BUSYBOX, daemon.namespace()),
        "team/busybox:1",
    );
    let name = registry.name("team/busybox:1");
    let told = daemon.ctr(&format!("images pull --plain-http {name}")).ok();
    for event in [
        "Resolving from",
        "layer-sha256:",
        "\tcomplete",
        "saved",
        "Completed pull from",
    ] {
        assert!(told.contains(event), "{event}:\n{told}");
    }
    assert_eq!(digest(&daemon, &name), registry.digest("team/busybox:1"));
    assert!(daemon.ctr("images check").ok().contains("complete (2/2)"));
    assert_eq!(
        daemon.ctr(&format!("run --rm {name} t1 /bin/echo pulled")).ok(),
        "pulled\n"
    );
    // On this machine, plain HTTP is found out.
    daemon.ctr(&format!("images pull {name}")).ok();
    // What was pulled is kept by the image, not by a lease that is gone.
    assert_eq!(daemon.ctr("leases ls -q").ok().trim(), "");
    assert!(daemon.ctr("images check").ok().contains("complete (2/2)"));

    let missing = daemon
        .ctr(&format!("images pull --plain-http {}", registry.name("team/busybox:2")))
        .fails();
    assert!(
        missing.contains("team/busybox:2") && missing.contains("404"),
        "{missing}"
    );
    let nowhere = daemon.ctr("images pull registry.invalid/busybox:1").fails();
    assert!(nowhere.contains("registry.invalid"), "{nowhere}");
}

#[test]
fn what_we_push_others_pull() {
    let (registry, daemon, second) = (Registry::start(), Daemon::orlop().start(), Daemon::orlop().start());
    daemon.import_busybox();
    let name = registry.name("ours/busybox:1");
    let told = daemon.ctr(&format!("images push --plain-http {name} {BUSYBOX}")).ok();
    assert!(told.contains("Completed push to"), "{told}");
    let pushed = digest(&daemon, BUSYBOX);
    assert_eq!(registry.digest("ours/busybox:1"), pushed);

    // containerd's client of 1.6 fetches by itself, and writes into our content store.
    second.debian_ctr(&format!("images pull --plain-http {name}")).ok();
    assert_eq!(digest(&second, &name), pushed);
    assert_eq!(
        second.debian_ctr(&format!("run --rm {name} t1 /bin/echo theirs")).ok(),
        "theirs\n"
    );
    // What their client has labelled, our push mounts from one repository into the other.
    let other = registry.name("other/busybox:2");
    let told = second.ctr(&format!("images push --plain-http {other} {name}")).ok();
    assert!(
        told.lines()
            .any(|line| line.starts_with("layer-") && line.ends_with("already exists")),
        "{told}"
    );
    assert_eq!(registry.digest("other/busybox:2"), pushed);
}

#[test]
fn a_password_is_asked_of_the_client() {
    let (registry, daemon) = (Registry::with_password("me", "secret"), Daemon::orlop().start());
    daemon.import_busybox();
    let name = registry.name("private/busybox:1");
    let refused = daemon
        .ctr(&format!("images push --plain-http {name} {BUSYBOX}"))
        .fails();
    assert!(refused.contains("--user"), "{refused}");
    daemon
        .ctr(&format!("images push --plain-http --user me:secret {name} {BUSYBOX}"))
        .ok();
    let wrong = daemon
        .ctr(&format!("images pull --plain-http --user me:wrong {name}"))
        .fails();
    assert!(wrong.contains("does not accept the credentials"), "{wrong}");
    daemon
        .ctr(&format!("images pull --plain-http --user me:secret {name}"))
        .ok();
    assert_eq!(digest(&daemon, &name), digest(&daemon, BUSYBOX));
}

#[test]
fn an_image_is_pulled_by_several_at_once() {
    let (registry, daemon) = (Registry::start(), Daemon::orlop().start());
    registry.fill(&busybox(&daemon.path(""), BUSYBOX, daemon.namespace()), "busybox:1");
    let name = registry.name("busybox:1");
    std::thread::scope(|scope| {
        let pull = || daemon.ctr(&format!("images pull --plain-http {name}"));
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(pull)).collect();
        for pull in pulls {
            pull.join().unwrap().ok();
        }
    });
    assert!(daemon.ctr("images check").ok().contains("complete (2/2)"));
    assert_eq!(
        daemon.ctr("content active").ok().lines().count(),
        1,
        "only the head of the table"
    );
    assert_eq!(
        daemon.ctr("snapshots ls").ok().lines().count(),
        2,
        "one layer, unpacked once"
    );
    assert_eq!(daemon.ctr("leases ls -q").ok().trim(), "");
}
