//! Archives that must be refused: with the right code, a sentence that helps, and nothing left behind.

use orlop_plugin::Result;
use orlop_plugin::contract::Code;
use serde_json::json;

use super::{here, plain, unpacked};
use crate::content::Content;
use crate::fixture::{Daemon, TestImage, ctx, oci_archive, oci_files, tar_of};
use crate::oci::{Descriptor, digest_of, media_type};
use crate::walk::{Selection, walk};

#[track_caller]
fn check(daemon: &Daemon, done: Result<Vec<String>>, code: Code, says: &str) {
    let error = done.expect_err("must be refused");
    assert!(
        error.code == code && error.message.contains(says),
        "{:?}: {error}",
        error.code
    );
    assert!(daemon.images.names().is_empty());
    daemon.assert_tidy();
}

async fn refused(archive: &[u8], code: Code, says: &str) {
    let daemon = Daemon::new();
    let done = daemon.import(archive, &unpacked()).await;
    check(&daemon, done, code, says);
}

fn image() -> TestImage {
    TestImage::new(&here(), &["one", "two"])
}

fn with(image: &TestImage, change: impl Fn(&mut Vec<(String, Vec<u8>)>)) -> Vec<u8> {
    let mut files = oci_files(&[image], &[image.entry(Some("v1"))]);
    change(&mut files);
    tar_of(&files)
}

#[tokio::test]
async fn no_archive_at_all() {
    refused(b"", Code::InvalidArgument, "no archive of an image").await;
    refused(&[b'x'; 2000], Code::InvalidArgument, "no tar archive").await;
    refused(
        &tar_of(&[("readme", b"hello")]),
        Code::InvalidArgument,
        "no archive of an image",
    )
    .await;
}

#[tokio::test]
async fn an_archive_that_is_cut_off() {
    let archive = oci_archive(&image());
    for part in [600, archive.len() / 2] {
        refused(&archive[..part], Code::InvalidArgument, "cut off").await;
    }
}

#[tokio::test]
async fn a_compressed_archive_that_fails_its_check() {
    let mut archive = crate::fixture::gzip(&oci_archive(&image()));
    let crc = archive.len() - 8;
    archive[crc] ^= 1;
    refused(&archive, Code::InvalidArgument, "damaged or cut off").await;
}

#[tokio::test]
async fn a_blob_that_is_not_what_its_name_says() {
    let image = image();
    let archive = with(&image, |files| files[2].1.push(0));
    refused(&archive, Code::FailedPrecondition, "unexpected digest").await;
}

#[tokio::test]
async fn a_size_that_is_not_what_the_manifest_says() {
    let mut image = image();
    let size = format!("\"size\":{}", image.layers[0].len());
    image.manifest = String::from_utf8(image.manifest)
        .expect("text")
        .replacen(&size, "\"size\":1", 1)
        .into_bytes();
    refused(&oci_archive(&image), Code::FailedPrecondition, "but 1 are said of it").await;
}

#[tokio::test]
async fn blobs_that_are_missing() {
    let image = image();
    for nth in 0..4 {
        let archive = with(&image, |files| {
            files.remove(nth);
        });
        refused(&archive, Code::NotFound, "is not in the content store").await;
    }
    let archive = with(&image, |files| files.retain(|(name, _)| name != "index.json"));
    refused(&archive, Code::InvalidArgument, "without `index.json`").await;
}

#[tokio::test]
async fn a_layer_that_the_configuration_does_not_know() {
    let mut image = image();
    image.layers[1] = crate::fixture::gzip(b"something else");
    let other = TestImage::new(&here(), &["one", "two", "three"]);
    image.manifest = String::from_utf8(image.manifest)
        .expect("text")
        .replace(
            &digest_of(&self::image().layers[1]).to_string(),
            &digest_of(&image.layers[1]).to_string(),
        )
        .replace(
            &format!("\"size\":{}", self::image().layers[1].len()),
            &format!("\"size\":{}", image.layers[1].len()),
        )
        .into_bytes();
    image.config = self::image().config;
    let daemon = Daemon::new();
    let done = daemon.import(&oci_archive(&image), &unpacked()).await;
    // Both layers of the fixture may have the same length; then the first size was changed as well.
    assert!(matches!(done.expect_err("refused").code, Code::FailedPrecondition));
    daemon.assert_tidy();

    let mut image = self::image();
    image.config = other.config;
    image.manifest = other.manifest;
    let text = String::from_utf8(image.manifest.clone()).expect("text");
    let mut manifest: serde_json::Value = serde_json::from_str(&text).expect("json");
    manifest["layers"].as_array_mut().expect("layers").pop();
    image.manifest = manifest.to_string().into_bytes();
    refused(
        &oci_archive(&image),
        Code::InvalidArgument,
        "has 2 layers, but its configuration has 3",
    )
    .await;
}

