//! Image verifiers: the programs of a directory, and one that somebody serves on a socket.

use std::os::unix::fs::PermissionsExt;

use orlop_plugin::contract::{Ctx, Descriptor, ImageVerifier, Judgement, async_trait};
use orlop_plugin::serve::{Connections, bind};
use orlop_plugin::{Result, rpc};
use orlop_tests::Daemon;
use orlop_tests::image::{BUSYBOX, busybox};
use orlop_tests::registry::Registry;

/// Nothing of a pull is in the daemon.
#[track_caller]
fn holds_nothing(daemon: &Daemon) {
    for command in [
        "images ls -q",
        "content ls -q",
        "snapshots ls",
        "leases ls -q",
        "content active",
    ] {
        let said = daemon.ctr(command).ok();
        let rows = said
            .lines()
            .filter(|line| !line.starts_with("KEY") && !line.starts_with("REF"));
        assert_eq!(rows.collect::<Vec<_>>(), [] as [&str; 0], "{command}");
    }
}

#[test]
fn what_the_programs_of_a_directory_reject_is_not_pulled() {
    let builder = Daemon::orlop();
    let directory = builder.directory().join("verifiers");
    let table = format!("[plugins.\"io.containerd.image-verifier.v1.bindir\"]\nbin_dir = {directory:?}");
    let (registry, daemon) = (Registry::start(), builder.config(&table).start());
    registry.fill(
        &busybox(&daemon.path(""), BUSYBOX, daemon.namespace()),
        "team/busybox:1",
    );
    let name = registry.name("team/busybox:1");
    let pull = format!("images pull --plain-http {name}");
    let verifier = |text: &str| {
        let path = directory.join("signed");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };

    std::fs::create_dir(&directory).unwrap();
    verifier("#!/bin/sh\necho no signature of $2 at $4\nexit 1\n");
    let refused = daemon.ctr(&pull).fails();
    let digest = registry.digest("team/busybox:1");
    for said in [
        "image verifier bindir blocked pull of",
        "verifier signed rejected image (exit code 1): no signature of",
        &format!("{name} at {digest}"),
    ] {
        assert!(refused.contains(said), "{said}:\n{refused}");
    }
    holds_nothing(&daemon);

    verifier("#!/nowhere/sh\n");
    let refused = daemon.ctr(&pull).fails();
    assert!(
        refused.contains("image verifier bindir returned error: call verifier signed"),
        "{refused}"
    );
    holds_nothing(&daemon);

    verifier("#!/bin/sh\necho fine\n");
    daemon.ctr(&pull).ok();
    assert_eq!(
        daemon.ctr(&format!("run --rm {name} t1 /bin/echo verified")).ok(),
        "verified\n"
    );
}

#[test]
fn without_the_directory_images_are_pulled_and_with_a_bad_table_they_are_not() {
    let registry = Registry::start();
    let name = registry.name("team/busybox:1");
    let pull = format!("images pull --plain-http {name}");
    let table = |line: &str| format!("[plugins.\"io.containerd.image-verifier.v1.bindir\"]\n{line}");

    let daemon = Daemon::orlop().config(&table("bin_dir = \"/nowhere/at/all\"")).start();
    registry.fill(
        &busybox(&daemon.path(""), BUSYBOX, daemon.namespace()),
        "team/busybox:1",
    );
    daemon.ctr(&pull).ok();

    let daemon = Daemon::orlop()
        .config(&table("per_verifier_timeout = \"soon\""))
        .start();
    let refused = daemon.ctr(&pull).fails();
    assert!(
        refused.contains("per_verifier_timeout") && refused.contains("soon"),
        "{refused}"
    );
    holds_nothing(&daemon);
}

/// Accepts what comes from one repository.
struct Repository(&'static str);

#[async_trait]
impl ImageVerifier for Repository {
    async fn verify(&self, _: &Ctx, name: &str, _: Descriptor) -> Result<Judgement> {
        Ok(Judgement {
            accepted: name.contains(self.0),
            reason: format!("only {} is good", self.0),
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verifier_can_be_a_proxy_plugin() {
    let builder = Daemon::orlop();
    let socket = builder.directory().join("verifier.sock");
    let listener = bind(&socket).await.unwrap();
    tokio::spawn(async move {
        let services = rpc::verifier::serve(std::sync::Arc::new(Repository("good/")));
        let mut connections = Connections::default();
        while let Ok((stream, _)) = listener.accept().await {
            connections.serve(stream, services.clone());
        }
    });
    let proxy = format!("[proxy_plugins.notary]\ntype = \"image-verifier\"\naddress = {socket:?}");
    let daemon = builder.config(&proxy).start();
    let done = tokio::task::spawn_blocking(move || {
        let registry = Registry::start();
        let archive = busybox(&daemon.path(""), BUSYBOX, daemon.namespace());
        for repository in ["good/busybox:1", "bad/busybox:1"] {
            registry.fill(&archive, repository);
        }
        let pull = |repository| daemon.ctr(&format!("images pull --plain-http {}", registry.name(repository)));
        let refused = pull("bad/busybox:1").fails();
        assert!(refused.contains("image verifier notary blocked pull of"), "{refused}");
        assert!(refused.contains("only good/ is good"), "{refused}");
        holds_nothing(&daemon);
        pull("good/busybox:1").ok();
        let rows = daemon.ctr("plugins ls type==io.containerd.image-verifier.v1").ok();
        assert!(rows.contains("notary") && rows.contains("bindir"), "{rows}");
    });
    done.await.unwrap();
}
