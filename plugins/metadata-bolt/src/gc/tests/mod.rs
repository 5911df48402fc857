//! Collections over the whole plugin: roots, edges, leases, and writers that go on meanwhile.

mod concurrent;
mod model;

use futures_util::FutureExt;
use orlop_plugin::contract::{CommitOptions, Container, Labels, LeaseResource, Runtime, WriterOptions};

use super::labels::FLAT;
use super::*;
use crate::fixture::{Metadata, ctx, digest, labels, lock};
use crate::record::IngestRecord;
use crate::store::{Key, Kind, Prefix, Reader};

const PAST: &str = "2000-01-01T00:00:00Z";
const FUTURE: &str = "2200-01-01T00:00:00Z";

/// The blobs of namespace `a` that are left, by their bytes.
async fn left(metadata: &Metadata, all: &[&str]) -> String {
    let mut left = Vec::new();
    for bytes in all {
        if metadata.content().info(&ctx("a"), &digest(bytes)).await.is_ok() {
            left.push(*bytes);
        }
    }
    left.join(" ")
}

async fn hold(metadata: &Metadata, lease: &str, kind: &str, id: &str) {
    let resource = LeaseResource {
        id: id.to_owned(),
        kind: kind.to_owned(),
    };
    metadata
        .leases()
        .add_resource(&ctx("a"), lease, resource)
        .await
        .expect("held");
}

/// A label that refers to a blob of these bytes.
fn refer(bytes: &str) -> Labels {
    labels(&[("containerd.io/gc.ref.content.0", digest(bytes).as_str())])
}

#[tokio::test]
async fn references_are_followed_from_images_and_roots() {
    let metadata = Metadata::new();
    let a = ctx("a");
    let all = ["layer", "manifest", "index", "rooted", "loose", "loose-too"];
    metadata.blob(&a, "layer", labels(&[])).await;
    metadata.blob(&a, "manifest", refer("layer")).await;
    let index = metadata.blob(&a, "index", refer("manifest")).await;
    metadata
        .blob(&a, "rooted", labels(&[("containerd.io/gc.root", "2020")]))
        .await;
    metadata.blob(&a, "loose", refer("loose-too")).await;
    metadata.blob(&a, "loose-too", refer("loose")).await;
    metadata
        .images()
        .create(&a, Metadata::image("i", &index, labels(&[])))
        .await
        .expect("created");
    let stats = metadata.collect().await;
    assert_eq!(
        (left(&metadata, &all).await.as_str(), stats.removed),
        ("layer manifest index rooted", 2)
    );
    assert_eq!(
        lock(&metadata.backends.content.0).blobs.len(),
        4,
        "the bytes of the ring are freed"
    );
    assert_eq!(metadata.collect().await.removed, 0);
    metadata.images().delete(&a, "i", true, None).await.expect("deleted");
    assert_eq!(left(&metadata, &all).await, "rooted");
}

#[tokio::test]
async fn a_namespace_keeps_nothing_for_another() {
    let metadata = Metadata::new();
    metadata.blob(&ctx("a"), "layer", labels(&[])).await;
    let manifest = metadata.blob(&ctx("b"), "manifest", refer("layer")).await;
    metadata
        .images()
        .create(&ctx("b"), Metadata::image("i", &manifest, labels(&[])))
        .await
        .expect("created");
    metadata.collect().await;
    assert_eq!(left(&metadata, &["layer"]).await, "");
    assert!(metadata.content().info(&ctx("b"), &manifest).await.is_ok());
}

