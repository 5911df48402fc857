//! What is unusual about images: layers that registries may not have, and manifests that refer to others.

use std::io::{Read, Write};
use std::net::TcpStream;

use orlop_plugin::contract::Digest;
use serde_json::{Value, json};

use super::here;
use super::registry::{having, resolver};
use crate::fixture::{Daemon, HttpServer, RegistryServer, Reply, TestImage};
use crate::oci::{digest_of, media_type};

const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// The image with its manifest changed.
fn changed(mut image: TestImage, change: impl FnOnce(&mut Value)) -> TestImage {
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    change(&mut manifest);
    image.manifest = manifest.to_string().into_bytes();
    image
}

/// A registry over one image that has no layers itself.
async fn without_layers(image: &TestImage) -> HttpServer {
    let (manifest, config) = (image.manifest.clone(), image.config.clone());
    HttpServer::start(move |seen| {
        let (kind, body) = match seen.path.split('?').next().unwrap() {
            path if path.contains("/manifests/") => (media_type::MANIFEST, &manifest),
            path if path.ends_with(digest_of(&config).as_str()) => ("application/octet-stream", &config),
            _ => return Reply::new(404, ""),
        };
        Reply::new(200, body.clone())
            .with("content-type", kind)
            .with("docker-content-digest", digest_of(body).to_string())
    })
    .await
}

#[tokio::test]
async fn a_foreign_layer_comes_from_its_urls_and_gets_no_credentials() {
    let image = TestImage::new(&here(), &["one"]);
    let (layer, cut) = (image.layers[0].clone(), image.layers[0].len() / 2);
    let elsewhere = HttpServer::start(move |seen| match seen.header("range") {
        // A challenge that must not be answered.
        _ if seen.path == "/private" => Reply::new(401, "").with("www-authenticate", "Basic realm=\"x\""),
        None => Reply {
            only: Some(cut),
            ..Reply::new(200, layer.clone())
        },
        Some(range) => {
            assert_eq!(range, format!("bytes={cut}-"));
            let content_range = format!("bytes {cut}-{}/{}", layer.len() - 1, layer.len());
            Reply::new(206, &layer[cut..]).with("content-range", content_range)
        }
    })
    .await;
    let urls = [
        "ftp://nowhere/",
        "file:///etc/passwd",
        &format!("http://{}/private", elsewhere.address),
    ];
    let urls: Vec<String> = urls
        .iter()
        .map(ToString::to_string)
        .chain([format!("http://{}/layer", elsewhere.address)])
        .collect();
    let image = changed(image, |manifest| {
        manifest["layers"][0]["mediaType"] = FOREIGN.into();
        manifest["layers"][0]["urls"] = json!(urls);
    });
    let server = without_layers(&image).await;
    let mut with_header = resolver();
    with_header
        .headers
        .insert("authorization".to_owned(), "Bearer secret".to_owned());
    let daemon = Daemon::new();
    let name = format!("{}/app:v1", server.address);
    daemon
        .pull_with(&daemon.plugin(), &name, with_header)
        .await
        .expect("pulled");
    assert_eq!(
        daemon.content.bytes(&image.layer_digests()[0]).as_ref(),
        Some(&image.layers[0])
    );
    daemon.assert_tidy();
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.header("authorization") == Some("Bearer secret"))
    );
    let asked = elsewhere.seen();
    assert!(asked.iter().all(|seen| seen.header("authorization").is_none()));
    assert!(
        asked.iter().filter(|seen| seen.path == "/layer").count() == 2,
        "resumed once: {asked:?}"
    );
}

#[tokio::test]
async fn the_urls_of_other_layers_are_not_followed() {
    let elsewhere = HttpServer::start(|_| Reply::new(200, "x")).await;
    let image = changed(TestImage::new(&here(), &["one"]), |manifest| {
        manifest["layers"][0]["urls"] = json!([format!("http://{}/layer", elsewhere.address)]);
    });
    let server = without_layers(&image).await;
    let daemon = Daemon::new();
    let error = daemon
        .pull(&format!("{}/app:v1", server.address))
        .await
        .expect_err("no layer");
    assert!(error.is_not_found(), "{error}");
    assert!(elsewhere.seen().is_empty());
}

/// An artifact that refers to `subject`.
fn artifact(subject: &TestImage, word: &str) -> TestImage {
    changed(TestImage::new(&here(), &[word]), |manifest| {
        let size = subject.manifest.len();
        manifest["subject"] =
            json!({"mediaType": media_type::MANIFEST, "digest": subject.manifest_digest().to_string(), "size": size});
        manifest["artifactType"] = "application/vnd.example.signature".into();
        manifest["annotations"] = json!({"word": word});
    })
}

/// The list under the tag of `subject`.
fn listed(registry: &RegistryServer, subject: &Digest) -> Value {
    let mut stream = TcpStream::connect(&registry.address).expect("connected");
    let tag = subject.as_str().replace(':', "-");
    write!(
        stream,
        "GET /v2/a/app/manifests/{tag} HTTP/1.0\r\nHost: x\r\nAccept: {}\r\n\r\n",
        media_type::INDEX
    )
    .expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("200 OK"), "{answer}");
    serde_json::from_str(body).expect("JSON")
}

#[tokio::test]
async fn what_refers_to_an_image_is_listed_where_the_registry_keeps_no_list() {
    let (registry, image) = (RegistryServer::start(), TestImage::new(&here(), &["one"]));
    let push = async |image: &TestImage, tag: &str| {
        let name = format!("{}/a/app:{tag}", registry.address);
        having(image)
            .await
            .push("app:v1", &name, resolver())
            .await
            .expect("pushed");
    };
    push(&image, "v1").await;
    let (first, second) = (artifact(&image, "first"), artifact(&image, "second"));
    let entry = |image: &TestImage, word: &str| {
        json!({
            "mediaType": media_type::MANIFEST, "digest": image.manifest_digest().to_string(), "size": image.manifest.len(),
            "annotations": {"word": word}, "artifactType": "application/vnd.example.signature",
        })
    };
    push(&first, "first").await;
    let list = listed(&registry, &image.manifest_digest());
    assert_eq!(list["mediaType"], media_type::INDEX);
    assert_eq!(list["manifests"], json!([entry(&first, "first")]));
    push(&second, "second").await;
    // Under another tag: the manifest is sent once more.
    push(&first, "again").await;
    let list = listed(&registry, &image.manifest_digest());
    assert_eq!(
        list["manifests"],
        json!([entry(&first, "first"), entry(&second, "second")])
    );
}

#[tokio::test]
async fn a_registry_that_notes_the_subject_is_left_alone() {
    let image = TestImage::new(&here(), &["one"]);
    let (artifact, subject) = (artifact(&image, "first"), image.manifest_digest().to_string());
    let server = HttpServer::start(move |seen| match seen.method.as_str() {
        "PUT" if seen.path.contains("/manifests/") => Reply::new(201, "").with("oci-subject", subject.clone()),
        "PUT" => Reply::new(201, ""),
        "POST" => Reply::new(202, "").with("location", "/upload"),
        "HEAD" => Reply::new(404, ""),
        _ => Reply::new(500, ""),
    })
    .await;
    let daemon = having(&artifact).await;
    daemon
        .push("app:v1", &format!("{}/a/app:v1", server.address), resolver())
        .await
        .expect("pushed");
    let manifests = server
        .seen()
        .into_iter()
        .filter(|seen| seen.method == "PUT" && seen.path.contains("/manifests/"));
    assert_eq!(manifests.count(), 1);
}
