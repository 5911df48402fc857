//! Ingests: from the first byte to the commit.

use bytes::Bytes;

use super::super::{Outcome, Suite, ensure, refused, same};
use super::{Kit, commit_of, data_of, digest_of};
use crate::contract::{Code, CommitOptions, WriterOptions};

pub(super) async fn run(kit: &Kit, suite: &mut Suite) {
    suite
        .check("an ingest grows by what is written and becomes a blob", life(kit))
        .await;
    suite
        .check("an ingest without bytes becomes the empty blob", empty(kit))
        .await;
    suite
        .check("an ingest goes on where its last writer stopped", resume(kit))
        .await;
    suite.check("an ingest can be cut", truncate(kit)).await;
    suite.check("an ingest has one writer", one_writer(kit)).await;
    suite.check("an aborted ingest is gone", abort(kit)).await;
    suite
        .check(
            "a commit holds the size and the digest against what was written",
            wrong(kit),
        )
        .await;
    suite.check("a blob that is there is AlreadyExists", again(kit)).await;
    suite.check("statuses are chosen by filters", statuses(kit)).await;
}

async fn life(kit: &Kit) -> Outcome {
    let data = data_of("life", 300_000);
    let mut writer = kit.writer("life").await?;
    same("the offset of a new ingest", writer.status().await?.offset, 0)?;
    writer.write(data.slice(..100_000)).await?;
    writer.write(data.slice(100_000..)).await?;
    let status = writer.status().await?;
    same("the offset", status.offset, 300_000)?;
    same("the reference", status.reference.as_str(), "testkit/life")?;
    ensure(status.updated >= status.started, || {
        "it was changed before it began".to_owned()
    })?;
    same("the digest so far", writer.digest().await?, digest_of(&data))?;
    let digest = writer.commit(commit_of(&data)).await?;
    same("the digest", &digest, &digest_of(&data))?;
    let info = kit.store.info(&kit.ctx, &digest).await?;
    same("the size", info.size, 300_000)?;
    let status = kit.store.status(&kit.ctx, "testkit/life").await;
    refused("the status of a committed ingest", status, Code::NotFound)?;
    kit.delete(&digest).await
}

async fn empty(kit: &Kit) -> Outcome {
    let mut writer = kit.writer("empty").await?;
    let digest = match writer.commit(commit_of(&[])).await {
        // Somebody may have stored it before: there is only one.
        Err(error) if error.is_already_exists() => return Ok(()),
        other => other?,
    };
    same("the digest", &digest, &digest_of(&[]))?;
    same("the content", kit.read(&digest, 0, 0).await?.len(), 0)?;
    kit.delete(&digest).await
}

async fn resume(kit: &Kit) -> Outcome {
    let data = data_of("resume", 200_000);
    let mut writer = kit.writer("resume").await?;
    writer.write(data.slice(..150_000)).await?;
    drop(writer);
    let mut writer = kit.writer("resume").await?;
    same(
        "the offset after a dropped writer",
        writer.status().await?.offset,
        150_000,
    )?;
    same("the digest so far", writer.digest().await?, digest_of(&data[..150_000]))?;
    writer.write(data.slice(150_000..)).await?;
    let digest = writer.commit(commit_of(&data)).await?;
    same("the content", kit.read(&digest, 0, 0).await?, data.to_vec())?;
    kit.delete(&digest).await
}

async fn truncate(kit: &Kit) -> Outcome {
    let data = data_of("truncate", 10_000);
    let mut writer = kit.writer("truncate").await?;
    writer.write(Bytes::from(vec![b'x'; 5_000])).await?;
    refused("a cut past the end", writer.truncate(5_001).await, Code::OutOfRange)?;
    // Over a socket an error is the end of the call behind a writer; the next one goes on with the ingest.
    drop(writer);
    let mut writer = kit.writer("truncate").await?;
    writer.truncate(0).await?;
    same("the offset after a cut to nothing", writer.status().await?.offset, 0)?;
    writer.write(data.slice(..6_000)).await?;
    match writer.truncate(4_000).await {
        Ok(()) => {
            same("the offset after a cut", writer.status().await?.offset, 4_000)?;
            writer.write(data.slice(4_000..)).await?;
        }
        // containerd's service cuts to nothing alone.
        Err(error) if error.code == Code::OutOfRange => {
            drop(writer);
            writer = kit.writer("truncate").await?;
            writer.truncate(0).await?;
            writer.write(data.clone()).await?;
        }
        Err(error) => return Err(error.into()),
    }
    let digest = writer.commit(commit_of(&data)).await?;
    same("the content", kit.read(&digest, 0, 0).await?, data.to_vec())?;
    kit.delete(&digest).await
}