#[tokio::test]
async fn a_snapshot_may_be_kept_for_as_long_as_it_is_used() {
    let metadata = Metadata::new();
    let (a, snapshotter) = (ctx("a"), metadata.snapshotter());
    let value = "containerd.io/gc.cond.value-usedat";
    for (name, labels) in [
        ("used", labels(&[(value, FUTURE)])),
        ("unused", labels(&[(value, PAST)])),
        ("silent", labels(&[])),
        ("unwanted", labels(&[(value, FUTURE)])),
    ] {
        snapshotter
            .prepare(&a, "x", "", self::labels(&[]))
            .await
            .expect("prepared");
        snapshotter.commit(&a, name, "x", labels).await.expect("committed");
    }
    let conditional: Vec<_> = ["used", "unused", "silent"]
        .map(|name| {
            let key = format!("containerd.io/gc.cond.snapshot.native/{name}");
            (key, format!("usedat<24h|{name}"))
        })
        .into();
    let target = metadata.blob(&a, "target", labels(&[])).await;
    metadata
        .images()
        .create(&a, Metadata::image("i", &target, conditional.into_iter().collect()))
        .await
        .expect("created");
    metadata.collect().await;
    for (name, kept) in [
        ("used", true),
        ("unused", false),
        ("silent", false),
        ("unwanted", false),
    ] {
        assert_eq!(snapshotter.stat(&a, name).await.is_ok(), kept, "{name}");
    }
    // What nothing reaches keeps nothing, whatever the condition.
    metadata.images().delete(&a, "i", true, None).await.expect("deleted");
    assert!(snapshotter.stat(&a, "used").await.is_err());
}

#[tokio::test]
async fn containers_and_snapshots_keep_what_is_below() {
    let metadata = Metadata::new();
    let (a, snapshotter) = (ctx("a"), metadata.snapshotter());
    for (name, parent) in [("base", ""), ("top", "base"), ("stray", "base")] {
        snapshotter
            .prepare(&a, "x", parent, labels(&[]))
            .await
            .expect("prepared");
        snapshotter.commit(&a, name, "x", labels(&[])).await.expect("committed");
        hold_in_lease(&metadata, "l", name).await;
    }
    snapshotter
        .prepare(&a, "rootfs", "top", refer("config"))
        .await
        .expect("prepared");
    metadata.blob(&a, "config", labels(&[])).await;
    let container = Container {
        id: "c".to_owned(),
        labels: labels(&[]),
        image: "i".to_owned(),
        runtime: Runtime {
            name: "r".to_owned(),
            options: None,
        },
        spec: Some(orlop_plugin::contract::Any::default()),
        snapshotter: "native".to_owned(),
        snapshot_key: "rootfs".to_owned(),
        created: std::time::SystemTime::UNIX_EPOCH,
        updated: std::time::SystemTime::UNIX_EPOCH,
        extensions: std::collections::BTreeMap::new(),
        sandbox: String::new(),
    };
    metadata.containers().create(&a, container).await.expect("created");
    metadata.leases().delete(&a, "l", true).await.expect("deleted");
    let names = async || {
        let mut names = Vec::new();
        for name in ["base", "top", "stray", "rootfs"] {
            if snapshotter.stat(&a, name).await.is_ok() {
                names.push(name);
            }
        }
        names.join(" ")
    };
    assert_eq!(
        (names().await.as_str(), left(&metadata, &["config"]).await.as_str()),
        ("base top rootfs", "config")
    );
    assert_eq!(metadata.backends.snapshotter.names().len(), 3);
    assert!(metadata.topics().contains(&"a /snapshot/remove".to_owned()));
    metadata.containers().delete(&a, "c").await.expect("deleted");
    metadata.collect().await;
    assert_eq!(
        (names().await.as_str(), left(&metadata, &["config"]).await.as_str()),
        ("", "")
    );
    assert!(metadata.backends.snapshotter.names().is_empty());
    let children = metadata
        .shared
        .store
        .view()
        .keys(&Prefix::of(Kind::Child, &[]))
        .expect("read");
    assert!(children.is_empty(), "{children:?}");
}

async fn hold_in_lease(metadata: &Metadata, lease: &str, snapshot: &str) {
    // It may be there already.
    let _ = metadata.leases().create(&ctx("a"), Some(lease), labels(&[])).await;
    hold(metadata, lease, "snapshots/native", snapshot).await;
}

