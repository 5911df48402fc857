//! Registries with TLS: whom they are believed, and through a proxy.

use std::sync::{Arc, Mutex};

use containerd_client::types::transfer::RegistryResolver;
use hyper_util::client::proxy::matcher::Matcher;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::here;
use super::registry::{having, resolver};
use crate::fixture::{Daemon, RegistryServer, TestImage, certificate_authority, self_signed};

#[tokio::test]
async fn a_registry_with_tls() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    certificate_authority(directory.path());
    let image = TestImage::new(&here(), &["one"]);
    let source = having(&image).await;
    for mutual in [false, true] {
        let ca = path("ca.pem");
        let registry =
            RegistryServer::with_tls(&path("server.pem"), &path("server.key"), mutual.then_some(ca.as_path()));
        let name = format!("{}/app:v1", registry.address);
        let hosts = path(if mutual { "mutual" } else { "one-sided" });
        let with = |text: String| {
            let folder = hosts.join(registry.address.replace(':', "_") + "_");
            std::fs::create_dir_all(&folder).expect("made");
            std::fs::write(folder.join("hosts.toml"), text).expect("written");
            RegistryResolver {
                host_dir: hosts.display().to_string(),
                ..resolver()
            }
        };
        let server = format!("server = \"https://{}\"\n", registry.address);
        let client = if mutual {
            "client = [[\"../../client.pem\", \"../../client.key\"]]\n"
        } else {
            ""
        };
        let trusting = with(format!("{server}ca = \"../../ca.pem\"\n{client}"));
        source.push("app:v1", &name, trusting.clone()).await.expect("pushed");
        let daemon = Daemon::new();
        let pulled = daemon.pull_with(&daemon.plugin(), &name, trusting).await;
        pulled.expect("pulled");
        assert_eq!(daemon.images.image(&name).target.digest, image.manifest_digest());

        let distrusting = with(format!("{server}{client}"));
        let error = daemon
            .pull_with(&daemon.plugin(), &name, distrusting)
            .await
            .expect_err("an unknown authority");
        assert!(
            error.message.contains("UnknownIssuer") && error.message.contains("hosts.toml"),
            "{error}"
        );
        let careless = with(format!("{server}skip_verify = true\n{client}"));
        daemon
            .pull_with(&daemon.plugin(), &name, careless)
            .await
            .expect("any certificate will do");
        if mutual {
            let unknown = with(format!("{server}ca = \"../../ca.pem\"\n"));
            daemon
                .pull_with(&daemon.plugin(), &name, unknown)
                .await
                .expect_err("it wants to know who we are");
        } else {
            // On this machine, TLS is tried first and no certificate is asked for.
            daemon.pull(&name).await.expect("pulled");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_its_own_authority() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let image = TestImage::new(&here(), &["one"]);
    for (host, fits) in [("localhost", true), ("elsewhere.example", false)] {
        self_signed(directory.path(), "self", host);
        self_signed(directory.path(), "other", host);
        let registry = RegistryServer::with_tls(&path("self.pem"), &path("self.key"), None);
        let name = format!("{}/app:v1", registry.address);
        having(&image)
            .await
            .push("app:v1", &name, resolver())
            .await
            .expect("pushed, unverified on this machine");
        let folder = path("_default");
        std::fs::create_dir_all(&folder).expect("made");
        let trusting = |ca: &str| {
            let text = format!("server = \"https://{}\"\nca = \"../{ca}\"\n", registry.address);
            std::fs::write(folder.join("hosts.toml"), text).expect("written");
            RegistryResolver {
                host_dir: directory.path().display().to_string(),
                ..resolver()
            }
        };
        let daemon = Daemon::new();
        let pulled = daemon.pull_with(&daemon.plugin(), &name, trusting("self.pem")).await;
        assert_eq!(pulled.is_ok(), fits, "{pulled:?}");
        if let Err(error) = pulled {
            assert!(error.message.contains("not valid for"), "{error}");
        }
        daemon
            .pull_with(&daemon.plugin(), &name, trusting("other.pem"))
            .await
            .expect_err("another certificate");
    }
}

#[tokio::test]
async fn tls_goes_through_a_proxys_tunnel() {
    let directory = tempfile::tempdir().expect("a directory");
    certificate_authority(directory.path());
    let path = |name: &str| directory.path().join(name);
    let registry = RegistryServer::with_tls(&path("server.pem"), &path("server.key"), None);
    let image = TestImage::new(&here(), &["one"]);
    let local = format!("{}/app:v1", registry.address);
    having(&image)
        .await
        .push("app:v1", &local, resolver())
        .await
        .expect("pushed");
    let (proxy, tunnelled) = tunnel_to(registry.address.clone()).await;

    let folder = directory.path().join("registry.invalid");
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(
        folder.join("hosts.toml"),
        "server = \"https://registry.invalid\"\nskip_verify = true\n",
    )
    .expect("written");
    let daemon = Daemon::new();
    let mut plugin = daemon.plugin_with(&directory.path().display().to_string());
    plugin.network.proxies = Arc::new(Matcher::builder().https(format!("http://{proxy}")).build());
    daemon
        .pull_with(&plugin, "registry.invalid/app:v1", resolver())
        .await
        .expect("pulled");
    let image_there = daemon.images.image("registry.invalid/app:v1");
    assert_eq!(image_there.target.digest, image.manifest_digest());
    assert!(
        tunnelled
            .lock()
            .unwrap()
            .iter()
            .all(|line| line == "CONNECT registry.invalid:443 HTTP/1.1")
    );
    assert!(!tunnelled.lock().unwrap().is_empty());
}

/// A proxy that leads wherever one wants to go to `address`; with the first lines of what it was asked.
async fn tunnel_to(address: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = listener.local_addr().expect("an address").to_string();
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = lines.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let mut client = BufReader::new(client);
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                client.read_line(&mut line).await.expect("a line");
                if line.trim().is_empty() {
                    break;
                }
                head.push(line.trim().to_owned());
            }
            log.lock().unwrap().push(head.remove(0));
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("answered");
            let mut server = TcpStream::connect(&address).await.expect("connected");
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
    (proxy, lines)
}
