//! Leases: ids, resources, filters.

use orlop_plugin::contract::Code;

use super::*;
use crate::fixture::{Metadata, ctx, digest, labels};

fn resource(kind: &str, id: &str) -> LeaseResource {
    LeaseResource {
        id: id.to_owned(),
        kind: kind.to_owned(),
    }
}

#[tokio::test]
async fn leases_are_made_listed_and_deleted() {
    let metadata = Metadata::new();
    let (leases, a) = (metadata.leases(), ctx("a"));
    leases
        .create(&a, Some("two"), labels(&[("k", "v"), ("empty", "")]))
        .await
        .expect("created");
    leases.create(&a, Some("one"), labels(&[])).await.expect("created");
    assert_eq!(
        leases
            .create(&a, Some("one"), labels(&[]))
            .await
            .expect_err("again")
            .code,
        Code::AlreadyExists
    );
    leases
        .create(&ctx("b"), Some("one"), labels(&[]))
        .await
        .expect("another namespace's");
    let list = async |filters: &[&str]| {
        let filters: Vec<_> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let leases = leases.list(&a, &filters).await.expect("a list");
        leases.into_iter().map(|lease| lease.id).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list(&[]).await, "one two");
    assert_eq!(list(&["labels.k==v"]).await, "two");
    assert_eq!(list(&["id==one"]).await, "one");
    let chosen = leases.create(&a, None, labels(&[])).await.expect("created").id;
    assert_ne!(
        chosen,
        leases.create(&a, Some(""), labels(&[])).await.expect("created").id
    );
    leases.delete(&a, "one", false).await.expect("deleted");
    assert_eq!(
        leases.delete(&a, "one", false).await.expect_err("again").code,
        Code::NotFound
    );
}

#[tokio::test]
async fn resources_are_checked_added_and_deleted() {
    let metadata = Metadata::new();
    let (leases, a) = (metadata.leases(), ctx("a"));
    let blob = digest("x");
    let good = [
        resource("content", blob.as_str()),
        resource("images", "i"),
        resource("ingests", "g"),
        resource("snapshots/native", "s"),
    ];
    let error = leases
        .add_resource(&a, "l", good[0].clone())
        .await
        .expect_err("no lease");
    assert_eq!(error.code, Code::NotFound);
    assert_eq!(
        leases.list_resources(&a, "l").await.expect_err("no lease").code,
        Code::NotFound
    );
    leases.create(&a, Some("l"), labels(&[])).await.expect("created");
    for resource in &good {
        leases.add_resource(&a, "l", resource.clone()).await.expect("added");
        leases
            .add_resource(&a, "l", resource.clone())
            .await
            .expect("twice is once");
    }
    assert_eq!(leases.list_resources(&a, "l").await.expect("a list"), good);
    for (bad, code) in [
        (resource("content", "md5:1"), Code::InvalidArgument),
        (resource("content/x", blob.as_str()), Code::InvalidArgument),
        (resource("snapshots", "s"), Code::InvalidArgument),
        (resource("snapshots/", "s"), Code::InvalidArgument),
        (resource("snapshots/a/b", "s"), Code::InvalidArgument),
        (resource("tasks", "t"), Code::Unimplemented),
    ] {
        let error = leases.add_resource(&a, "l", bad.clone()).await.expect_err("refused");
        assert_eq!(error.code, code, "{bad:?}: {error}");
    }
    for resource in good {
        leases
            .delete_resource(&a, "l", resource.clone())
            .await
            .expect("deleted");
        leases.delete_resource(&a, "l", resource).await.expect("twice is once");
    }
    assert!(leases.list_resources(&a, "l").await.expect("a list").is_empty());
}
