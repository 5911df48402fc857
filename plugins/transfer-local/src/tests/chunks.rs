//! Pushes in pieces, and what becomes of them when they break off.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use containerd_client::to_any;
use containerd_client::types::transfer::{ImageStore, OciRegistry};
use orlop_plugin::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::here;
use super::registry::having;
use crate::fixture::{Daemon, HttpServer, RegistryServer, Reply, Seen, TestImage, gzip, tar_of};
use crate::oci::digest_of;
use crate::registry::Chunks;

const CHUNK: u64 = 1000;

/// An image whose one layer has several pieces.
fn image() -> TestImage {
    let mut seed = 7_u32;
    let noise: String = (0..4000)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'!' + (seed >> 24) as u8 % 90)
        })
        .collect();
    let plain = tar_of(&[("noise", noise)]);
    let mut image = TestImage::new(&here(), &["one"]);
    let text = String::from_utf8(image.config.clone()).unwrap();
    let old_config = image.config_digest().to_string();
    let old_layer = (image.layer_digests()[0].to_string(), image.layers[0].len());
    image.config = text
        .replace(digest_of(&image.plain[0]).as_str(), digest_of(&plain).as_str())
        .into_bytes();
    image.layers = vec![gzip(&plain)];
    image.plain = vec![plain];
    let manifest = String::from_utf8(image.manifest.clone()).unwrap();
    let manifest = manifest
        .replace(&old_config, image.config_digest().as_str())
        .replace(&old_layer.0, image.layer_digests()[0].as_str())
        .replace(
            &format!("\"size\":{}", old_layer.1),
            &format!("\"size\":{}", image.layers[0].len()),
        );
    image.manifest = manifest.into_bytes();
    assert!(image.layers[0].len() as u64 > 3 * CHUNK);
    image
}

async fn push(daemon: &Daemon, name: &str) -> Result<()> {
    let mut plugin = daemon.plugin();
    plugin.network.chunks = Chunks {
        from: CHUNK,
        size: CHUNK,
    };
    let store = ImageStore {
        name: "app:v1".to_owned(),
        ..ImageStore::default()
    };
    let registry = OciRegistry {
        reference: name.to_owned(),
        resolver: None,
    };
    daemon
        .remote(&plugin, to_any(&store), to_any(&registry))
        .await
        .map(drop)
}

/// What a registry has: uploads by their path, and how many there were.
#[derive(Default)]
struct Uploads {
    open: BTreeMap<String, Vec<u8>>,
    begun: usize,
    stored: Vec<Vec<u8>>,
}

// === impl Uploads ===

impl Uploads {
    /// Answers as the specification has it, and strictly.
    fn answer(&mut self, seen: &Seen) -> Reply {
        let path = seen.path.split('?').next().unwrap().to_owned();
        match seen.method.as_str() {
            "HEAD" => return Reply::new(404, ""),
            "POST" => {
                self.begun += 1;
                let location = format!("/upload/{}", self.begun);
                self.open.insert(location.clone(), Vec::new());
                return Reply::new(202, "").with("location", location);
            }
            "PUT" if path.contains("/manifests/") => return Reply::new(201, ""),
            _ => {}
        }
        let Some(upload) = self.open.get_mut(&path) else {
            return Reply::new(404, "");
        };
        if let Some(range) = seen.header("content-range") {
            let (begin, end) = range.split_once('-').unwrap();
            let (begin, end): (usize, usize) = (begin.parse().unwrap(), end.parse().unwrap());
            assert_eq!(end + 1 - begin, seen.body.len());
            if begin != upload.len() {
                return Reply::new(416, "").with("range", format!("0-{}", upload.len().saturating_sub(1)));
            }
        }
        upload.extend_from_slice(&seen.body);
        if seen.method == "PUT" {
            let blob = self.open.remove(&path).unwrap();
            let digest = digest_of(&blob).to_string();
            assert!(
                seen.path.ends_with(&digest.replace(':', "%3A")),
                "{} of {digest}",
                seen.path
            );
            self.stored.push(blob);
            return Reply::new(201, "").with("docker-content-digest", digest);
        }
        let status = if seen.method == "GET" { 204 } else { 202 };
        Reply::new(status, "")
            .with("location", path)
            .with("range", format!("0-{}", upload.len().saturating_sub(1)))
    }
}

fn broken() -> Reply {
    Reply {
        only: Some(0),
        body: vec![0],
        ..Reply::new(0, "")
    }
}

fn patches(server: &HttpServer) -> Vec<String> {
    let patches = server.seen().into_iter().filter(|seen| seen.method == "PATCH");
    patches
        .map(|seen| seen.header("content-range").expect("a range").to_owned())
        .collect()
}

