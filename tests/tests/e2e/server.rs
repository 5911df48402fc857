//! The daemon as a process: its sockets, its metrics, its logs.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
        Command::new(orlop_tests::built("orlopd"))
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

/// Certificates as `openssl` makes them: an authority, and by it a server for `localhost` and a client.
fn certificates(directory: &Path) {
    let openssl = |line: &str| {
        orlop_tests::command::run(Command::new("openssl").args(line.split(' ')).current_dir(directory)).ok();
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {key} -days 2 -subj /CN=ca -keyout ca.key -out ca.pem"
    ));
    std::fs::write(directory.join("ext"), "subjectAltName=DNS:localhost\n").unwrap();
    for name in ["server", "client"] {
        openssl(&format!(
            "req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out {name}.pem"
        ));
    }
}

/// A unix socket whose first connection is carried to `port` by `openssl s_client` with these `arguments`.
fn through_tls(directory: &Path, port: u16, arguments: &str) -> (PathBuf, std::thread::JoinHandle<String>) {
    let socket = directory.join("through-tls.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let mut command = Command::new("openssl");
    let line = format!(
        "s_client -quiet -no_ign_eof -verify_return_error -alpn h2 -CAfile ca.pem -connect localhost:{port} {arguments}"
    );
    command.args(line.split_whitespace()).current_dir(directory);
    let relay = std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        // ctr tries again; it is to find nobody.
        drop(listener);
        let ends = || Stdio::from(OwnedFd::from(client.try_clone().unwrap()));
        command.stdin(ends()).stdout(ends()).stderr(Stdio::piped());
        let mut tunnel = command.spawn().unwrap();
        drop(command);
        drop(client);
        let mut said = String::new();
        tunnel.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        tunnel.wait().unwrap();
        said
    });
    (socket, relay)
}

#[test]
fn tcp_with_tls_believes_those_whom_its_authority_certified() {
    let builder = Daemon::orlop();
    certificates(builder.directory());
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let path = |name: &str| builder.directory().join(name).display().to_string();
    let tls = builder.directory().join("tls.toml");
    let settings = |cert: &str| {
        let (cert, key, ca) = (path(cert), path("server.key"), path("ca.pem"));
        format!(
            "[grpc]\ntcp_address = 'localhost:{port}'\ntcp_tls_cert = '{cert}'\ntcp_tls_key = '{key}'\ntcp_tls_ca = '{ca}'\n"
        )
    };
    std::fs::write(&tls, settings("server.pem")).unwrap();
    let wrong = settings("client.pem");
    let mut daemon = builder.config(&format!("imports = [{tls:?}]")).start();
    let directory = daemon.path("");
    let version = |socket: &Path| {
        let mut ctr = Command::new(orlop_tests::built("ctr"));
        ctr.args(["--connect-timeout", "2s", "--timeout", "5s", "--address"])
            .arg(socket)
            .arg("version");
        orlop_tests::command::run(&mut ctr)
    };

    let (socket, relay) = through_tls(&directory, port, "-cert client.pem -key client.key");
    assert!(version(&socket).ok().contains("UUID"));
    relay.join().unwrap();
    // Nobody, and somebody whom another authority certified.
    std::fs::create_dir(daemon.path("others")).unwrap();
    certificates(&daemon.path("others"));
    for arguments in ["", "-cert others/client.pem -key others/client.key"] {
        let (socket, relay) = through_tls(&directory, port, arguments);
        version(&socket).fails();
        let said = relay.join().unwrap();
        assert!(
            said.contains("certificate required") || said.contains("unknown ca") || said.contains("alert"),
            "{said}"
        );
    }
    // Its own socket goes on meanwhile.
    daemon.ctr("version").ok();

    daemon.stop();
    std::fs::write(&tls, wrong).unwrap();
    let refused = orlop_tests::command::run(
        Command::new(orlop_tests::built("orlopd"))
            .arg("--config")
            .arg(daemon.path("config.toml")),
    );
    let said = refused.fails();
    assert!(said.contains("tcp_tls_cert") && said.contains("client.pem"), "{said}");
}
