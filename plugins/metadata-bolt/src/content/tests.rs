//! Content: who sees what, under both policies, and what a crash leaves.

use orlop_plugin::contract::{Code, CommitOptions, Namespace, collect};

use super::*;
use crate::fixture::{Metadata, ctx, digest, labels, lock};

fn expecting(reference: &str, bytes: &str) -> WriterOptions {
    WriterOptions {
        reference: reference.to_owned(),
        total: bytes.len() as u64,
        expected: Some(digest(bytes)),
    }
}

fn plain(reference: &str) -> WriterOptions {
    WriterOptions {
        reference: reference.to_owned(),
        ..WriterOptions::default()
    }
}

async fn refused(metadata: &Metadata, ctx: &Ctx, options: WriterOptions) -> Error {
    match metadata.content().writer(ctx, options).await {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

async fn read(metadata: &Metadata, ctx: &Ctx, digest: &Digest) -> Result<Vec<u8>> {
    Ok(collect(metadata.content().read(ctx, digest, 0, 0).await?)
        .await?
        .concat())
}

#[tokio::test]
async fn a_blob_belongs_to_the_namespace_that_sent_it() {
    let metadata = Metadata::new();
    let (a, b) = (ctx("a"), ctx("b"));
    let blob = metadata.blob(&a, "bytes", labels(&[("k", "v"), ("empty", "")])).await;
    let info = metadata.content().info(&a, &blob).await.expect("there");
    assert_eq!((info.size, info.labels), (5, labels(&[("k", "v")])));
    assert_eq!(read(&metadata, &a, &blob).await.expect("read"), b"bytes");
    for error in [
        metadata.content().info(&b, &blob).await.expect_err("not b's"),
        read(&metadata, &b, &blob).await.expect_err("not b's"),
        metadata.content().delete(&b, &blob).await.expect_err("not b's"),
    ] {
        assert_eq!(error.code, Code::NotFound);
    }
    assert_eq!(
        refused(&metadata, &a, expecting("again", "bytes")).await.code,
        Code::AlreadyExists
    );
    assert!(
        metadata.content().statuses(&a, &[]).await.expect("a list").is_empty(),
        "the ingest is gone"
    );
    assert_eq!(metadata.topics(), ["a /content/create"]);
}

#[tokio::test]
async fn naming_a_blob_is_enough_where_content_is_shared() {
    let metadata = Metadata::new();
    let (a, b) = (ctx("a"), ctx("b"));
    let blob = metadata.blob(&a, "bytes", labels(&[("k", "v")])).await;
    let mut writer = metadata
        .content()
        .writer(&b, expecting("ref", "bytes"))
        .await
        .expect("a writer");
    let status = writer.status().await.expect("a status");
    assert_eq!((status.offset, status.total, status.reference.as_str()), (5, 5, "ref"));
    assert_eq!(
        metadata.content().info(&b, &blob).await.expect_err("not yet").code,
        Code::NotFound
    );
    let wrong = CommitOptions {
        expected: Some(digest("else")),
        ..CommitOptions::default()
    };
    assert_eq!(
        writer.commit(wrong).await.expect_err("wrong").code,
        Code::FailedPrecondition
    );
    let mut writer = metadata
        .content()
        .writer(&b, expecting("ref", "bytes"))
        .await
        .expect("a writer");
    assert_eq!(writer.commit(CommitOptions::default()).await.expect("committed"), blob);
    assert_eq!(
        writer.commit(CommitOptions::default()).await.expect_err("twice").code,
        Code::FailedPrecondition
    );
    assert!(
        metadata
            .content()
            .info(&b, &blob)
            .await
            .expect("there")
            .labels
            .is_empty(),
        "labels are not shared"
    );
    metadata.content().delete(&a, &blob).await.expect("deleted");
    metadata
        .images()
        .create(&b, Metadata::image("i", &blob, labels(&[])))
        .await
        .expect("created");
    metadata.collect().await;
    assert_eq!(read(&metadata, &b, &blob).await.expect("read"), b"bytes");
    // Another size than the blob has is no claim to it.
    let other = WriterOptions {
        total: 4,
        ..expecting("ref", "bytes")
    };
    let mut writer = metadata.content().writer(&ctx("c"), other).await.expect("a writer");
    assert_eq!(writer.status().await.expect("a status").offset, 0);
}

#[tokio::test]
async fn a_shared_ingest_can_be_written_after_all() {
    let metadata = Metadata::new();
    let (a, b) = (ctx("a"), ctx("b"));
    metadata.blob(&a, "bytes", labels(&[])).await;
    let mut writer = metadata
        .content()
        .writer(&b, expecting("ref", "bytes"))
        .await
        .expect("a writer");
    writer.write(Bytes::new()).await.expect("nothing");
    writer.write("+more".into()).await.expect("written");
    assert_eq!(writer.digest().await.expect("a digest"), digest("bytes+more"));
    writer.truncate(3).await.expect("cut");
    assert_eq!(
        writer.commit(CommitOptions::default()).await.expect("committed"),
        digest("byt")
    );
    let mut writer = metadata
        .content()
        .writer(&b, expecting("ref", "bytes"))
        .await
        .expect("a writer");
    assert_eq!(
        writer.truncate(6).await.expect_err("past the end").code,
        Code::OutOfRange
    );
    writer.truncate(0).await.expect("cut");
    writer.write("anew".into()).await.expect("written");
    assert_eq!(
        writer.commit(CommitOptions::default()).await.expect("committed"),
        digest("anew")
    );
    assert_eq!(read(&metadata, &b, &digest("anew")).await.expect("read"), b"anew");
}

#[tokio::test]
async fn bytes_must_be_sent_where_content_is_isolated() {
    let metadata = Metadata::with_policy(false);
    let (a, b) = (ctx("a"), ctx("b"));
    let blob = metadata.blob(&a, "bytes", labels(&[])).await;
    let mut writer = metadata
        .content()
        .writer(&b, expecting("ref", "bytes"))
        .await
        .expect("a writer");
    assert_eq!(writer.status().await.expect("a status").offset, 0);
    let early = CommitOptions {
        expected: Some(blob.clone()),
        ..CommitOptions::default()
    };
    assert_eq!(
        writer.commit(early.clone()).await.expect_err("no bytes").code,
        Code::FailedPrecondition
    );
    drop(writer);
    let mut writer = metadata
        .content()
        .writer(&b, expecting("ref", "bytes"))
        .await
        .expect("a writer");
    writer.write("bytes".into()).await.expect("written");
    assert_eq!(writer.commit(early).await.expect("committed"), blob);
    assert_eq!(
        lock(&metadata.backends.content.0).blobs.len(),
        1,
        "the bytes are there once"
    );

    // A namespace may lend its content to all others.
    let lends = orlop_plugin::contract::NamespaceInfo {
        name: Namespace::new("a").expect("a name"),
        labels: labels(&[(SHAREABLE, "true")]),
    };
    metadata.namespaces().update(&a, lends, &[]).await.expect("updated");
    let mut writer = metadata
        .content()
        .writer(&ctx("c"), expecting("ref", "bytes"))
        .await
        .expect("a writer");
    assert_eq!(writer.commit(CommitOptions::default()).await.expect("committed"), blob);
}

#[tokio::test]
async fn ingests_are_renamed_and_have_one_writer() {
    let metadata = Metadata::new();
    let (a, b) = (ctx("a"), ctx("b"));
    let mut writer = metadata.content().writer(&a, plain("ref/x")).await.expect("a writer");
    writer.write("abc".into()).await.expect("written");
    let busy = refused(&metadata, &a, plain("ref/x")).await;
    assert_eq!(
        (busy.code, busy.message.as_str()),
        (Code::Unavailable, "ref/x is locked")
    );
    let other = metadata
        .content()
        .writer(&b, plain("ref/x"))
        .await
        .expect("another namespace's");
    let names: Vec<String> = lock(&metadata.backends.content.0).ingests.keys().cloned().collect();
    assert!(
        names[0].starts_with("a/") && names[1].starts_with("b/") && names[0].ends_with("/ref/x"),
        "{names:?}"
    );
    drop((writer, other));
    assert_eq!(
        metadata.content().status(&a, "ref/x").await.expect("a status").offset,
        3
    );
    let statuses = metadata
        .content()
        .statuses(&a, &["ref~=^ref".to_owned()])
        .await
        .expect("a list");
    assert_eq!(
        statuses
            .iter()
            .map(|s| (s.reference.as_str(), s.offset))
            .collect::<Vec<_>>(),
        [("ref/x", 3)]
    );
    assert!(
        metadata
            .content()
            .statuses(&a, &["ref==y".to_owned()])
            .await
            .expect("a list")
            .is_empty()
    );
    assert_eq!(refused(&metadata, &a, plain("")).await.code, Code::InvalidArgument);

    let metadata = metadata.crash().await;
    let mut writer = metadata
        .content()
        .writer(&a, plain("ref/x"))
        .await
        .expect("gone on with");
    assert_eq!(writer.status().await.expect("a status").offset, 3);
    drop(writer);
    metadata.content().abort(&a, "ref/x").await.expect("aborted");
    for error in [
        metadata.content().abort(&a, "ref/x").await.expect_err("gone"),
        metadata.content().status(&a, "ref/x").await.expect_err("gone"),
    ] {
        assert_eq!(error.code, Code::NotFound);
    }
    assert_eq!(lock(&metadata.backends.content.0).ingests.len(), 1, "b's stays");
}

#[tokio::test]
async fn a_commit_checks_size_digest_and_labels() {
    let metadata = Metadata::new();
    let a = ctx("a");
    for (options, code) in [
        (
            CommitOptions {
                size: 4,
                ..CommitOptions::default()
            },
            Code::FailedPrecondition,
        ),
        (
            CommitOptions {
                expected: Some(digest("x")),
                ..CommitOptions::default()
            },
            Code::FailedPrecondition,
        ),
        (
            CommitOptions {
                labels: labels(&[("k", &"v".repeat(4096))]),
                ..CommitOptions::default()
            },
            Code::InvalidArgument,
        ),
    ] {
        let mut writer = metadata.content().writer(&a, plain("ref")).await.expect("a writer");
        writer.truncate(0).await.expect("cut");
        writer.write("abc".into()).await.expect("written");
        assert_eq!(writer.commit(options).await.expect_err("refused").code, code);
    }
    assert_eq!(
        metadata.content().status(&a, "ref").await.expect("still there").offset,
        3
    );
    metadata.blob(&a, "abc", labels(&[])).await;
    let mut writer = metadata.content().writer(&a, plain("ref")).await.expect("a writer");
    let error = writer
        .commit(CommitOptions::default())
        .await
        .expect_err("the namespace has it");
    assert_eq!(error.code, Code::AlreadyExists);
    assert!(metadata.content().statuses(&a, &[]).await.expect("a list").is_empty());
}

#[tokio::test]
async fn a_lease_holds_the_ingest_then_the_blob() {
    let metadata = Metadata::new();
    let leased = ctx("a").with_lease("l");
    assert_eq!(refused(&metadata, &leased, plain("ref")).await.code, Code::NotFound);
    metadata
        .leases()
        .create(&leased, Some("l"), labels(&[]))
        .await
        .expect("created");
    let held = async || {
        let held = metadata.leases().list_resources(&leased, "l").await.expect("a list");
        held.into_iter()
            .map(|r| format!("{} {}", r.kind, r.id))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut writer = metadata
        .content()
        .writer(&leased, plain("ref"))
        .await
        .expect("a writer");
    assert_eq!(held().await, "ingests ref");
    writer.write("abc".into()).await.expect("written");
    writer.commit(CommitOptions::default()).await.expect("committed");
    assert_eq!(held().await, format!("content {}", digest("abc")));
    metadata
        .leases()
        .create(&leased, Some("m"), labels(&[]))
        .await
        .expect("created");
    let other = ctx("a").with_lease("m");
    assert_eq!(
        refused(&metadata, &other, expecting("r", "abc")).await.code,
        Code::AlreadyExists
    );
    let held = metadata.leases().list_resources(&other, "m").await.expect("a list");
    assert_eq!(held[0].id, digest("abc").to_string(), "what is there already is held");
    metadata.leases().delete(&leased, "l", true).await.expect("deleted");
    assert!(metadata.content().info(&leased, &digest("abc")).await.is_ok());
    metadata.leases().delete(&leased, "m", true).await.expect("deleted");
    assert!(metadata.content().info(&other, &digest("abc")).await.is_err());
}

#[tokio::test]
async fn labels_are_updated_and_lists_filtered() {
    let metadata = Metadata::new();
    let a = ctx("a");
    let one = metadata.blob(&a, "1", labels(&[("k", "1")])).await;
    let two = metadata.blob(&a, "2", labels(&[])).await;
    let mut info = metadata.content().info(&a, &one).await.expect("there");
    info.labels = labels(&[("k", ""), ("l", "x")]);
    info.size = 99;
    let updated = metadata
        .content()
        .update(&a, info.clone(), &["labels.k".into(), "labels.l".into()])
        .await;
    let updated = updated.expect("updated");
    assert_eq!((updated.labels, updated.size), (labels(&[("l", "x")]), 1));
    let error = metadata
        .content()
        .update(&a, info, &["size".into()])
        .await
        .expect_err("immutable");
    assert_eq!(error.code, Code::InvalidArgument);
    for (filter, wanted) in [
        ("labels.l==x", vec![one.clone()]),
        (&format!("digest=={two}"), vec![two.clone()]),
    ] {
        let found = collect(metadata.content().list(&a, &[filter.to_owned()]).await.expect("a list")).await;
        assert_eq!(
            found.expect("a list").into_iter().map(|i| i.digest).collect::<Vec<_>>(),
            wanted,
            "{filter}"
        );
    }
}

#[tokio::test]
async fn what_a_crash_left_in_the_store_is_cleaned() {
    let metadata = Metadata::new();
    let a = ctx("a");
    let kept = metadata
        .blob(&a, "kept", labels(&[("containerd.io/gc.root", "x")]))
        .await;
    {
        let mut blobs = lock(&metadata.backends.content.0);
        blobs.blobs.insert(
            digest("committed, not recorded"),
            Bytes::from("committed, not recorded"),
        );
        blobs
            .ingests
            .insert("a/99/opened, not recorded".to_owned(), (Vec::new(), false));
    }
    let metadata = metadata.crash().await;
    metadata.collect().await;
    let blobs = lock(&metadata.backends.content.0);
    assert_eq!(blobs.blobs.keys().collect::<Vec<_>>(), [&kept]);
    assert!(blobs.ingests.is_empty());
}
