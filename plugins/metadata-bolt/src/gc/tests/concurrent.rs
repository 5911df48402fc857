//! Collections while the API goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orlop_plugin::contract::{CommitOptions, Ctx, WriterOptions};

use super::{hold, left, refer};
use crate::fixture::{Metadata, ctx, digest, labels, lock};
use crate::gc::mark::Marks;
use crate::gc::{Journal, order, sweep};
use crate::record;
use crate::store::{Kind, Prefix, Reader};

#[tokio::test]
async fn what_is_taken_up_during_a_collection_is_spared_whole() {
    let metadata = Metadata::new();
    let a = ctx("a");
    let all = ["layer", "manifest", "other-layer", "other", "dead"];
    for (bytes, refers) in [
        ("layer", None),
        ("manifest", Some("layer")),
        ("other-layer", None),
        ("dead", None),
    ] {
        metadata.blob(&a, bytes, refers.map(refer).unwrap_or_default()).await;
    }
    metadata.blob(&a, "other", labels(&[])).await;
    metadata
        .leases()
        .create(&a, Some("l"), labels(&[]))
        .await
        .expect("created");
    let shared = &metadata.shared;
    let journal = Journal::start(shared).await.expect("started");
    let (marks, dead) = Marks::of(&*shared.store.view(), record::now()).expect("marked");
    assert_eq!(dead.len(), all.len());
    let dead = order::referrers_first(dead, |key, push| marks.references(&*shared.store.view(), key, push));
    // Marked dead, and now: held by a lease; held by an image and made to refer to more.
    hold(&metadata, "l", "content", digest("manifest").as_str()).await;
    let mut other = metadata.content().info(&a, &digest("other")).await.expect("there");
    other.labels = refer("other-layer");
    metadata.content().update(&a, other, &[]).await.expect("updated");
    metadata
        .images()
        .create(&a, Metadata::image("i", &digest("other"), labels(&[])))
        .await
        .expect("created");
    let swept = sweep::sweep(shared, marks, dead.expect("ordered"))
        .await
        .expect("swept");
    drop(journal);
    assert_eq!(
        (left(&metadata, &all).await.as_str(), swept.removed),
        ("layer manifest other-layer other", 1)
    );
    assert_eq!(metadata.collect().await.removed, 0, "and the next collection agrees");
}

#[tokio::test]
async fn a_mark_made_before_an_object_does_not_hide_what_it_refers_to() {
    let metadata = Metadata::new();
    let a = ctx("a");
    metadata
        .leases()
        .create(&a, Some("l"), labels(&[]))
        .await
        .expect("created");
    metadata.blob(&a, "layer", labels(&[])).await;
    hold(&metadata, "l", "content", digest("to come").as_str()).await;
    let shared = &metadata.shared;
    let _journal = Journal::start(shared).await.expect("started");
    let (marks, dead) = Marks::of(&*shared.store.view(), record::now()).expect("marked");
    metadata.blob(&a, "to come", refer("layer")).await;
    let dead = dead.into_iter().map(|key| vec![key]).collect();
    assert_eq!(sweep::sweep(shared, marks, dead).await.expect("swept").removed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_pull_and_remove_while_garbage_is_collected() {
    let metadata = Arc::new(Metadata::new());
    let done = Arc::new(AtomicBool::new(false));
    let collecting = tokio::spawn({
        let (metadata, done) = (Arc::clone(&metadata), Arc::clone(&done));
        async move {
            while !done.load(Ordering::SeqCst) {
                metadata.collect().await;
            }
        }
    });
    let clients = (0..4).map(|client| {
        let metadata = Arc::clone(&metadata);
        tokio::spawn(async move {
            for round in 0..12 {
                // Two clients a namespace pull the same image, and remove it under each other.
                let ns = ctx(["a", "b"][client % 2]);
                let lease = format!("{client}-{round}");
                let leased = ns.clone().with_lease(&lease);
                metadata
                    .leases()
                    .create(&ns, Some(&lease), labels(&[]))
                    .await
                    .expect("created");
                for (bytes, refers) in [("layer", None), ("config", Some("layer")), ("manifest", Some("config"))] {
                    pull(&metadata, &leased, &format!("{lease} {bytes}"), bytes, refers).await;
                }
                let extract = format!("extract {lease}");
                let snapshotter = metadata.snapshotter();
                snapshotter
                    .prepare(&leased, &extract, "", labels(&[]))
                    .await
                    .expect("prepared");
                let name = format!("chain {lease}");
                snapshotter
                    .commit(&leased, &name, &extract, labels(&[]))
                    .await
                    .expect("committed");
                let image = Metadata::image(
                    &format!("image {lease}"),
                    &digest("manifest"),
                    labels(&[("containerd.io/gc.ref.snapshot.native", name.as_str())]),
                );
                metadata.images().create(&ns, image).await.expect("created");
                metadata.leases().delete(&ns, &lease, false).await.expect("deleted");
                tokio::task::yield_now().await;
                for bytes in ["layer", "config", "manifest"] {
                    metadata
                        .content()
                        .info(&ns, &digest(bytes))
                        .await
                        .expect("the image keeps it");
                    assert!(
                        metadata.content().read(&ns, &digest(bytes), 0, 0).await.is_ok(),
                        "its bytes too"
                    );
                }
                snapshotter.stat(&ns, &name).await.expect("the image keeps it");
                metadata
                    .images()
                    .delete(&ns, &format!("image {lease}"), round % 4 == 0, None)
                    .await
                    .expect("deleted");
            }
        })
    });
    for client in futures_util::future::join_all(clients).await {
        client.expect("no panic");
    }
    done.store(true, Ordering::SeqCst);
    collecting.await.expect("no panic");
    metadata.collect().await;
    let view = metadata.shared.store.view();
    for kind in [
        Kind::Blob,
        Kind::Ingest,
        Kind::Snapshot,
        Kind::Child,
        Kind::Lease,
        Kind::LeaseResource,
    ] {
        assert_eq!(view.keys(&Prefix::of(kind, &[])).expect("read"), [], "{kind:?}");
    }
    metadata.collect().await;
    assert!(lock(&metadata.backends.content.0).blobs.is_empty());
    assert!(metadata.backends.snapshotter.names().is_empty());
}

/// Sends a blob, unless it is there: what every client does.
async fn pull(metadata: &Metadata, leased: &Ctx, reference: &str, bytes: &'static str, refers: Option<&str>) {
    let options = WriterOptions {
        reference: reference.to_owned(),
        expected: Some(digest(bytes)),
        ..WriterOptions::default()
    };
    match metadata.content().writer(leased, options).await {
        Ok(mut writer) => {
            if writer.status().await.expect("a status").offset == 0 {
                writer.write(bytes.into()).await.expect("written");
            }
            let labels = refers.map(refer).unwrap_or_default();
            match writer
                .commit(CommitOptions {
                    labels,
                    ..CommitOptions::default()
                })
                .await
            {
                Err(error) if !error.is_already_exists() => panic!("{bytes}: {error}"),
                _ => {}
            }
        }
        Err(error) => assert!(error.is_already_exists(), "{error}"),
    }
}
