//! The daemon as a process: its sockets, its metrics, its logs.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use orlop_plugin::channel::socket;
use orlop_plugin::contract::{Any, Code, Container, Ctx, Namespace, Runtime};
use orlop_plugin::rpc;
use orlop_tests::Daemon;

fn get(stream: &mut (impl Read + Write), path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn sockets_are_private_and_owned_as_configured() {
    let daemon = Daemon::orlop().start();
    for socket in ["daemon.sock", "daemon.sock.ttrpc"] {
        let metadata = std::fs::metadata(daemon.path(socket)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o660, "{socket}");
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{socket}");
    }
    for directory in ["root", "state"] {
        assert_eq!(
            std::fs::metadata(daemon.path(directory)).unwrap().permissions().mode() & 0o777,
            0o711,
            "{directory}"
        );
    }
}

#[test]
fn metrics_and_the_debug_socket_answer() {
    let builder = Daemon::orlop();
    let debug = builder.directory().join("debug.sock");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let daemon = builder
        .config(&format!(
            "[metrics]\n  address = \"127.0.0.1:{port}\"\n[debug]\n  address = {debug:?}\n"
        ))
        .start();
    daemon.ctr("version").ok();
    let mut metrics = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let text = get(&mut metrics, "/v1/metrics");
    assert!(
        text.starts_with("HTTP/1.1 200") && text.contains("grpc_server_handled_total"),
        "{text}"
    );
    assert!(text.contains("containerd.services.version.v1.Version"), "{text}");
    let text = get(&mut UnixStream::connect(&debug).unwrap(), "/debug/vars");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

#[test]
fn the_uuid_outlives_the_daemon() {
    let mut daemon = Daemon::orlop().start();
    let uuid = |daemon: &Daemon| {
        let version = daemon.debian_ctr("version").ok();
        version.lines().find(|line| line.contains("UUID")).unwrap().to_owned()
    };
    let first = uuid(&daemon);
    daemon.stop();
    daemon.start();
    assert_eq!(uuid(&daemon), first);
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused() {
    let daemon = Daemon::orlop().start();
    let output = orlop_tests::command::run(
        std::process::Command::new(orlop_tests::built("orlopd"))
            .arg("--config")
            .arg(daemon.path("config.toml")),
    );
    assert!(output.fails().contains("in use"));
    daemon.ctr("version").ok();
}

#[tokio::test]
async fn messages_are_as_large_as_the_configuration_says() {
    let builder = Daemon::orlop();
    let limits = builder.directory().join("limits.toml");
    std::fs::write(
        &limits,
        "[grpc]\nmax_recv_message_size = 24576\nmax_send_message_size = 16384\n",
    )
    .unwrap();
    let daemon = builder.config(&format!("imports = [{limits:?}]")).start();
    let containers = rpc::containers::connect(socket::connect(daemon.address()));
    let ctx = Ctx::new(Namespace::new(daemon.namespace()).unwrap());
    let container = |id: &str, size: usize| Container {
        id: id.to_owned(),
        labels: std::collections::BTreeMap::new(),
        image: String::new(),
        runtime: Runtime {
            name: "io.containerd.runc.v2".to_owned(),
            options: None,
        },
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
            value: vec![b' '; size],
        }),
        snapshotter: String::new(),
        snapshot_key: String::new(),
        created: std::time::SystemTime::UNIX_EPOCH,
        updated: std::time::SystemTime::UNIX_EPOCH,
        extensions: std::collections::BTreeMap::new(),
        sandbox: String::new(),
    };
    let refused = containers.create(&ctx, container("large", 25_000)).await.unwrap_err();
    assert_eq!(refused.code, Code::ResourceExhausted, "{refused}");
    assert!(
        containers.get(&ctx, "large").await.is_err(),
        "a refused message had an effect"
    );
    containers.create(&ctx, container("fits", 13_000)).await.unwrap();
    assert_eq!(containers.get(&ctx, "fits").await.unwrap().id, "fits");
    // It may come, but not be sent back.
    let refused = containers.create(&ctx, container("one-way", 17_000)).await.unwrap_err();
    assert_eq!(refused.code, Code::ResourceExhausted, "{refused}");
    assert!(refused.to_string().contains("max_send_message_size"), "{refused}");
}
