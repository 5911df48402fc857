//! What registries and networks do wrong.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use containerd_client::types::transfer::{AuthResponse, AuthType, RegistryResolver};
use hyper_util::client::proxy::matcher::Matcher;
use orlop_plugin::contract::{Code, Digest};

use super::here;
use crate::fixture::{Daemon, HttpServer, Reply, Seen, TestImage};
use crate::oci::{digest_of, media_type};

/// A registry's answer from the blobs of `image`, whatever the repository and the tag.
pub(super) fn serve(image: &TestImage, seen: &Seen) -> Reply {
    let (_, wanted) = path_of(seen).rsplit_once('/').expect("a path");
    if seen.path.contains("/manifests/") {
        return Reply::new(200, image.manifest.clone())
            .with("content-type", media_type::MANIFEST)
            .with("docker-content-digest", image.manifest_digest().to_string());
    }
    let blobs = [&image.config].into_iter().chain(&image.layers);
    let Some(blob) = blobs.into_iter().find(|blob| digest_of(blob).as_str() == wanted) else {
        return Reply::new(
            404,
            r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#,
        );
    };
    match range_of(seen) {
        Some(from) => Reply::new(206, &blob[from..]).with(
            "content-range",
            format!("bytes {from}-{}/{}", blob.len() - 1, blob.len()),
        ),
        None => Reply::new(200, blob.clone()),
    }
}

fn range_of(seen: &Seen) -> Option<usize> {
    let range = seen.header("range")?.strip_prefix("bytes=")?;
    range.trim_end_matches('-').parse().ok()
}

fn asks_for(seen: &Seen, digest: &Digest) -> bool {
    path_of(seen).ends_with(digest.as_str())
}

/// Without the query, in which mirrors are told whose names they are asked for.
fn path_of(seen: &Seen) -> &str {
    seen.path.split('?').next().unwrap_or_default()
}

/// A server whose answers for the first layer of `image` are made by `fault` from the right one, given how many came before.
async fn faulty(image: &TestImage, fault: impl Fn(usize, &Seen, Reply) -> Reply + Send + Sync + 'static) -> HttpServer {
    let (image, layer, count) = (image.clone(), image.layer_digests().remove(0), AtomicUsize::new(0));
    HttpServer::start(move |seen| {
        let reply = serve(&image, seen);
        if asks_for(seen, &layer) {
            fault(count.fetch_add(1, Ordering::Relaxed), seen, reply)
        } else {
            reply
        }
    })
    .await
}

fn image() -> TestImage {
    TestImage::new(&here(), &["one", "two"])
}

#[tokio::test]
async fn a_download_that_breaks_off_is_resumed_where_it_broke() {
    for honours_ranges in [true, false] {
        let image = image();
        let whole = image.layers[0].clone();
        let server = faulty(&image, move |nth, seen, reply| match nth {
            0 => Reply {
                only: Some(40),
                ..reply
            },
            1 if honours_ranges => Reply { only: Some(5), ..reply },
            _ if !honours_ranges => {
                assert!(seen.header("range").is_some());
                Reply::new(200, whole.clone())
            }
            _ => reply,
        })
        .await;
        let daemon = Daemon::new();
        daemon
            .pull(&format!("{}/app:v1", server.address))
            .await
            .expect("pulled in the end");
        assert_eq!(
            daemon.content.bytes(&image.layer_digests()[0]).as_ref(),
            Some(&image.layers[0])
        );
        let seen = server.seen();
        let ranges: Vec<_> = seen
            .iter()
            .filter(|seen| asks_for(seen, &image.layer_digests()[0]))
            .map(range_of)
            .collect();
        let expected: &[_] = if honours_ranges {
            &[None, Some(40), Some(45)]
        } else {
            &[None, Some(40)]
        };
        assert_eq!(ranges, expected);
        daemon.assert_tidy();
    }
}

