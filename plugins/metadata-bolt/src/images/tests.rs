//! Images: masks, filters, targets, leases and events.

use orlop_plugin::contract::{Code, Descriptor, collect};

use super::*;
use crate::fixture::{Metadata, ctx, digest, labels};

#[tokio::test]
async fn an_image_is_made_once_and_found_again() {
    let metadata = Metadata::new();
    let (images, ns) = (metadata.images(), ctx("a"));
    let image = Metadata::image(
        "docker.io/library/x:1",
        &digest("m"),
        labels(&[("k", "v"), ("empty", "")]),
    );
    let created = images.create(&ns, image.clone()).await.expect("created");
    assert_eq!(
        (created.labels.clone(), created.created),
        (labels(&[("k", "v")]), created.updated)
    );
    assert_eq!(images.get(&ns, &image.name).await.expect("there"), created);
    assert_eq!(
        images.create(&ns, image.clone()).await.expect_err("again").code,
        Code::AlreadyExists
    );
    assert_eq!(
        images.get(&ctx("b"), &image.name).await.expect_err("elsewhere").code,
        Code::NotFound
    );
    assert_eq!(
        images.get(&Ctx::daemon(), &image.name).await.expect_err("nowhere").code,
        Code::FailedPrecondition
    );
    let names = metadata.namespaces().list(&ns).await.expect("a list");
    assert_eq!(names.iter().map(|ns| ns.name.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(metadata.topics(), ["a /images/create"]);
    let event = &crate::fixture::lock(&metadata.backends.events.0)[0].1;
    assert_eq!(event.type_url, "containerd.services.images.v1.ImageCreate");
}

#[tokio::test]
async fn nonsense_is_refused() {
    let metadata = Metadata::new();
    let good = Metadata::image("x", &digest("m"), labels(&[]));
    let spoil: [fn(&mut Image); 4] = [
        |image| image.name.clear(),
        |image| image.target.size = 0,
        |image| image.target.media_type.clear(),
        |image| drop(image.labels.insert("k".into(), "v".repeat(4096))),
    ];
    for spoil in spoil {
        let mut bad = good.clone();
        spoil(&mut bad);
        let error = metadata.images().create(&ctx("a"), bad).await.expect_err("refused");
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
    }
    assert!(metadata.topics().is_empty());
    assert!(
        metadata.namespaces().list(&ctx("a")).await.expect("a list").is_empty(),
        "a refusal makes no namespace"
    );
}

#[tokio::test]
async fn field_masks_change_what_they_name() {
    let metadata = Metadata::new();
    let (images, ns) = (metadata.images(), ctx("a"));
    let mut image = Metadata::image("x", &digest("old"), labels(&[("a", "1"), ("b", "1")]));
    image.target.annotations = labels(&[("p", "1"), ("q", "1")]);
    let created = images.create(&ns, image).await.expect("created").created;
    let mut new = Metadata::image("x", &digest("new"), labels(&[("a", "2")]));
    new.target.annotations = labels(&[("p", "2")]);
    let update = async |fields: &[&str]| {
        let fields: Vec<_> = fields.iter().map(|field| (*field).to_owned()).collect();
        images.update(&ns, new.clone(), &fields).await
    };
    let updated = update(&["labels.a", "annotations.q"]).await.expect("updated");
    assert_eq!(updated.labels, labels(&[("a", "2"), ("b", "1")]));
    assert_eq!(
        (updated.target.annotations, updated.target.digest),
        (labels(&[("p", "1")]), digest("old"))
    );
    assert_eq!(
        update(&["annotations"]).await.expect("updated").target.annotations,
        labels(&[("p", "2")])
    );
    assert_eq!(
        update(&["labels"]).await.expect("updated").labels,
        labels(&[("a", "2")])
    );
    assert_eq!(update(&["target"]).await.expect("updated").target, new.target);
    for bad in ["target.digest", "name", "created_at", "label"] {
        let error = update(&["labels", bad]).await.expect_err(bad);
        assert_eq!(
            (error.code, error.message),
            (
                Code::InvalidArgument,
                format!("cannot update {bad:?} field on image \"x\"")
            )
        );
    }
    new.labels.clear();
    let all = images.update(&ns, new.clone(), &[]).await.expect("updated");
    assert_eq!(
        (all.labels, all.target, all.created),
        (labels(&[]), new.target.clone(), created)
    );
    assert!(all.updated > created);
    let missing = Metadata::image("y", &digest("new"), labels(&[]));
    assert_eq!(
        images.update(&ns, missing, &[]).await.expect_err("missing").code,
        Code::NotFound
    );
}

#[tokio::test]
async fn lists_are_filtered_and_in_order() {
    let metadata = Metadata::new();
    let (images, ns) = (metadata.images(), ctx("a"));
    for (name, content, pairs) in [
        ("c", "1", &[("x.y/z", "1")][..]),
        ("a", "2", &[]),
        ("b", "1", &[("x.y/z", "2")]),
    ] {
        images
            .create(&ns, Metadata::image(name, &digest(content), labels(pairs)))
            .await
            .expect("created");
    }
    let list = async |filters: &[&str]| {
        let filters: Vec<_> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let images = collect(images.list(&ns, &filters).await?).await?;
        Ok::<_, Error>(images.into_iter().map(|image| image.name).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(list(&[]).await.expect("a list"), "a b c");
    assert_eq!(list(&["name==b", "name~=^a"]).await.expect("a list"), "a b");
    assert_eq!(
        list(&[&format!("target.digest=={}", digest("1"))])
            .await
            .expect("a list"),
        "b c"
    );
    assert_eq!(list(&["labels.\"x.y/z\"==1"]).await.expect("a list"), "c");
    assert_eq!(list(&["labels.\"x.y/z\""]).await.expect("a list"), "b c");
    assert_eq!(
        list(&["target.mediatype~=manifest,name!=a"]).await.expect("a list"),
        "b c"
    );
    assert_eq!(list(&["size==1"]).await.expect("a list"), "");
    assert_eq!(
        list(&["name=="]).await.expect_err("no filter").code,
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn an_image_is_removed_while_it_has_its_target() {
    let metadata = Metadata::new();
    let (images, ns) = (metadata.images(), ctx("a"));
    let blob = metadata.blob(&ns, "manifest", labels(&[])).await;
    let image = Metadata::image("x", &blob, labels(&[]));
    images.create(&ns, image.clone()).await.expect("created");
    let other = Descriptor {
        digest: digest("other"),
        ..image.target.clone()
    };
    let error = images
        .delete(&ns, "x", false, Some(other))
        .await
        .expect_err("another target");
    assert_eq!(error.code, Code::NotFound);
    metadata.collect().await;
    assert!(
        metadata.content().info(&ns, &blob).await.is_ok(),
        "an image holds its target"
    );
    images
        .delete(&ns, "x", true, Some(image.target))
        .await
        .expect("deleted");
    assert_eq!(
        metadata.content().info(&ns, &blob).await.expect_err("collected").code,
        Code::NotFound
    );
    assert!(
        crate::fixture::lock(&metadata.backends.content.0).blobs.is_empty(),
        "the bytes are freed too"
    );
    assert_eq!(
        images.delete(&ns, "x", false, None).await.expect_err("again").code,
        Code::NotFound
    );
}

#[tokio::test]
async fn a_lease_holds_an_image_that_expires() {
    let metadata = Metadata::new();
    let ns = ctx("a").with_lease("l");
    let expiring = labels(&[(gc::EXPIRE, "2000-01-01T00:00:00Z")]);
    let image = Metadata::image("x", &digest("m"), expiring);
    let error = metadata
        .images()
        .create(&ns, image.clone())
        .await
        .expect_err("no lease");
    assert_eq!(error.code, Code::NotFound);
    metadata
        .leases()
        .create(&ns, Some("l"), labels(&[]))
        .await
        .expect("created");
    metadata.images().create(&ns, image).await.expect("created");
    metadata
        .images()
        .create(&ns, Metadata::image("y", &digest("m"), labels(&[])))
        .await
        .expect("created");
    let held = metadata.leases().list_resources(&ns, "l").await.expect("a list");
    assert_eq!(
        held.iter()
            .map(|r| (r.kind.as_str(), r.id.as_str()))
            .collect::<Vec<_>>(),
        [("images", "x")]
    );
    metadata.collect().await;
    assert!(metadata.images().get(&ns, "x").await.is_ok());
    metadata.leases().delete(&ns, "l", true).await.expect("deleted");
    assert_eq!(
        metadata.images().get(&ns, "x").await.expect_err("expired").code,
        Code::NotFound
    );
    assert!(metadata.images().get(&ns, "y").await.is_ok());
    assert!(metadata.topics().contains(&"a /images/delete".to_owned()));
}
