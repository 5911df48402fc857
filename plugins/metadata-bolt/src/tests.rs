//! The plugin as the daemon meets it.

use std::path::Path;
use std::sync::Arc;

use orlop_plugin::contract::{Code, NamespaceInfo};
use orlop_plugin::{Host, InitContext, InitError, Instance};

use crate::fixture::{Backends, Metadata, ctx, digest, labels};
use crate::registrations;

async fn start(root: &Path, policy: Option<&str>) -> Result<Instance, InitError> {
    let registration = registrations().remove(0);
    let mut config = registration.config.clone();
    if let Some(policy) = policy {
        config.insert("content_sharing_policy".to_owned(), policy.into());
    }
    registration
        .init(InitContext {
            uri: registration.uri.clone(),
            root_path: root.join("plugin"),
            state_path: root.join("state"),
            config,
            address: String::new(),
            ttrpc_address: String::new(),
            timeouts: std::collections::BTreeMap::default(),
            stream_processors: Vec::new(),
            host: Host::new(Arc::new(Backends::default())),
        })
        .await
}

fn failure(outcome: Result<Instance, InitError>) -> orlop_plugin::Error {
    match outcome {
        Err(InitError::Failed(error)) => error,
        Err(InitError::Skip(reason)) => panic!("skipped: {reason}"),
        Ok(_) => panic!("started"),
    }
}

#[test]
fn it_registers_as_containerds_does() {
    let registration = registrations().remove(0);
    assert_eq!(registration.uri.to_string(), "io.containerd.metadata.v1.bolt");
    assert_eq!(
        registration.requires,
        [
            "io.containerd.content.v1",
            "io.containerd.event.v1",
            "io.containerd.snapshotter.v1"
        ]
    );
    assert_eq!(
        registration.config.to_string().trim(),
        r#"content_sharing_policy = "shared""#
    );
}

#[tokio::test]
async fn it_starts_shuts_down_and_starts_again() {
    let root = tempfile::tempdir().expect("a directory");
    let mut instance = start(root.path(), None).await.expect("started");
    assert_eq!(instance.exports["policy"], "shared");
    assert!(
        instance.exports["path"].ends_with("/plugin/meta.redb"),
        "{}",
        instance.exports["path"]
    );
    let namespaces = instance.contracts.namespaces.clone().expect("offered");
    let info = NamespaceInfo {
        name: ctx("x").namespace.expect("set"),
        labels: labels(&[("a", "b")]),
    };
    namespaces.create(&ctx("x"), info.clone()).await.expect("created");
    let second = failure(start(root.path(), None).await);
    assert_eq!(second.code, Code::Unavailable);
    assert!(second.message.contains("second daemon"), "{second}");

    instance.shutdown.take().expect("there is an end")().await;
    let refused = namespaces.create(&ctx("y"), info.clone()).await.expect_err("shut down");
    assert_eq!(refused.code, Code::Unavailable);
    assert_eq!(
        namespaces.list(&ctx("x")).await.expect("reads go on"),
        std::slice::from_ref(&info)
    );
    drop((instance, namespaces));
    let again = start(root.path(), Some("isolated")).await.expect("started again");
    assert_eq!(again.exports["policy"], "isolated");
    assert_eq!(
        again
            .contracts
            .namespaces
            .expect("offered")
            .list(&ctx("x"))
            .await
            .expect("a list"),
        [info]
    );
}

#[tokio::test]
async fn it_refuses_what_it_does_not_know() {
    let root = tempfile::tempdir().expect("a directory");
    let error = failure(start(root.path(), Some("lent")).await);
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(
        error.message.contains("\"lent\"") && error.message.contains("isolated"),
        "{error}"
    );

    std::fs::create_dir_all(root.path().join("plugin")).expect("made");
    std::fs::write(root.path().join("plugin/meta.db"), "containerd's").expect("written");
    let error = failure(start(root.path(), None).await);
    assert_eq!(error.code, Code::FailedPrecondition);
    assert!(error.message.contains("containerd's"), "{error}");
    assert!(!root.path().join("plugin/meta.redb").exists());
}

#[tokio::test]
async fn all_survives_a_crash() {
    let metadata = Metadata::new();
    let ns = ctx("a");
    let blob = metadata.blob(&ns, "hello", labels(&[("k", "v")])).await;
    metadata
        .images()
        .create(&ns, Metadata::image("i", &blob, labels(&[])))
        .await
        .expect("created");
    metadata
        .snapshotter()
        .prepare(&ns, "s", "", labels(&[("l", "m")]))
        .await
        .expect("prepared");
    let lease = metadata
        .leases()
        .create(&ns, None, labels(&[("x", "y")]))
        .await
        .expect("created");
    let image = metadata.images().get(&ns, "i").await.expect("there");
    let metadata = metadata.crash().await;
    assert_eq!(
        metadata
            .content()
            .info(&ns, &digest("hello"))
            .await
            .expect("there")
            .labels,
        labels(&[("k", "v")])
    );
    assert_eq!(metadata.images().get(&ns, "i").await.expect("there"), image);
    assert_eq!(
        metadata.snapshotter().stat(&ns, "s").await.expect("there").labels,
        labels(&[("l", "m")])
    );
    assert_eq!(metadata.leases().list(&ns, &[]).await.expect("a list"), [lease]);
    let error = metadata
        .content()
        .info(&ctx("b"), &blob)
        .await
        .expect_err("another namespace");
    assert_eq!(error.code, Code::NotFound);
}
