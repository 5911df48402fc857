//! What a registry does wrong, or unusually, while it is pushed to.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use containerd_client::types::transfer::{AuthResponse, AuthType, ImageStore, RegistryResolver};
use containerd_client::{to_any, types};
use orlop_plugin::contract::Code;

use super::{here, plain};
use crate::fixture::{Daemon, HttpServer, Reply, Seen, TestImage, ctx, oci_archive, oci_files, tar_of};
use crate::oci::digest_of;

/// A daemon that has an image of one layer as `app:v1`.
async fn source() -> (Daemon, TestImage) {
    let image = TestImage::new(&here(), &["one"]);
    let daemon = Daemon::new();
    daemon.import(&oci_archive(&image), &plain()).await.expect("imported");
    (daemon, image)
}

/// A registry that has nothing and takes everything; what is uploaded goes to `location`.
fn takes(seen: &Seen, location: &str) -> Reply {
    match seen.method.as_str() {
        "HEAD" => Reply::new(404, ""),
        "POST" => Reply::new(202, "").with("location", location),
        _ => Reply::new(201, "").with("docker-content-digest", digest_of(&seen.body).to_string()),
    }
}

fn puts(server: &HttpServer) -> Vec<Seen> {
    let seen = server.seen();
    seen.into_iter().filter(|seen| seen.method == "PUT").collect()
}

#[tokio::test]
async fn children_go_before_parents_and_the_tag_last() {
    let (daemon, image) = source().await;
    let server = HttpServer::start(|seen| takes(seen, "/upload?state=x%3D")).await;
    daemon
        .push(
            "app:v1",
            &format!("{}/app:v1", server.address),
            RegistryResolver::default(),
        )
        .await
        .expect("pushed");
    let puts = puts(&server);
    assert_eq!(puts.len(), 3);
    for (put, bytes) in puts[..2].iter().map(|put| (put, &put.body)) {
        let digest = digest_of(bytes).to_string().replace(':', "%3A");
        assert_eq!(put.path, format!("/upload?state=x%3D&digest={digest}"));
        assert_eq!(put.header("content-type"), Some("application/octet-stream"));
    }
    assert_eq!(
        (puts[2].path.as_str(), &puts[2].body),
        ("/v2/app/manifests/v1", &image.manifest)
    );
    assert_eq!(
        puts[2].header("content-type"),
        Some("application/vnd.oci.image.manifest.v1+json")
    );
}

#[tokio::test]
async fn an_upload_that_fails_for_now_is_begun_anew() {
    let (daemon, image) = source().await;
    let (count, layer) = (AtomicUsize::new(0), image.layers[0].clone());
    let server = HttpServer::start(move |seen| {
        if seen.method == "PUT" && seen.body == layer {
            match count.fetch_add(1, Ordering::Relaxed) {
                0 => return Reply::new(503, ""),
                1 => {
                    return Reply {
                        only: Some(0),
                        body: vec![0],
                        ..Reply::new(0, "")
                    };
                }
                _ => {}
            }
        }
        takes(seen, "/upload")
    })
    .await;
    daemon
        .push(
            "app:v1",
            &format!("{}/app:v1", server.address),
            RegistryResolver::default(),
        )
        .await
        .expect("pushed");
    assert_eq!(
        puts(&server).iter().filter(|put| put.body == image.layers[0]).count(),
        3
    );
    let begun = server.seen().iter().filter(|seen| seen.method == "POST").count();
    assert_eq!(begun, 4, "once for the configuration, three times for the layer");
}