async fn one_writer(kit: &Kit) -> Outcome {
    let mut first = kit.writer("one").await?;
    first.write(data_of("one", 100)).await?;
    let options = WriterOptions {
        reference: "testkit/one".to_owned(),
        ..WriterOptions::default()
    };
    refused(
        "a second writer",
        kit.store.writer(&kit.ctx, options).await,
        Code::Unavailable,
    )?;
    first.write(data_of("one", 100)).await?;
    drop(first);
    let mut next = kit.writer("one").await?;
    same("the offset for the next writer", next.status().await?.offset, 200)?;
    drop(next);
    Ok(kit.abort("one").await?)
}

async fn abort(kit: &Kit) -> Outcome {
    let mut writer = kit.writer("abort").await?;
    writer.write(data_of("abort", 100)).await?;
    drop(writer);
    kit.abort("abort").await?;
    refused(
        "the status",
        kit.store.status(&kit.ctx, "testkit/abort").await,
        Code::NotFound,
    )?;
    match kit.abort("abort").await {
        // What is not there is as good as aborted, or it is an error: containerd has stores of both kinds.
        Err(error) if !error.is_not_found() => return Err(error.into()),
        _ => {}
    }
    let mut writer = kit.writer("abort").await?;
    same(
        "the offset of a new ingest of that name",
        writer.status().await?.offset,
        0,
    )?;
    drop(writer);
    Ok(kit.abort("abort").await?)
}

async fn wrong(kit: &Kit) -> Outcome {
    let data = data_of("wrong", 1_000);
    let right = commit_of(&data);
    let size = CommitOptions {
        size: 999,
        ..right.clone()
    };
    let digest = CommitOptions {
        expected: Some(digest_of(b"something else")),
        ..right
    };
    for (what, options) in [("a wrong size", size), ("a wrong digest", digest)] {
        let mut writer = kit.writer("wrong").await?;
        writer.truncate(0).await?;
        writer.write(data.clone()).await?;
        refused(what, writer.commit(options).await, Code::FailedPrecondition)?;
        drop(writer);
        refused(
            "info of it",
            kit.store.info(&kit.ctx, &digest_of(&data)).await,
            Code::NotFound,
        )?;
    }
    match kit.abort("wrong").await {
        // Whether the ingest outlives a refused commit is the store's choice.
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

async fn again(kit: &Kit) -> Outcome {
    let data = data_of("again", 1_000);
    let digest = kit.blob("again", &data).await?;
    let options = WriterOptions {
        reference: "testkit/again".to_owned(),
        total: data.len() as u64,
        expected: Some(digest.clone()),
    };
    refused(
        "a writer of it",
        kit.store.writer(&kit.ctx, options).await,
        Code::AlreadyExists,
    )?;
    refused("a commit of it", kit.blob("again", &data).await, Code::AlreadyExists)?;
    let status = kit.store.status(&kit.ctx, "testkit/again").await;
    refused("the status of the ingest that came too late", status, Code::NotFound)?;
    same("the content", kit.read(&digest, 0, 0).await?, data.to_vec())?;
    kit.delete(&digest).await
}

async fn statuses(kit: &Kit) -> Outcome {
    for name in ["s-1", "s-2"] {
        let mut writer = kit.writer(name).await?;
        writer.write(data_of(name, 10)).await?;
    }
    let found = async |filters: &[&str]| {
        let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
        let mut found: Vec<String> = kit
            .store
            .statuses(&kit.ctx, &filters)
            .await?
            .into_iter()
            .map(|status| status.reference)
            .filter(|reference| reference.starts_with("testkit/"))
            .collect();
        found.sort();
        Ok::<_, crate::Error>(found)
    };
    same(
        "all of them",
        found(&[]).await?,
        vec!["testkit/s-1".to_owned(), "testkit/s-2".to_owned()],
    )?;
    same(
        "one of them",
        found(&["ref==testkit/s-2"]).await?,
        vec!["testkit/s-2".to_owned()],
    )?;
    for name in ["s-1", "s-2"] {
        // Its writer may be just going.
        drop(kit.writer(name).await?);
        kit.abort(name).await?;
    }
    Ok(())
}
