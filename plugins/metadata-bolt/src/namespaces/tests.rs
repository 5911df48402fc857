//! Namespaces: labels, and what keeps one from being deleted.

use orlop_plugin::contract::Code;

use super::*;
use crate::fixture::{Metadata, ctx, digest, labels as pairs};

fn namespace(name: &str, labels: &[(&str, &str)]) -> NamespaceInfo {
    NamespaceInfo {
        name: Namespace::new(name).expect("a name"),
        labels: pairs(labels),
    }
}

#[tokio::test]
async fn namespaces_are_made_labelled_and_listed() {
    let metadata = Metadata::new();
    let (namespaces, ctx) = (metadata.namespaces(), Ctx::daemon());
    let b = namespace("b", &[("k", "v")]);
    namespaces.create(&ctx, b.clone()).await.expect("created");
    assert_eq!(
        namespaces.create(&ctx, b.clone()).await.expect_err("again").code,
        Code::AlreadyExists
    );
    namespaces.create(&ctx, namespace("a", &[])).await.expect("created");
    assert_eq!(
        namespaces.list(&ctx).await.expect("a list"),
        [namespace("a", &[]), b.clone()]
    );
    let fields = ["labels.k", "labels.l"].map(str::to_owned);
    let updated = namespaces
        .update(&ctx, namespace("b", &[("l", "w"), ("unnamed", "x")]), &fields)
        .await;
    assert_eq!(updated.expect("updated"), namespace("b", &[("l", "w")]));
    assert_eq!(
        namespaces.get(&ctx, &b.name).await.expect("there"),
        namespace("b", &[("l", "w")])
    );
    let error = namespaces
        .update(&ctx, b.clone(), &["name".to_owned()])
        .await
        .expect_err("immutable");
    assert_eq!(error.code, Code::InvalidArgument);
    let long = "v".repeat(4096);
    let error = namespaces
        .create(&ctx, namespace("c", &[("k", &long)]))
        .await
        .expect_err("too long");
    assert_eq!(error.code, Code::InvalidArgument);
    assert_eq!(
        metadata.topics(),
        ["b /namespaces/create", "a /namespaces/create", "b /namespaces/update"]
    );
}

#[tokio::test]
async fn only_an_empty_namespace_is_deleted() {
    let metadata = Metadata::new();
    let (namespaces, a) = (metadata.namespaces(), ctx("a"));
    let name = Namespace::new("a").expect("a name");
    assert_eq!(
        namespaces.delete(&a, &name).await.expect_err("none").code,
        Code::NotFound
    );
    let blob = metadata.blob(&a, "x", pairs(&[])).await;
    metadata
        .images()
        .create(&a, Metadata::image("i", &blob, pairs(&[])))
        .await
        .expect("created");
    metadata
        .snapshotter()
        .prepare(&a, "s", "", pairs(&[]))
        .await
        .expect("prepared");
    metadata
        .leases()
        .create(&a, Some("l"), pairs(&[]))
        .await
        .expect("created");
    let error = namespaces.delete(&a, &name).await.expect_err("not empty");
    assert_eq!(error.code, Code::FailedPrecondition);
    for part in ["images", "blobs", "snapshots on \"native\""] {
        assert!(error.message.contains(part), "{error}");
    }
    metadata.images().delete(&a, "i", false, None).await.expect("deleted");
    metadata.content().delete(&a, &digest("x")).await.expect("deleted");
    metadata.snapshotter().remove(&a, "s").await.expect("removed");
    namespaces.delete(&a, &name).await.expect("a lease does not keep it");
    assert!(namespaces.list(&a).await.expect("a list").is_empty());
    assert!(metadata.leases().list(&a, &[]).await.expect("a list").is_empty());
}