#[tokio::test]
async fn a_manifest_that_passes_for_an_index() {
    let image = image();
    let mut entry = image.entry(Some("v1"));
    entry["mediaType"] = json!(media_type::INDEX);
    refused(
        &tar_of(&oci_files(&[&image], &[entry])),
        Code::InvalidArgument,
        "parts of a manifest",
    )
    .await;
    let archive = with(&image, |files| {
        let both = json!({"schemaVersion": 2, "manifests": [image.entry(None)], "layers": []});
        files[4].1 = both.to_string().into_bytes();
    });
    refused(&archive, Code::InvalidArgument, "parts of a manifest").await;
}

#[tokio::test]
async fn documents_larger_than_any_document() {
    let mut image = image();
    image.manifest.extend(std::iter::repeat_n(b' ', 8 << 20));
    refused(
        &oci_archive(&image),
        Code::InvalidArgument,
        "a document of an image may have",
    )
    .await;
    let mut lying = self::image().entry(Some("v1"));
    lying["size"] = json!(1_u64 << 40);
    refused(
        &tar_of(&oci_files(&[&self::image()], &[lying])),
        Code::InvalidArgument,
        "a document of an image",
    )
    .await;
}

#[tokio::test]
async fn names_that_lead_outside() {
    let archive = with(&image(), |files| files.push(("x".to_owned(), Vec::new())));
    // The tar crate refuses to write such a name, so it is patched in.
    let mut archive = archive;
    let at = (0..archive.len())
        .step_by(512)
        .rfind(|&at| archive[at] == b'x' && archive[at + 1] == 0)
        .expect("the entry");
    archive[at..at + 9].copy_from_slice(b"../passwd");
    archive[at + 148..at + 156].fill(b' ');
    let sum: u32 = archive[at..at + 512].iter().map(|&byte| u32::from(byte)).sum();
    archive[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    refused(&archive, Code::InvalidArgument, "leads out of its directory").await;
}

#[tokio::test]
async fn an_unknown_version_or_nothing_wanted() {
    let archive = with(&image(), |files| {
        files[5].1 = br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec();
    });
    refused(&archive, Code::InvalidArgument, "version 2.0.0").await;
    refused(&tar_of(&oci_files(&[], &[])), Code::NotFound, "names no image").await;
    let daemon = Daemon::new();
    let store = containerd_client::types::transfer::ImageStore {
        platforms: vec![super::platform("s390x")],
        ..plain()
    };
    let done = daemon.import(&oci_archive(&image()), &store).await;
    check(&daemon, done, Code::NotFound, "no image for linux/s390x");
}

#[tokio::test]
async fn a_snapshotter_that_is_not_there() {
    let daemon = Daemon::new();
    let mut store = unpacked();
    store.unpacks[0].snapshotter = "zfs".to_owned();
    let done = daemon.import(&oci_archive(&image()), &store).await;
    check(&daemon, done, Code::NotFound, "zfs");
}

#[tokio::test]
async fn an_index_that_contains_itself() {
    // No honest store can hold it: its digest would have to be known before its content. A damaged one might.
    let daemon = Daemon::new();
    let (a, b) = (digest_of(b"a"), digest_of(b"b"));
    let index = |child| json!({"schemaVersion": 2, "manifests": [{"mediaType": media_type::INDEX, "digest": child, "size": 200}]});
    for (digest, child) in [(&a, b.as_str()), (&b, a.as_str())] {
        let mut bytes = index(child).to_string().into_bytes();
        bytes.resize(200, b' ');
        daemon.content.plant(digest, &bytes);
    }
    let content = Content {
        store: daemon.content.clone(),
        ctx: ctx(),
    };
    let error = walk(
        &content,
        &Descriptor::new(media_type::INDEX, a, 200),
        &Selection::default(),
    )
    .await;
    let error = error.expect_err("a cycle");
    assert!(
        error.code == Code::InvalidArgument && error.message.contains("contains itself"),
        "{error}"
    );
}