#[tokio::test]
async fn a_flat_lease_keeps_only_what_it_holds() {
    let metadata = Metadata::new();
    let (a, snapshotter) = (ctx("a"), metadata.snapshotter());
    metadata.blob(&a, "layer", labels(&[])).await;
    metadata.blob(&a, "manifest", refer("layer")).await;
    snapshotter
        .prepare(&a, "x", "", refer("layer"))
        .await
        .expect("prepared");
    snapshotter
        .commit(&a, "base", "x", refer("layer"))
        .await
        .expect("committed");
    snapshotter
        .prepare(&a, "top", "base", refer("layer"))
        .await
        .expect("prepared");
    metadata
        .leases()
        .create(&a, Some("flat"), labels(&[(FLAT, "1")]))
        .await
        .expect("created");
    metadata
        .leases()
        .create(&a, Some("gone"), labels(&[(EXPIRE, PAST)]))
        .await
        .expect("created");
    metadata
        .leases()
        .create(&a, Some("full"), labels(&[(EXPIRE, FUTURE)]))
        .await
        .expect("created");
    hold(&metadata, "flat", "content", digest("manifest").as_str()).await;
    hold(&metadata, "flat", "snapshots/native", "top").await;
    hold(&metadata, "gone", "content", digest("layer").as_str()).await;
    hold(&metadata, "full", "content", digest("manifest").as_str()).await;
    metadata.collect().await;
    assert_eq!(
        left(&metadata, &["layer", "manifest"]).await,
        "layer manifest",
        "the other lease is not flat"
    );
    let names = async || {
        let leases = metadata.leases().list(&a, &[]).await.expect("a list");
        leases.into_iter().map(|lease| lease.id).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names().await, "flat full", "the expired one is removed");
    metadata.leases().delete(&a, "full", true).await.expect("deleted");
    assert_eq!(left(&metadata, &["layer", "manifest"]).await, "manifest");
    assert!(
        snapshotter.stat(&a, "base").await.is_ok(),
        "a snapshot cannot be without its parent"
    );
    metadata.leases().delete(&a, "flat", true).await.expect("deleted");
    assert_eq!(left(&metadata, &["layer", "manifest"]).await, "");
    assert!(snapshotter.stat(&a, "base").await.is_err());
}

#[tokio::test]
async fn back_references_keep_what_bears_them() {
    let metadata = Metadata::new();
    let a = ctx("a");
    let manifest = metadata.blob(&a, "manifest", labels(&[])).await;
    metadata
        .blob(
            &a,
            "signature",
            labels(&[("containerd.io/gc.bref.content", manifest.as_str())]),
        )
        .await;
    metadata
        .blob(&a, "sbom", labels(&[("containerd.io/gc.bref.image.x", "i")]))
        .await;
    metadata
        .blob(&a, "lost", labels(&[("containerd.io/gc.bref.container", "c")]))
        .await;
    metadata
        .images()
        .create(&a, Metadata::image("i", &manifest, labels(&[])))
        .await
        .expect("created");
    // An expired image lives while another refers to it.
    let expired = labels(&[(EXPIRE, PAST), ("containerd.io/gc.bref.content", manifest.as_str())]);
    metadata
        .images()
        .create(&a, Metadata::image("j", &digest("signature"), expired))
        .await
        .expect("created");
    metadata.collect().await;
    let all = ["manifest", "signature", "sbom", "lost"];
    assert_eq!(left(&metadata, &all).await, "manifest signature sbom");
    assert!(metadata.images().get(&a, "j").await.is_ok());
    metadata.images().delete(&a, "i", true, None).await.expect("deleted");
    assert_eq!(left(&metadata, &all).await, "");
    assert!(metadata.images().get(&a, "j").await.is_err());
}

