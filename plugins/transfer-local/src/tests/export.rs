//! Exports, and that what is exported can be imported.

use std::collections::BTreeMap;
use std::io::Read;

use containerd_client::types::transfer::{ImageExportStream, ImageStore};
use orlop_plugin::contract::Code;

use super::{here, plain, platform, unpacked};
use crate::fixture::{Daemon, TestImage, oci_archive, oci_files, tar_of};
use crate::oci::{ANNOTATION_IMAGE_NAME, Index};

fn named(name: &str) -> ImageStore {
    ImageStore {
        name: name.to_owned(),
        ..ImageStore::default()
    }
}

/// The files of an archive, in their order.
fn files(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(archive).entries().expect("a tar archive") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("whole");
        files.push((name, bytes));
    }
    files
}

#[tokio::test]
async fn an_image_goes_out_and_comes_back() {
    let image = TestImage::new(&here(), &["one", "two"]);
    let daemon = Daemon::new();
    daemon.import(&oci_archive(&image), &plain()).await.expect("imported");
    let archive = daemon
        .export(&named("app:v1"), ImageExportStream::default())
        .await
        .expect("exported");
    daemon.assert_tidy();

    let files = files(&archive);
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert!(
        names.is_sorted() && names.starts_with(&["blobs/", "blobs/sha256/"]),
        "{names:?}"
    );
    let files: BTreeMap<String, Vec<u8>> = files.into_iter().collect();
    for (name, bytes) in image.blobs() {
        assert_eq!(files[&name], bytes);
    }
    assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
    let index: Index = serde_json::from_slice(&files["index.json"]).expect("an index");
    assert_eq!(index.manifests[0].annotations[ANNOTATION_IMAGE_NAME], "app:v1");
    let docker: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).expect("json");
    assert_eq!(docker[0]["RepoTags"][0], "app:v1");
    assert_eq!(
        docker[0]["Config"],
        format!("blobs/sha256/{}", image.config_digest().hex())
    );
    assert_eq!(docker[0]["Layers"].as_array().expect("layers").len(), 2);

    let other = Daemon::new();
    other.import(&archive, &unpacked()).await.expect("imported again");
    assert_eq!(other.images.image("app:v1").target.digest, image.manifest_digest());
    assert_eq!(other.snapshots.applied().len(), 2);
}

#[tokio::test]
async fn of_an_index_only_what_is_wanted() {
    let (a, z) = (TestImage::new("arm64", &["arm"]), TestImage::new("s390x", &["z"]));
    let daemon = Daemon::new();
    let store = ImageStore {
        name: "both:1".to_owned(),
        ..ImageStore::default()
    };
    let archive = tar_of(&oci_files(&[&a, &z], &[a.entry(None), z.entry(None)]));
    daemon.import(&archive, &store).await.expect("imported");
    let wanted = |architecture: &str, all_platforms| ImageExportStream {
        platforms: vec![platform(architecture)],
        all_platforms,
        skip_compatibility_manifest: true,
        ..ImageExportStream::default()
    };
    let has = |archive: &[u8], image: &TestImage| {
        let name = format!("blobs/sha256/{}", image.layer_digests()[0].hex());
        files(archive).iter().any(|(file, _)| *file == name)
    };
    let one = daemon
        .export(&named("both:1"), wanted("s390x", false))
        .await
        .expect("exported");
    assert!(has(&one, &z) && !has(&one, &a));
    assert!(files(&one).iter().all(|(name, _)| name != "manifest.json"));
    let both = daemon
        .export(&named("both:1"), wanted("s390x", true))
        .await
        .expect("exported");
    assert!(has(&both, &z) && has(&both, &a));
    let none = daemon
        .export(&named("both:1"), wanted("mips", false))
        .await
        .expect_err("not there");
    assert!(
        none.code == Code::NotFound && none.message.contains("linux/mips"),
        "{none}"
    );
    daemon.assert_tidy();
}

#[tokio::test]
async fn what_is_not_there_or_damaged_is_not_exported() {
    let image = TestImage::new(&here(), &["one", "two"]);
    let daemon = Daemon::new();
    daemon.import(&oci_archive(&image), &plain()).await.expect("imported");
    let app = named("app:v1");
    let export = || daemon.export(&app, ImageExportStream::default());

    let layer = &image.layer_digests()[1];
    let mut damaged = image.layers[1].clone();
    damaged[20] ^= 1;
    daemon.content.plant(layer, &damaged);
    assert_eq!(export().await.expect_err("damaged").code, Code::DataLoss);
    daemon.content.remove(layer);
    let missing = export().await.expect_err("missing");
    assert!(
        missing.code == Code::NotFound && missing.message.contains(layer.as_str()),
        "{missing}"
    );

    let unknown = daemon
        .export(&named("x:1"), ImageExportStream::default())
        .await
        .expect_err("unknown");
    assert_eq!(unknown.code, Code::NotFound);
    let nothing = daemon
        .export(&named(""), ImageExportStream::default())
        .await
        .expect_err("no name");
    assert_eq!(nothing.code, Code::InvalidArgument);
    let blob = crate::oci::Descriptor::new("text/plain", image.config_digest(), image.config.len() as u64);
    daemon.images.put("text:1", blob.to_contract());
    let text = daemon
        .export(&named("text:1"), ImageExportStream::default())
        .await
        .expect_err("no image");
    assert_eq!(text.code, Code::InvalidArgument);
    daemon.assert_tidy();
}
