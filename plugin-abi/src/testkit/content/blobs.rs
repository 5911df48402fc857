//! Blobs: reading, labels, lists, removal, and many at the same time.

use futures_util::future::join_all;

use super::super::{Outcome, Suite, ensure, refused, same};
use super::{Kit, commit_of, data_of, digest_of, kept};
use crate::contract::{Code, ContentInfo, Labels, collect};

/// How many call at once.
const CALLERS: usize = 16;

pub(super) async fn run(kit: &Kit, suite: &mut Suite) {
    suite.check("any range of a blob can be read", ranges(kit)).await;
    suite.check("what is not there is NotFound", missing(kit)).await;
    suite
        .check("labels are kept and changed as their fields say", labels(kit))
        .await;
    suite.check("a list is in order of the digests", lists(kit)).await;
    suite.check("many ingest side by side", together(kit)).await;
    suite
        .check("of many who bring one blob, one stores it", race(kit))
        .await;
}

async fn ranges(kit: &Kit) -> Outcome {
    let data = data_of("ranges", 2_500_000);
    let digest = kit.blob("ranges", &data).await?;
    for (offset, size) in [
        (0, 0),
        (0, 1),
        (1, 10),
        (0, 2_500_000),
        (1_048_575, 2),
        (2_499_999, 1),
        (1_000, 0),
        (2_499_000, 0),
    ] {
        let end = if size == 0 { data.len() } else { offset + size };
        let read = kit.read(&digest, offset as u64, size as u64).await?;
        ensure(read == data[offset..end], || {
            format!("{size} bytes from {offset} on are others than were written")
        })?;
    }
    refused(
        "a read from behind the end",
        kit.read(&digest, 2_500_001, 0).await,
        Code::OutOfRange,
    )?;
    kit.delete(&digest).await
}

async fn missing(kit: &Kit) -> Outcome {
    let nothing = digest_of(b"orlop's testkit never stores this");
    refused("info", kit.store.info(&kit.ctx, &nothing).await, Code::NotFound)?;
    refused("read", kit.read(&nothing, 0, 0).await, Code::NotFound)?;
    refused("delete", kit.store.delete(&kit.ctx, &nothing).await, Code::NotFound)?;
    refused(
        "status",
        kit.store.status(&kit.ctx, "testkit/nothing").await,
        Code::NotFound,
    )
}

fn info_with(info: &ContentInfo, labels: &[(&str, &str)]) -> ContentInfo {
    let mut all = kept();
    all.extend(
        labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    );
    ContentInfo {
        labels: all,
        ..info.clone()
    }
}

async fn labels(kit: &Kit) -> Outcome {
    let data = data_of("labels", 100);
    let digest = kit.blob("labels", &data).await?;
    let info = kit.store.info(&kit.ctx, &digest).await?;
    if info.labels.is_empty() {
        // A store of blobs alone leaves labels to the metadata.
        return kit.delete(&digest).await;
    }
    same("the labels of the commit", &info.labels, &kept())?;
    let change = async |labels: &[(&str, &str)], fields: &[&str]| {
        let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        let changed = kit.store.update(&kit.ctx, info_with(&info, labels), &fields).await?;
        Ok::<Labels, crate::Error>(changed.labels)
    };
    let expected = |labels: &[(&str, &str)]| info_with(&info, labels).labels;
    let all = change(&[("a", "1"), ("b", "2")], &[]).await?;
    same(
        "the labels after an update of all",
        all,
        expected(&[("a", "1"), ("b", "2")]),
    )?;
    let some = change(&[("a", "3"), ("c", "4")], &["labels.a", "labels.b"]).await?;
    same("the labels after an update of a and b", some, expected(&[("a", "3")]))?;
    let replaced = change(&[("c", "4")], &["labels"]).await?;
    same(
        "the labels after an update of `labels`",
        &replaced,
        &expected(&[("c", "4")]),
    )?;
    same(
        "what info shows afterwards",
        kit.store.info(&kit.ctx, &digest).await?.labels,
        replaced,
    )?;
    refused(
        "an update of `size`",
        change(&[], &["size"]).await,
        Code::InvalidArgument,
    )?;
    kit.delete(&digest).await
}

async fn lists(kit: &Kit) -> Outcome {
    let mut digests = Vec::new();
    for name in ["list-1", "list-2", "list-3"] {
        digests.push(kit.blob(name, &data_of(name, 100)).await?);
    }
    digests.sort();
    let all = collect(kit.store.list(&kit.ctx, &[]).await?).await?;
    let found: Vec<_> = all.into_iter().map(|info| info.digest).collect();
    ensure(found.is_sorted(), || "it is not in order".to_owned())?;
    for digest in &digests {
        ensure(found.contains(digest), || format!("{digest} is not in it"))?;
    }
    let filter = format!("digest=={}", digests[0]);
    let one = collect(kit.store.list(&kit.ctx, &[filter]).await?).await?;
    same(
        "what a filter by digest finds",
        one.into_iter().map(|info| info.digest).collect(),
        vec![digests[0].clone()],
    )?;
    for digest in digests {
        kit.delete(&digest).await?;
        refused(
            "info of a removed blob",
            kit.store.info(&kit.ctx, &digest).await,
            Code::NotFound,
        )?;
        refused(
            "a second removal",
            kit.store.delete(&kit.ctx, &digest).await,
            Code::NotFound,
        )?;
    }
    Ok(())
}

async fn together(kit: &Kit) -> Outcome {
    let lives = (0..CALLERS).map(|i| async move {
        let name = format!("together-{i}");
        let data = data_of(&name, 10_000);
        let digest = kit.blob(&name, &data).await?;
        same("the content", kit.read(&digest, 0, 0).await?, data.to_vec())?;
        kit.delete(&digest).await
    });
    join_all(lives).await.into_iter().collect()
}

async fn race(kit: &Kit) -> Outcome {
    let data = data_of("race", 10_000);
    let mut writers = Vec::new();
    for i in 0..CALLERS {
        let mut writer = kit.writer(&format!("race-{i}")).await?;
        writer.write(data.clone()).await?;
        writers.push(writer);
    }
    let commits = writers.iter_mut().map(|writer| writer.commit(commit_of(&data)));
    let results = join_all(commits).await;
    same(
        "the number of those who stored it",
        results.iter().filter(|result| result.is_ok()).count(),
        1,
    )?;
    for error in results.into_iter().filter_map(Result::err) {
        same("the code of another", error.code, Code::AlreadyExists)?;
    }
    kit.delete(&digest_of(&data)).await
}
