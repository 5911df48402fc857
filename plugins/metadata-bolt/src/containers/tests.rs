//! Containers: what may change, what must be there, filters and events.

use std::collections::BTreeMap;
use std::time::SystemTime;

use orlop_plugin::contract::{Any, Code, collect};

use super::*;
use crate::fixture::{Metadata, ctx, labels};

fn any(value: &str) -> Any {
    Any {
        type_url: "types.containerd.io/x".to_owned(),
        value: value.into(),
    }
}

fn container(id: &str) -> Container {
    Container {
        id: id.to_owned(),
        labels: labels(&[("a", "1"), ("b", "1")]),
        image: "image".to_owned(),
        runtime: Runtime {
            name: "io.containerd.runc.v2".to_owned(),
            options: Some(any("options")),
        },
        spec: Some(any("{}")),
        snapshotter: "native".to_owned(),
        snapshot_key: "key".to_owned(),
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
        extensions: BTreeMap::from([("e".to_owned(), any("1"))]),
        sandbox: "pod".to_owned(),
    }
}

#[tokio::test]
async fn a_container_comes_back_as_it_was_made() {
    let metadata = Metadata::new();
    let (containers, ns) = (metadata.containers(), ctx("a"));
    let created = containers.create(&ns, container("c")).await.expect("created");
    let wanted = Container {
        created: created.created,
        updated: created.created,
        ..container("c")
    };
    assert_eq!(created, wanted);
    assert_eq!(containers.get(&ns, "c").await.expect("there"), wanted);
    assert_eq!(
        containers.create(&ns, container("c")).await.expect_err("again").code,
        Code::AlreadyExists
    );
    assert_eq!(
        containers.get(&ctx("b"), "c").await.expect_err("elsewhere").code,
        Code::NotFound
    );
    containers.delete(&ns, "c").await.expect("deleted");
    assert_eq!(
        containers.delete(&ns, "c").await.expect_err("again").code,
        Code::NotFound
    );
    assert_eq!(metadata.topics(), ["a /containers/create", "a /containers/delete"]);
}

#[tokio::test]
async fn nonsense_is_refused() {
    let metadata = Metadata::new();
    let spoil: [fn(&mut Container); 6] = [
        |c| c.id = "../x".to_owned(),
        |c| drop(c.extensions.insert(String::new(), any(""))),
        |c| drop(c.labels.insert("k".into(), "v".repeat(4096))),
        |c| c.runtime.name.clear(),
        |c| c.spec = None,
        |c| c.snapshotter.clear(),
    ];
    for spoil in spoil {
        let mut bad = container("c");
        spoil(&mut bad);
        let error = metadata.containers().create(&ctx("a"), bad).await.expect_err("refused");
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
    }
}

#[tokio::test]
async fn field_masks_change_what_they_name_and_some_fields_never_change() {
    let metadata = Metadata::new();
    let (containers, ns) = (metadata.containers(), ctx("a"));
    containers.create(&ns, container("c")).await.expect("created");
    let mut new = container("c");
    new.labels = labels(&[("a", "2")]);
    new.image = "other".to_owned();
    new.spec = Some(any("{1}"));
    new.snapshot_key = "other key".to_owned();
    new.extensions = BTreeMap::from([("f".to_owned(), any("2"))]);
    new.sandbox = "other".to_owned();
    let update = async |new: &Container, fields: &[&str]| {
        let fields: Vec<_> = fields.iter().map(|field| (*field).to_owned()).collect();
        containers.update(&ns, new.clone(), &fields).await
    };
    let updated = update(&new, &["labels.a", "extensions.f", "image"])
        .await
        .expect("updated");
    assert_eq!(updated.labels, labels(&[("a", "2"), ("b", "1")]));
    assert_eq!((updated.image.as_str(), updated.extensions.len()), ("other", 2));
    assert_eq!((updated.spec, updated.snapshot_key.as_str()), (Some(any("{}")), "key"));
    for bad in ["runtime", "snapshotter", "id", "sandbox", "created_at", ""] {
        assert_eq!(update(&new, &[bad]).await.expect_err(bad).code, Code::InvalidArgument);
    }
    let all = update(&new, &[]).await.expect("updated");
    let wanted = Container {
        created: all.created,
        updated: all.updated,
        sandbox: "pod".to_owned(),
        ..new.clone()
    };
    assert_eq!(all, wanted);
    for change in [
        |c: &mut Container| c.snapshotter = "x".into(),
        |c: &mut Container| c.runtime.name = "x".into(),
    ] {
        let mut other = new.clone();
        change(&mut other);
        let error = update(&other, &[]).await.expect_err("immutable");
        assert!(
            error.code == Code::InvalidArgument && error.message.contains("immutable"),
            "{error}"
        );
    }
    new.spec = None;
    assert_eq!(
        update(&new, &["spec"]).await.expect_err("no spec").code,
        Code::InvalidArgument
    );
    assert_eq!(
        update(&container("d"), &[]).await.expect_err("missing").code,
        Code::NotFound
    );
}

#[tokio::test]
async fn lists_are_filtered() {
    let metadata = Metadata::new();
    let (containers, ns) = (metadata.containers(), ctx("a"));
    for id in ["two", "one"] {
        let labels = labels(&[("io.kubernetes.name", id)]);
        containers
            .create(
                &ns,
                Container {
                    labels,
                    image: format!("i-{id}"),
                    ..container(id)
                },
            )
            .await
            .expect("created");
    }
    for (filter, wanted) in [
        ("id==one", "one"),
        ("image==i-two", "two"),
        ("runtime.name==io.containerd.runc.v2", "one two"),
        ("labels.\"io.kubernetes.name\"==two", "two"),
        ("runtime==x", ""),
    ] {
        let found = containers.list(&ns, &[filter.to_owned()]).await.expect("a list");
        let found: Vec<_> = collect(found)
            .await
            .expect("a list")
            .into_iter()
            .map(|c| c.id)
            .collect();
        assert_eq!(found.join(" "), wanted, "{filter}");
    }
}