#[tokio::test]
async fn an_upload_that_breaks_off_goes_on_where_the_registry_is() {
    let (image, uploads, count) = (image(), Arc::new(Mutex::new(Uploads::default())), AtomicUsize::new(0));
    let registry = uploads.clone();
    let server = HttpServer::start(move |seen| {
        let mut uploads = registry.lock().unwrap();
        // Of the second piece a part arrives, of the third all, but not its answer.
        match (
            seen.method.as_str(),
            count.fetch_add(usize::from(seen.method == "PATCH"), Ordering::Relaxed),
        ) {
            ("PATCH", 1) => {
                let mut part = seen.clone();
                part.body.truncate(300);
                part.headers.retain(|(name, _)| name != "content-range");
                uploads.answer(&part);
                broken()
            }
            ("PATCH", 2) => {
                uploads.answer(seen);
                broken()
            }
            _ => uploads.answer(seen),
        }
    })
    .await;
    push(&having(&image).await, &format!("{}/app:v1", server.address))
        .await
        .expect("pushed");
    let uploads = uploads.lock().unwrap();
    assert!(uploads.stored.contains(&image.layers[0]) && uploads.stored.contains(&image.config));
    assert_eq!(uploads.begun, 2, "one for each blob");
    assert_eq!(patches(&server)[..4], ["0-999", "1000-1999", "1300-2299", "2300-3299"]);
}

#[tokio::test]
async fn an_upload_that_is_gone_is_begun_anew() {
    let (image, uploads, count) = (image(), Arc::new(Mutex::new(Uploads::default())), AtomicUsize::new(0));
    let registry = uploads.clone();
    let server = HttpServer::start(move |seen| {
        let mut uploads = registry.lock().unwrap();
        if seen.method == "PATCH" && count.fetch_add(1, Ordering::Relaxed) == 1 {
            uploads.open.clear();
            return broken();
        }
        uploads.answer(seen)
    })
    .await;
    push(&having(&image).await, &format!("{}/app:v1", server.address))
        .await
        .expect("pushed");
    let uploads = uploads.lock().unwrap();
    assert!(uploads.stored.contains(&image.layers[0]));
    assert_eq!(patches(&server)[..4], ["0-999", "1000-1999", "0-999", "1000-1999"]);
}

#[tokio::test]
async fn a_registry_that_takes_no_pieces_gets_the_blob_whole() {
    let (image, uploads) = (image(), Arc::new(Mutex::new(Uploads::default())));
    let registry = uploads.clone();
    let server = HttpServer::start(move |seen| match seen.method.as_str() {
        "PATCH" => Reply::new(405, ""),
        _ => registry.lock().unwrap().answer(seen),
    })
    .await;
    push(&having(&image).await, &format!("{}/app:v1", server.address))
        .await
        .expect("pushed");
    assert!(uploads.lock().unwrap().stored.contains(&image.layers[0]));
    assert_eq!(patches(&server), ["0-999"]);
}

#[tokio::test]
async fn a_refusal_in_the_middle_is_told() {
    let (image, uploads, count) = (image(), Arc::new(Mutex::new(Uploads::default())), AtomicUsize::new(0));
    let server = HttpServer::start(move |seen| {
        if seen.method == "PATCH" && count.fetch_add(1, Ordering::Relaxed) == 1 {
            return Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"quota"}]}"#);
        }
        uploads.lock().unwrap().answer(seen)
    })
    .await;
    let error = push(&having(&image).await, &format!("{}/app:v1", server.address))
        .await
        .expect_err("refused");
    assert!(error.message.contains("DENIED: quota"), "{error}");
    assert_eq!(patches(&server).len(), 2);
}

/// Forwards connections to `target`; the first `cuts` of those that carry so much are cut there.
async fn cutting_proxy(target: String, cuts: usize, after: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let left = Arc::new(AtomicUsize::new(cuts));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(forward(client, target.clone(), left.clone(), after));
        }
    });
    format!("localhost:{}", address.port())
}

async fn forward(client: TcpStream, target: String, left: Arc<AtomicUsize>, after: usize) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let back = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    });
    let (mut piece, mut total) = ([0; 256], 0);
    while let Ok(length @ 1..) = from_client.read(&mut piece).await {
        total += length;
        let one_less = |left: usize| left.checked_sub(1);
        if total > after
            && left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok()
        {
            back.abort();
            return;
        }
        if to_server.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
    drop(to_server);
    let _ = back.await;
}

#[tokio::test]
async fn debians_registry_takes_pieces_and_survives_cut_connections() {
    let image = image();
    for cuts in [0, 2] {
        let registry = RegistryServer::start();
        let proxy = cutting_proxy(registry.address.clone(), cuts, 3000).await;
        push(&having(&image).await, &format!("{proxy}/a/app:v1"))
            .await
            .expect("pushed");
        let daemon = Daemon::new();
        daemon
            .pull(&format!("{}/a/app:v1", registry.address))
            .await
            .expect("pulled");
        assert_eq!(
            daemon.content.bytes(&image.layer_digests()[0]).as_ref(),
            Some(&image.layers[0])
        );
    }
}