#[tokio::test]
async fn an_upload_elsewhere_does_not_get_the_credentials() {
    let (daemon, image) = source().await;
    let elsewhere = HttpServer::start(|seen| takes(seen, "")).await;
    let location = format!("http://{}/upload", elsewhere.address);
    let server = HttpServer::start(move |seen| {
        if seen.header("authorization").is_none() {
            return Reply::new(401, "").with("www-authenticate", "Basic realm=\"x\"");
        }
        takes(seen, &location)
    })
    .await;
    let answer = AuthResponse {
        auth_type: AuthType::Credentials.into(),
        username: "me".to_owned(),
        secret: "secret".to_owned(),
        ..AuthResponse::default()
    };
    let asked = daemon.streaming.answer(&ctx(), "credentials", answer).await;
    let resolver = RegistryResolver {
        auth_stream: "credentials".to_owned(),
        ..RegistryResolver::default()
    };
    daemon
        .push("app:v1", &format!("{}/app:v1", server.address), resolver)
        .await
        .expect("pushed");
    asked.await.expect("asked");
    assert_eq!(elsewhere.seen().len(), 2);
    assert!(
        elsewhere
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
    assert_eq!(puts(&server)[0].body, image.manifest);
}

#[tokio::test]
async fn what_a_registry_refuses_is_told() {
    for (status, body, code, why) in [
        (413, "", Code::FailedPrecondition, "413"),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"read only"}]}"#,
            Code::PermissionDenied,
            "DENIED: read only",
        ),
        (507, "no space left", Code::Unavailable, "no space left"),
    ] {
        let (daemon, image) = source().await;
        let server = HttpServer::start(move |seen| match seen.method.as_str() {
            "PUT" => Reply::new(status, body),
            _ => takes(seen, "/upload"),
        })
        .await;
        let error = daemon
            .push(
                "app:v1",
                &format!("{}/app:v1", server.address),
                RegistryResolver::default(),
            )
            .await;
        let error = error.expect_err(why);
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(why), "{error}");
        assert!(
            !puts(&server).iter().any(|put| put.body == image.manifest),
            "no manifest without its blobs"
        );
    }
    let (daemon, _) = source().await;
    let server = HttpServer::start(|seen| match seen.method.as_str() {
        "PUT" => Reply::new(201, "").with("docker-content-digest", digest_of(b"another").to_string()),
        _ => takes(seen, "/upload"),
    })
    .await;
    let error = daemon
        .push(
            "app:v1",
            &format!("{}/app:v1", server.address),
            RegistryResolver::default(),
        )
        .await;
    assert!(error.expect_err("another digest").message.contains("in its place"));
}

#[tokio::test]
async fn no_more_blobs_are_sent_at_a_time_than_configured() {
    let words = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let image = TestImage::new(&here(), &words);
    let daemon = Daemon::new();
    daemon.import(&oci_archive(&image), &plain()).await.expect("imported");
    let open: std::sync::Arc<Mutex<(usize, usize)>> = std::sync::Arc::default();
    let counted = open.clone();
    let server = HttpServer::start(move |seen| {
        let mut open = counted.lock().unwrap();
        match seen.method.as_str() {
            "POST" => {
                open.0 += 1;
                open.1 = open.1.max(open.0);
            }
            "PUT" => open.0 = open.0.saturating_sub(1),
            _ => {}
        }
        takes(seen, "/upload")
    })
    .await;
    daemon
        .push(
            "app:v1",
            &format!("{}/app:v1", server.address),
            RegistryResolver::default(),
        )
        .await
        .expect("pushed");
    assert_eq!(puts(&server).len(), words.len() + 2);
    let most = open.lock().unwrap().1;
    assert!((1..=3).contains(&most), "{most} at a time");
}

#[tokio::test]
async fn of_an_index_one_platform_is_pushed_as_its_manifest() {
    let other = if here() == "arm64" { "amd64" } else { "arm64" };
    let (ours, theirs) = (TestImage::new(&here(), &["ours"]), TestImage::new(other, &["theirs"]));
    let daemon = Daemon::new();
    let named = ImageStore {
        name: "multi".to_owned(),
        ..ImageStore::default()
    };
    let archive = tar_of(&oci_files(&[&ours, &theirs], &[ours.entry(None), theirs.entry(None)]));
    daemon.import(&archive, &named).await.expect("imported");
    // As after a pull of one platform.
    daemon.content.remove(&ours.layer_digests()[0]);
    let server = HttpServer::start(|seen| takes(seen, "/upload")).await;
    let push = |architecture: &str| {
        let platform = types::Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            ..types::Platform::default()
        };
        let store = ImageStore {
            platforms: vec![platform],
            ..named.clone()
        };
        let destination = types::transfer::OciRegistry {
            reference: format!("{}/app:v1", server.address),
            resolver: None,
        };
        (to_any(&store), to_any(&destination))
    };
    let (store, destination) = push(other);
    daemon
        .remote(&daemon.plugin(), store, destination)
        .await
        .expect("pushed");
    let last = puts(&server).pop().expect("something was");
    assert_eq!(
        (last.path.as_str(), &last.body),
        ("/v2/app/manifests/v1", &theirs.manifest)
    );
    let (store, destination) = push("s390x");
    let error = daemon
        .remote(&daemon.plugin(), store, destination)
        .await
        .expect_err("no such platform");
    assert!(error.is_not_found() && error.message.contains("linux/s390x"), "{error}");
}
