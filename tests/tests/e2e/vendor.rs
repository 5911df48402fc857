//! A snapshotter written outside the workspace, reached in the two ways that a vendor has.

use std::process::{Child, Command};

use orlop_tests::command::eventually;
use orlop_tests::image::{BUSYBOX, busybox};
use orlop_tests::{Daemon, build_directory, built, repository};

fn example(name: &str) -> std::path::PathBuf {
    let path = repository().join("target/example/debug").join(name);
    assert!(path.exists(), "{} was not built: `scripts/test` does", path.display());
    path
}

#[test]
fn the_example_is_loaded_from_plugin_dir_and_runs_a_container() {
    let builder = Daemon::orlop();
    let plugins = builder.directory().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    for entry in std::fs::read_dir(build_directory()).unwrap().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "so") {
            std::fs::copy(entry.path(), plugins.join(entry.file_name())).unwrap();
        }
    }
    std::fs::copy(
        example("libacme_snapshotter.so"),
        plugins.join("libacme_snapshotter.so"),
    )
    .unwrap();
    let daemon = builder.config(&format!("plugin_dir = {plugins:?}")).start();
    runs(&daemon);
}

#[test]
fn the_same_code_is_a_proxy_plugin_of_orlop() {
    let builder = Daemon::orlop();
    let (_acme, proxy) = Acme::start(builder.directory());
    runs(&builder.config(&proxy).start());
}

#[test]
fn the_same_code_is_a_proxy_plugin_of_containerd() {
    let builder = Daemon::containerd();
    let (_acme, proxy) = Acme::start(builder.directory());
    runs(&builder.config(&proxy).start());
}

#[test]
fn a_library_is_served_as_a_proxy_plugin() {
    let builder = Daemon::containerd();
    let socket = builder.directory().join("acme.sock");
    let mut served = Command::new(built("orlopd"));
    served
        .args(["plugin", "serve", "--socket"])
        .arg(&socket)
        .arg("--data")
        .arg(builder.directory().join("acme"))
        .arg(example("libacme_snapshotter.so"));
    let (_acme, proxy) = Acme::spawn(&mut served, &socket);
    runs(&builder.config(&proxy).start());
}

#[track_caller]
fn runs(daemon: &Daemon) {
    let archive = busybox(&daemon.path(""), BUSYBOX, daemon.namespace());
    let clients: [fn(&Daemon, &str) -> orlop_tests::Output; 2] = [Daemon::debian_ctr, Daemon::ctr];
    for (number, ctr) in clients.into_iter().enumerate() {
        ctr(
            daemon,
            &format!("images import --snapshotter acme {}", archive.display()),
        )
        .ok();
        let run = format!("run --rm --snapshotter acme {BUSYBOX} t{number} /bin/echo acme");
        assert_eq!(ctr(daemon, &run).ok(), "acme\n");
    }
    assert!(daemon.ctr("snapshots --snapshotter acme ls").ok().contains("Committed"));
    assert!(
        daemon
            .ctr("plugins ls")
            .ok()
            .lines()
            .any(|line| line.contains("acme") && line.contains("ok"))
    );
}

/// The example, serving on a socket.
struct Acme(Child);

impl Acme {
    /// Starts it; returns it with the configuration that names it.
    fn start(directory: &std::path::Path) -> (Self, String) {
        let socket = directory.join("acme.sock");
        let mut acme = Command::new(example("acme-snapshotter"));
        Self::spawn(acme.arg(&socket).arg(directory.join("acme")), &socket)
    }

    fn spawn(command: &mut Command, socket: &std::path::Path) -> (Self, String) {
        let child = command.spawn().unwrap();
        let acme = Self(child);
        eventually("the example listens", || {
            std::os::unix::net::UnixStream::connect(socket).is_ok()
        });
        (
            acme,
            format!("[proxy_plugins.acme]\n  type = \"snapshot\"\n  address = {socket:?}\n"),
        )
    }
}

impl Drop for Acme {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