#[tokio::test]
async fn a_later_pull_goes_on_where_an_earlier_one_failed() {
    let image = image();
    let server = faulty(&image, |nth, _, reply| {
        if nth == 0 {
            Reply {
                only: Some(40),
                ..reply
            }
        } else {
            Reply::new(403, "")
        }
    })
    .await;
    let daemon = Daemon::new();
    let error = daemon
        .pull(&format!("{}/app:v1", server.address))
        .await
        .expect_err("refused");
    assert_eq!(error.code, Code::PermissionDenied, "{error}");
    let layer = image.layer_digests()[0].clone();
    assert_eq!(daemon.content.ingests(), [format!("layer-{layer}")]);
    let server = faulty(&image, |_, _, reply| reply).await;
    daemon
        .pull(&format!("{}/app:v1", server.address))
        .await
        .expect("pulled");
    let seen = server.seen();
    let seen = seen.iter().find(|seen| asks_for(seen, &layer)).expect("asked");
    assert_eq!(range_of(seen), Some(40));
    daemon.assert_tidy();
}

/// That a pull whose first layer is spoilt by `fault` fails with `code` and a message with `why`, and leaves no image.
async fn fails(code: Code, why: &str, fault: impl Fn(usize, &Seen, Reply) -> Reply + Send + Sync + 'static) {
    let image = image();
    let server = faulty(&image, fault).await;
    let daemon = Daemon::new();
    let error = daemon.pull(&format!("{}/app:v1", server.address)).await.expect_err(why);
    assert_eq!(error.code, code, "{error}");
    assert!(error.message.contains(why), "{error}");
    assert!(
        error.message.contains(image.layer_digests()[0].as_str()),
        "it names the blob: {error}"
    );
    assert_eq!(daemon.images.names(), [] as [&str; 0]);
    assert_eq!(daemon.leases.open(), [] as [&str; 0]);
    assert_eq!(daemon.snapshots.active(), [] as [&str; 0]);
}

#[tokio::test]
async fn blobs_that_are_not_what_they_should_be() {
    fails(Code::FailedPrecondition, "digest", |_, _, mut reply| {
        reply.body[20] ^= 1;
        reply
    })
    .await;
    fails(Code::FailedPrecondition, "more than", |_, _, mut reply| {
        reply.body.push(0);
        reply
    })
    .await;
    fails(Code::Unavailable, "of ", |_, _, mut reply| {
        // A short body that looks whole.
        reply.body.truncate(30);
        if reply.status == 206 {
            reply.body.clear();
        }
        reply
    })
    .await;
    fails(Code::Unavailable, "broke off", |_, _, reply| Reply {
        only: Some(0),
        ..reply
    })
    .await;
    fails(Code::NotFound, "404", |_, _, _| Reply::new(404, "")).await;
    fails(Code::Unavailable, "503", |_, _, _| Reply::new(503, "")).await;
    fails(Code::ResourceExhausted, "in 21600 s", |nth, _, _| {
        assert_eq!(nth, 0, "it is not asked again");
        Reply::new(429, "").with("retry-after", "21600")
    })
    .await;
}

#[tokio::test]
async fn a_registry_that_falls_silent_is_given_up() {
    let begin = Instant::now();
    fails(Code::DeadlineExceeded, "sent nothing", |_, _, reply| Reply {
        only: Some(0),
        stalls: true,
        ..reply
    })
    .await;
    assert!(begin.elapsed().as_secs() < 10);
}

#[tokio::test]
async fn failures_that_pass_are_waited_out() {
    let image = image();
    let server = faulty(&image, |nth, _, reply| match nth {
        0 => Reply::new(503, ""),
        1 => Reply::new(429, "").with("retry-after", "1"),
        2 => Reply {
            only: Some(0),
            ..Reply::new(0, "")
        },
        _ => reply,
    })
    .await;
    let daemon = Daemon::new();
    let begin = Instant::now();
    daemon
        .pull(&format!("{}/app:v1", server.address))
        .await
        .expect("pulled in the end");
    assert!(
        begin.elapsed().as_millis() >= 1000,
        "the second that the registry asked for"
    );
    daemon.assert_tidy();
}

