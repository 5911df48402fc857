//! Layers unpacked side by side, and images pulled by several clients at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;

use super::faults::serve;
use super::{here, unpacked};
use crate::fixture::{Daemon, HttpServer, TestImage, oci_archive};
use crate::unpack::chain_ids;

fn image() -> TestImage {
    TestImage::new(&here(), &["one", "two", "three", "four"])
}

/// The layers under the image's top snapshot.
fn assert_stacked(daemon: &Daemon, image: &TestImage) {
    let top = chain_ids(&image.diff_ids()).pop().expect("has layers").to_string();
    assert_eq!(daemon.snapshots.layers(&top), image.layer_digests());
}

#[tokio::test]
async fn layers_are_put_down_side_by_side_and_stacked_in_order() {
    let (image, daemon) = (image(), Daemon::new());
    // None is applied but together with another.
    daemon.snapshots.rebase(2, &[]);
    daemon
        .import(&oci_archive(&image), &unpacked())
        .await
        .expect("imported");
    assert_stacked(&daemon, &image);
    assert_eq!(daemon.snapshots.applied().len(), 4);
    daemon.assert_tidy();
}

#[tokio::test]
async fn a_layer_that_needs_those_below_waits_for_them() {
    let (image, daemon) = (image(), Daemon::new());
    daemon.snapshots.rebase(1, &image.layer_digests()[1..3]);
    daemon
        .import(&oci_archive(&image), &unpacked())
        .await
        .expect("imported");
    assert_stacked(&daemon, &image);
    daemon.assert_tidy();
}

#[tokio::test]
async fn a_layer_that_is_no_good_leaves_nothing_of_the_others() {
    let mut image = image();
    let wrong = image.diff_ids()[0].to_string();
    let right = image.diff_ids()[2].to_string();
    let before = image.config_digest();
    let replaced = |text: &[u8], from: &str, to: &str| String::from_utf8_lossy(text).replace(from, to).into_bytes();
    image.config = replaced(&image.config, &right, &wrong);
    image.manifest = replaced(&image.manifest, before.as_str(), image.config_digest().as_str());
    let daemon = Daemon::new();
    daemon.snapshots.rebase(1, &[]);
    let error = daemon
        .import(&oci_archive(&image), &unpacked())
        .await
        .expect_err("inconsistent");
    assert!(error.message.contains("the image is inconsistent"), "{error}");
    assert!(daemon.images.names().is_empty());
    daemon.assert_tidy();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn those_who_pull_one_image_at_once_share_the_work() {
    for rebase in [false, true] {
        let (image, daemon) = (image(), Daemon::new());
        if rebase {
            daemon.snapshots.rebase(1, &image.layer_digests()[2..3]);
        }
        let asked: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let (served, count) = (image.clone(), asked.clone());
        let server = HttpServer::start(move |seen| {
            if seen.method == "GET" && seen.path.contains("/blobs/") {
                *count.lock().unwrap().entry(seen.path.clone()).or_default() += 1;
            }
            serve(&served, seen)
        })
        .await;
        let plugin = daemon.plugin();
        let names: Vec<_> = (0..8).map(|nth| format!("{}/app:v{nth}", server.address)).collect();
        let pulls = names.iter().map(|name| daemon.pull_quietly(&plugin, name));
        for pulled in join_all(pulls).await {
            pulled.expect("pulled");
        }
        assert_stacked(&daemon, &image);
        assert_eq!(daemon.snapshots.applied().len(), 4, "each layer is unpacked once");
        let asked = asked.lock().unwrap();
        assert!(asked.len() == 5 && asked.values().all(|times| *times == 1), "{asked:?}");
        assert_eq!(daemon.images.names().len(), 8);
        daemon.assert_tidy();
    }
}
