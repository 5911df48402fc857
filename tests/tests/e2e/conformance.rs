//! The suites of the testkit over sockets: what the daemons serve, and a library that is served as a proxy plugin.

use std::process::Command;

use orlop_plugin::channel::socket;
use orlop_plugin::{rpc, testkit};
use orlop_tests::command::eventually;
use orlop_tests::{Daemon, build_directory, built};

#[tokio::test]
async fn the_content_store_of_orlop() {
    let daemon = Daemon::orlop().start();
    testkit::content_store(rpc::content::connect(socket::connect(daemon.address()))).await;
}

#[tokio::test]
async fn the_content_store_of_debians_containerd() {
    let daemon = Daemon::containerd().start();
    testkit::content_store(rpc::content::connect(socket::connect(daemon.address()))).await;
}

#[tokio::test]
async fn the_snapshotters_of_orlop() {
    let daemon = Daemon::orlop().start();
    for name in ["overlayfs", "native"] {
        testkit::snapshotter(rpc::snapshotter::connect(socket::connect(daemon.address()), name)).await;
    }
}

#[tokio::test]
async fn the_snapshotter_of_debians_containerd() {
    let daemon = Daemon::containerd().start();
    // Not "native": that of 1.6 looks for the files of a view it is to commit, and has no code for not finding them.
    testkit::snapshotter(rpc::snapshotter::connect(
        socket::connect(daemon.address()),
        "overlayfs",
    ))
    .await;
}

#[tokio::test]
async fn libraries_served_on_sockets() {
    for name in ["overlayfs", "native"] {
        let directory = tempfile::tempdir().unwrap();
        let address = directory.path().join("plugin.sock");
        let mut server = Command::new(built("orlopd"))
            .args(["plugin", "serve", "--socket"])
            .arg(&address)
            .arg("--data")
            .arg(directory.path().join("data"))
            .arg(build_directory().join(format!("liborlop_snapshotter_{name}.so")))
            .spawn()
            .unwrap();
        eventually("the library is served", || {
            std::os::unix::net::UnixStream::connect(&address).is_ok()
        });
        let suite = tokio::spawn(testkit::snapshotter(rpc::snapshotter::connect(
            socket::connect(&address),
            name,
        )));
        let outcome = suite.await;
        server.kill().unwrap();
        server.wait().unwrap();
        outcome.unwrap();
    }
}
