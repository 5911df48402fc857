//! Making layers.

use std::fs;
use std::time::{Duration, SystemTime};

use orlop_plugin::contract::{ApplyOptions, Code, DiffOptions};

use crate::store::Store;
use crate::support::{bind, ctx, differ, directory, overlay};

const UNCOMPRESSED: &str = "containerd.io/uncompressed";

#[tokio::test]
async fn a_container_becomes_a_layer_and_a_container_again() {
    let (store, lower, root) = (Store::default(), directory(), directory());
    fs::write(lower.path().join("gone"), "x").expect("written");
    fs::write(lower.path().join("kept"), "x").expect("written");
    let upper = overlay(root.path(), lower.path());
    {
        use orlop_plugin::mount::{Access, TempMount};
        let container = TempMount::new(&upper, Access::Write).expect("mounted");
        fs::remove_file(container.path().join("gone")).expect("removed");
        fs::write(container.path().join("new"), "x".repeat(1 << 20)).expect("written");
    }
    let differ = differ(&store).await;
    for (given, media_type) in [
        ("", "application/vnd.oci.image.layer.v1.tar+gzip"),
        (
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar",
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ),
    ] {
        let options = DiffOptions {
            media_type: given.to_owned(),
            labels: [("mine".to_owned(), "kept".to_owned())].into(),
            ..DiffOptions::default()
        };
        let layer = differ
            .diff(&ctx(), bind(lower.path(), "rbind,ro"), upper.clone(), options.clone())
            .await
            .expect("made");
        let (info, blob) = store.get(&layer.digest);
        assert_eq!((layer.media_type.as_str(), layer.size), (media_type, blob.len() as u64));
        assert_eq!(info.labels["mine"], "kept");
        // The same again is no error, and makes the label whole.
        store.put(blob);
        let again = differ
            .diff(&ctx(), bind(lower.path(), "rbind,ro"), upper.clone(), options)
            .await
            .expect("made");
        assert_eq!(again, layer);

        let (info, _) = store.get(&layer.digest);
        let copy = directory();
        fs::write(copy.path().join("gone"), "x").expect("written");
        let applied = differ
            .apply(&ctx(), layer, bind(copy.path(), "rbind"), ApplyOptions::default())
            .await
            .expect("applied");
        assert_eq!(applied.digest.as_str(), info.labels[UNCOMPRESSED]);
        let mut names: Vec<_> = fs::read_dir(copy.path())
            .expect("read")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["new"]);
    }
    assert!(store.ingests().is_empty());
}

#[tokio::test]
async fn nothing_below_and_an_epoch() {
    let (store, upper, copy) = (Store::default(), directory(), directory());
    fs::write(upper.path().join("file"), "x").expect("written");
    store.begin("mine", b"what was written before");
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let options = DiffOptions {
        reference: "mine".to_owned(),
        source_date_epoch: Some(epoch),
        ..DiffOptions::default()
    };
    let differ = differ(&store).await;
    let layer = differ
        .diff(&ctx(), Vec::new(), bind(upper.path(), "rbind,rw"), options)
        .await
        .expect("made");
    differ
        .apply(&ctx(), layer, bind(copy.path(), "rbind"), ApplyOptions::default())
        .await
        .expect("applied");
    let modified = fs::metadata(copy.path().join("file"))
        .expect("there")
        .modified()
        .expect("a time");
    assert_eq!(modified, epoch);
}

#[tokio::test]
async fn what_fails_leaves_nothing_behind() {
    let (store, upper) = (Store::default(), directory());
    let differ = differ(&store).await;
    let unknown = DiffOptions {
        media_type: "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned(),
        ..DiffOptions::default()
    };
    let error = differ
        .diff(&ctx(), Vec::new(), bind(upper.path(), "rbind"), unknown)
        .await
        .expect_err("not made");
    assert_eq!(error.code, Code::Unimplemented);

    let nowhere = bind(&upper.path().join("nowhere"), "rbind");
    let error = differ
        .diff(&ctx(), Vec::new(), nowhere, DiffOptions::default())
        .await
        .expect_err("not made");
    assert_eq!(error.code, Code::NotFound, "{error}");

    // The store fills up in the middle; the walk must not wait for it for ever.
    fs::write(upper.path().join("file"), vec![1; 8 << 20]).expect("written");
    store.full_at(3000);
    let plain = DiffOptions {
        media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
        ..DiffOptions::default()
    };
    let error = differ
        .diff(&ctx(), Vec::new(), bind(upper.path(), "rbind"), plain)
        .await
        .expect_err("not made");
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(store.ingests().is_empty(), "{:?}", store.ingests());
}