#[tokio::test]
async fn ingests_expire_or_go_with_their_lease_but_never_under_a_writer() {
    let metadata = Metadata::new();
    let (a, leased) = (ctx("a"), ctx("a").with_lease("l"));
    metadata
        .leases()
        .create(&a, Some("l"), labels(&[]))
        .await
        .expect("created");
    let options = |reference: &str| WriterOptions {
        reference: reference.to_owned(),
        ..WriterOptions::default()
    };
    drop(metadata.content().writer(&a, options("fresh")).await.expect("a writer"));
    drop(
        metadata
            .content()
            .writer(&leased, options("leased"))
            .await
            .expect("a writer"),
    );
    let mut open = metadata
        .content()
        .writer(&leased, options("open"))
        .await
        .expect("a writer");
    let count = || lock(&metadata.backends.content.0).ingests.len();
    metadata.collect().await;
    assert_eq!(count(), 3);
    metadata.leases().delete(&a, "l", true).await.expect("deleted");
    assert_eq!(count(), 2, "the one without a lease, and the one that is written");
    open.write("bytes".into()).await.expect("written");
    open.commit(CommitOptions::default())
        .await
        .expect_err("the lease is gone");
    drop(open);
    let expire = metadata.shared.store.write(|draft| {
        let key = Key::ingest("a", "fresh");
        let record: IngestRecord = draft.load(&key)?.expect("there");
        draft.put(key, &IngestRecord { expires: 1, ..record });
        Ok(())
    });
    expire.await.expect("written");
    metadata.collect().await;
    let blobs = lock(&metadata.backends.content.0);
    assert!(
        blobs.ingests.is_empty() && blobs.blobs.is_empty(),
        "{:?}",
        blobs.ingests
    );
}

#[tokio::test]
async fn mutations_are_told_and_added_up() {
    use futures_util::StreamExt;
    let metadata = Metadata::new();
    metadata.blob(&ctx("a"), "before", labels(&[])).await;
    let mut mutations = metadata.collector().mutations(&Ctx::daemon()).await.expect("a stream");
    assert!(mutations.next().now_or_never().is_none(), "nothing yet");
    metadata
        .images()
        .create(&ctx("a"), Metadata::image("i", &digest("x"), labels(&[])))
        .await
        .expect("created");
    metadata
        .images()
        .delete(&ctx("a"), "i", false, None)
        .await
        .expect("deleted");
    let news = mutations.next().await.expect("news").expect("no error");
    assert_eq!(
        news,
        Mutation {
            mutations: 2,
            deletions: 1
        }
    );
    metadata.collect().await;
    assert!(
        mutations.next().now_or_never().is_none(),
        "a collection's own changes are no news"
    );
    drop(metadata);
    assert!(mutations.next().await.is_none(), "the end of the store ends the stream");
}

#[tokio::test]
async fn those_who_wait_together_share_a_collection() {
    let metadata = Metadata::new();
    let waiting = (0..10).map(|_| metadata.collector());
    let waiting = waiting.map(|collector| async move { collector.collect(&Ctx::daemon()).await });
    for outcome in futures_util::future::join_all(waiting).await {
        outcome.expect("collected");
    }
    let begun = metadata.shared.collections.begun.load(Ordering::SeqCst);
    assert!((1..=2).contains(&begun), "{begun} collections");
}

#[tokio::test]
async fn a_backend_that_fails_stays_dirty() {
    let metadata = Metadata::new();
    let (a, snapshotter) = (ctx("a"), metadata.snapshotter());
    snapshotter.prepare(&a, "k", "", labels(&[])).await.expect("prepared");
    metadata
        .backends
        .snapshotter
        .0
        .out_of_reach
        .store(true, Ordering::SeqCst);
    metadata.collect().await;
    assert_eq!(metadata.backends.snapshotter.names().len(), 1);
    metadata
        .backends
        .snapshotter
        .0
        .out_of_reach
        .store(false, Ordering::SeqCst);
    metadata.collect().await;
    assert!(metadata.backends.snapshotter.names().is_empty());
}