#[tokio::test]
async fn redirects_lead_elsewhere_without_what_is_secret() {
    let image = image();
    let blobs = image.clone();
    let elsewhere = HttpServer::start(move |seen| serve(&blobs, seen)).await;
    let (served, target) = (image.clone(), elsewhere.address.clone());
    let server = HttpServer::start(move |seen| {
        if seen.header("authorization").is_none() {
            return Reply::new(401, "").with("www-authenticate", "Basic realm=\"x\"");
        }
        if seen.path.contains("/blobs/") {
            return Reply::new(307, "").with("location", format!("http://{target}/elsewhere{}", seen.path));
        }
        serve(&served, seen)
    })
    .await;
    let daemon = Daemon::new();
    let answer = AuthResponse {
        auth_type: AuthType::Credentials.into(),
        username: "me".to_owned(),
        secret: "secret".to_owned(),
        ..Default::default()
    };
    let asked = daemon
        .streaming
        .answer(&crate::fixture::ctx(), "credentials", answer)
        .await;
    let resolver = RegistryResolver {
        auth_stream: "credentials".to_owned(),
        headers: [("x-note".to_owned(), "hello".to_owned())].into(),
        ..Default::default()
    };
    let name = format!("{}/app:v1", server.address);
    daemon
        .pull_with(&daemon.plugin(), &name, resolver)
        .await
        .expect("pulled");
    asked.await.expect("asked");
    assert_eq!(elsewhere.seen().len(), 3);
    assert!(
        elsewhere
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
    assert!(server.seen().iter().all(|seen| seen.header("x-note") == Some("hello")));
    daemon.assert_tidy();
}

#[tokio::test]
async fn redirects_that_are_not_followed() {
    for (location, why) in [
        ("ftp://example.com/x", "neither http nor https"),
        ("file:///etc/passwd", "neither http nor https"),
        ("/v2/app/blobs/round", "more than 10 times"),
    ] {
        let image = image();
        let server = HttpServer::start(move |seen| {
            if seen.path.contains("/blobs/") {
                Reply::new(302, "").with("location", location)
            } else {
                serve(&image, seen)
            }
        })
        .await;
        let daemon = Daemon::new();
        let error = daemon
            .pull(&format!("{}/app:v1", server.address))
            .await
            .expect_err(location);
        assert!(error.message.contains(why), "{error}");
        assert_eq!(error.code, Code::FailedPrecondition);
        let rounds = server
            .seen()
            .iter()
            .filter(|seen| seen.path.ends_with("/round"))
            .count();
        assert!(rounds <= 10, "{rounds}");
    }
}

#[tokio::test]
async fn hosts_that_are_not_there() {
    let daemon = Daemon::new();
    let error = daemon.pull("registry.invalid/app:v1").await.expect_err("no such host");
    assert!(
        error.message.contains("registry.invalid") && error.message.contains("resolve"),
        "{error}"
    );
    assert_eq!(error.code, Code::Unavailable);
    let error = daemon.pull("127.0.0.1:1/app:v1").await.expect_err("nobody listens");
    assert!(error.message.contains("refused"), "{error}");
    daemon.assert_tidy();
}

// The server blocks a thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_layer_is_unpacked_while_the_next_is_fetched() {
    let image = image();
    let daemon = Daemon::new();
    let order: Arc<Mutex<Vec<usize>>> = Arc::default();
    let (served, snapshots, held) = (image.clone(), daemon.snapshots.clone(), order.clone());
    // The second layer does not come before the first is unpacked.
    let server = HttpServer::start(move |seen| {
        let reply = serve(&served, seen);
        if asks_for(seen, &served.layer_digests()[1]) {
            let begin = Instant::now();
            while snapshots.applied().is_empty() && begin.elapsed().as_millis() < 400 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            held.lock().unwrap().push(snapshots.applied().len());
        }
        reply
    })
    .await;
    let name = format!("{}/app:v1", server.address);
    daemon.pull(&name).await.expect("pulled");
    assert_eq!(*order.lock().unwrap(), [1]);
    assert_eq!(daemon.snapshots.applied(), image.layer_digests());
    daemon.assert_tidy();
}

#[tokio::test]
async fn a_registry_need_not_describe_what_it_has() {
    let image = image();
    let served = image.clone();
    let server = HttpServer::start(move |seen| {
        let mut reply = serve(&served, seen);
        if seen.path.contains("/manifests/") {
            if seen.method == "HEAD" {
                return Reply::new(405, "");
            }
            reply.headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        }
        reply
    })
    .await;
    let daemon = Daemon::new();
    let name = format!("{}/app:v1", server.address);
    daemon.pull(&name).await.expect("pulled");
    assert_eq!(daemon.images.image(&name).target.digest, image.manifest_digest());
    let other = format!("{}/app@{}", server.address, image.config_digest());
    let error = daemon.pull(&other).await.expect_err("another digest");
    assert!(error.message.contains("in the place of"), "{error}");
    daemon.assert_tidy();
}

#[tokio::test]
async fn a_proxy_is_asked_for_what_is_elsewhere() {
    let image = image();
    let served = image.clone();
    let proxy = HttpServer::start(move |seen| serve(&served, seen)).await;
    let daemon = Daemon::new();
    let mut plugin = daemon.plugin();
    let proxies = Matcher::builder()
        .all(format!("http://me:pw@{}", proxy.address))
        .no("direct.invalid");
    plugin.network.proxies = Arc::new(proxies.build());
    let plain = RegistryResolver {
        default_scheme: "http".to_owned(),
        ..RegistryResolver::default()
    };
    let name = "registry.invalid/app:v1";
    daemon.pull_with(&plugin, name, plain.clone()).await.expect("pulled");
    assert_eq!(daemon.images.image(name).target.digest, image.manifest_digest());
    assert_eq!(proxy.seen()[0].path, "http://registry.invalid/v2/app/manifests/v1");
    assert!(
        proxy
            .seen()
            .iter()
            .all(|seen| seen.header("proxy-authorization") == Some("Basic bWU6cHc="))
    );
    // Neither this machine nor what is excepted.
    let before = proxy.seen().len();
    daemon
        .pull_with(&plugin, "127.0.0.1:1/app:v1", plain.clone())
        .await
        .expect_err("nobody listens");
    daemon
        .pull_with(&plugin, "direct.invalid/app:v1", plain)
        .await
        .expect_err("no such host");
    assert_eq!(proxy.seen().len(), before);
    daemon.assert_tidy();
}

#[tokio::test]
async fn where_a_mirror_breaks_off_the_next_host_goes_on() {
    let image = image();
    let mirror = faulty(&image, |nth, _, reply| Reply {
        only: Some(if nth == 0 { 40 } else { 0 }),
        ..reply
    })
    .await;
    let origin = faulty(&image, |_, _, reply| reply).await;
    let hosts = tempfile::tempdir().expect("a directory");
    let folder = hosts.path().join("_default");
    std::fs::create_dir(&folder).expect("made");
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n",
        origin.address, mirror.address
    );
    std::fs::write(folder.join("hosts.toml"), text).expect("written");
    let daemon = Daemon::new();
    let plugin = daemon.plugin_with(&hosts.path().display().to_string());
    daemon
        .pull_with(&plugin, "registry.invalid/app:v1", RegistryResolver::default())
        .await
        .expect("pulled");
    let layer = image.layer_digests()[0].clone();
    assert_eq!(daemon.content.bytes(&layer).as_ref(), Some(&image.layers[0]));
    let asked: Vec<_> = origin.seen();
    assert_eq!(asked.len(), 1, "the rest came from the mirror");
    assert!(asks_for(&asked[0], &layer) && range_of(&asked[0]) == Some(40));
    assert!(asked[0].path.ends_with("?ns=registry.invalid"), "{}", asked[0].path);
    daemon.assert_tidy();
}
