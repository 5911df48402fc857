//! The store on a real directory: the contract's rules, what crashes leave, and random sequences against a model.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use orlop_plugin::contract::{Code, CommitOptions, ContentStore, Ctx, Digest, IngestWriter, WriterOptions, collect};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::LocalStore;
use crate::ingest::IN_MEMORY;
use crate::layout::ingest_name;

/// More than stays in memory.
const LARGE: usize = IN_MEMORY as usize * 3 + 7;

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 ^ seed).collect()
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes))
}

async fn store(root: &Path) -> LocalStore {
    LocalStore::open(root.to_path_buf()).await.expect("opened")
}

async fn writer(store: &LocalStore, reference: &str) -> Box<dyn IngestWriter> {
    let options = WriterOptions {
        reference: reference.into(),
        ..WriterOptions::default()
    };
    store.writer(&Ctx::daemon(), options).await.expect("a writer")
}

async fn put(store: &LocalStore, content: &[u8]) -> Digest {
    let mut writer = writer(store, &format!("put-{}", digest(content))).await;
    writer.write(Bytes::copy_from_slice(content)).await.expect("written");
    writer.commit(CommitOptions::default()).await.expect("committed")
}

async fn read(store: &LocalStore, digest: &Digest, offset: u64, size: u64) -> Vec<u8> {
    let chunks = store
        .read(&Ctx::daemon(), digest, offset, size)
        .await
        .expect("readable");
    collect(chunks).await.expect("whole").concat()
}

fn ingests(root: &Path) -> usize {
    fs::read_dir(root.join("ingest")).expect("listed").count()
}

#[tokio::test]
async fn blobs_of_every_size_come_back() {
    let root = tempfile::tempdir().expect("a directory");
    let store = store(root.path()).await;
    for length in [0, 1, IN_MEMORY as usize, IN_MEMORY as usize + 1, LARGE, 3 << 20] {
        let content = bytes(length, 3);
        let stored = put(&store, &content).await;
        assert_eq!(stored, digest(&content));
        assert_eq!(read(&store, &stored, 0, 0).await, content);
        let path = root.path().join("blobs/sha256").join(stored.hex());
        let found = fs::metadata(path).expect("a blob");
        assert_eq!(found.len(), length as u64);
        assert!(found.permissions().readonly(), "read only");
        let info = store.info(&Ctx::daemon(), &stored).await.expect("known");
        assert_eq!(info.size, length as u64);
    }
    assert_eq!(ingests(root.path()), 0, "nothing is left of a committed ingest");
}

#[tokio::test]
async fn parts_are_read_and_what_is_past_the_end_is_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let store = store(root.path()).await;
    let content = bytes(2 << 20, 1);
    let stored = put(&store, &content).await;
    assert_eq!(read(&store, &stored, 5, 10).await, content[5..15]);
    assert_eq!(read(&store, &stored, 1 << 20, 0).await, content[1 << 20..]);
    assert_eq!(read(&store, &stored, content.len() as u64 - 1, 100).await.len(), 1);
    assert_eq!(read(&store, &stored, content.len() as u64, 0).await.len(), 0);
    let past = store.read(&Ctx::daemon(), &stored, content.len() as u64 + 1, 0).await;
    assert_eq!(past.err().expect("refused").code, Code::OutOfRange);
    let unknown = store.read(&Ctx::daemon(), &digest(b"other"), 0, 0).await;
    assert_eq!(unknown.err().expect("refused").code, Code::NotFound);
}

#[tokio::test]
async fn a_reference_has_one_writer() {
    let root = tempfile::tempdir().expect("a directory");
    let store = store(root.path()).await;
    let first = writer(&store, "a").await;
    let second = store
        .writer(
            &Ctx::daemon(),
            WriterOptions {
                reference: "a".into(),
                ..WriterOptions::default()
            },
        )
        .await;
    assert_eq!(second.err().expect("refused").code, Code::Unavailable);
    let (_other, third) = tokio::join!(writer(&store, "b"), async {
        drop(first);
        writer(&store, "a").await
    });
    drop(third);
}

#[tokio::test]
async fn what_is_stored_already_is_said_and_its_ingest_goes() {
    let root = tempfile::tempdir().expect("a directory");
    let store = store(root.path()).await;
    for length in [10, LARGE] {
        let content = bytes(length, 9);
        let mut late = writer(&store, "late").await;
        late.write(content.clone().into()).await.expect("written");
        let stored = put(&store, &content).await;
        let again = late.commit(CommitOptions::default()).await;
        assert!(again.expect_err("refused").is_already_exists());
        let options = WriterOptions {
            reference: "new".into(),
            expected: Some(stored),
            ..WriterOptions::default()
        };
        let opened = store.writer(&Ctx::daemon(), options).await;
        assert!(opened.err().expect("refused").is_already_exists());
        assert_eq!(ingests(root.path()), 0);
        assert!(
            store
                .status(&Ctx::daemon(), "late")
                .await
                .expect_err("gone")
                .is_not_found()
        );
    }
}

#[tokio::test]
async fn a_commit_that_does_not_fit_leaves_the_ingest_to_go_on_with() {
    let root = tempfile::tempdir().expect("a directory");
    let store = store(root.path()).await;
    for length in [10, LARGE] {
        let content = bytes(length, 5);
        let wrong = [
            CommitOptions {
                size: length as u64 + 1,
                ..CommitOptions::default()
            },
            CommitOptions {
                expected: Some(digest(b"other")),
                ..CommitOptions::default()
            },
        ];
        for (turn, options) in wrong.into_iter().enumerate() {
            let mut writer = writer(&store, "a").await;
            if turn == 0 {
                writer.write(content.clone().into()).await.expect("written");
            }
            let refused = writer.commit(options).await.expect_err("refused");
            assert_eq!(refused.code, Code::FailedPrecondition);
            assert_eq!(
                writer.write(Bytes::from_static(b"x")).await.expect_err("over").code,
                Code::FailedPrecondition
            );
        }
        let mut writer = writer(&store, "a").await;
        assert_eq!(writer.status().await.expect("known").offset, length as u64);
        assert_eq!(writer.digest().await.expect("known"), digest(&content));
        writer.commit(CommitOptions::default()).await.expect("committed");
    }
}

#[tokio::test]
async fn an_ingest_is_gone_on_with_by_another_daemon() {
    let root = tempfile::tempdir().expect("a directory");
    for length in [0, 10, LARGE] {
        let content = bytes(length, 7);
        let reference = format!("r/{length}");
        let before = store(root.path()).await;
        let mut first = writer(&before, &reference).await;
        first.write(content.clone().into()).await.expect("written");
        drop(first);
        // Free again means on disk.
        drop(writer(&before, &reference).await);
        let after = store(root.path()).await;
        let status = after.status(&Ctx::daemon(), &reference).await.expect("known");
        assert_eq!(
            (status.offset, status.reference.as_str()),
            (length as u64, reference.as_str())
        );
        let mut second = writer(&after, &reference).await;
        second.write(Bytes::from_static(b"and more")).await.expect("written");
        let whole = [content.as_slice(), b"and more"].concat();
        let stored = second
            .commit(CommitOptions {
                size: whole.len() as u64,
                expected: Some(digest(&whole)),
                ..CommitOptions::default()
            })
            .await
            .expect("committed");
        assert_eq!(read(&after, &stored, 0, 0).await, whole);
    }
    assert_eq!(ingests(root.path()), 0);
}

#[tokio::test]
async fn an_ingest_of_another_length_begins_anew() {
    let root = tempfile::tempdir().expect("a directory");
    let store = store(root.path()).await;
    let open = |total| WriterOptions {
        reference: "a".into(),
        total,
        expected: None,
    };
    let mut first = store.writer(&Ctx::daemon(), open(100)).await.expect("a writer");
    first.write(Bytes::from_static(b"hello")).await.expect("written");
    drop(first);
    let mut same = store.writer(&Ctx::daemon(), open(0)).await.expect("a writer");
    let status = same.status().await.expect("known");
    assert_eq!((status.offset, status.total), (5, 100));
    drop(same);
    let mut other = store.writer(&Ctx::daemon(), open(200)).await.expect("a writer");
    let status = other.status().await.expect("known");
    assert_eq!((status.offset, status.total), (0, 200));
}

#[tokio::test]
async fn an_abort_ends_the_writer_and_leaves_nothing() {
    let root = tempfile::tempdir().expect("a directory");
    let store = store(root.path()).await;
    for length in [10, LARGE] {
        let mut open = writer(&store, "a").await;
        open.write(bytes(length, 0).into()).await.expect("written");
        store.abort(&Ctx::daemon(), "a").await.expect("aborted");
        assert!(
            open.write(Bytes::from_static(b"x"))
                .await
                .expect_err("gone")
                .is_not_found()
        );
        assert!(
            open.commit(CommitOptions::default())
                .await
                .expect_err("gone")
                .is_not_found()
        );
        drop(open);
        let mut fresh = writer(&store, "a").await;
        assert_eq!(fresh.status().await.expect("known").offset, 0);
        drop(fresh);
        drop(writer(&store, "a").await);
        store.abort(&Ctx::daemon(), "a").await.expect("aborted");
        store.abort(&Ctx::daemon(), "a").await.expect("aborted already");
        assert_eq!(ingests(root.path()), 0);
    }
}

#[tokio::test]
async fn lists_are_in_order_and_filtered() {
    let root = tempfile::tempdir().expect("a directory");
    let store = store(root.path()).await;
    let mut stored = Vec::new();
    for seed in 0..20 {
        stored.push(put(&store, &bytes(100, seed)).await);
    }
    stored.sort();
    fs::write(root.path().join("blobs/sha256/no-digest"), "").expect("written");
    let list = async |filters: &[String]| -> Vec<Digest> {
        let infos = store.list(&Ctx::daemon(), filters).await.expect("listed");
        let infos = collect(infos).await.expect("whole");
        infos.into_iter().map(|info| info.digest).collect()
    };
    assert_eq!(list(&[]).await, stored);
    assert_eq!(list(&[format!("digest=={}", stored[3])]).await, stored[3..4]);
    assert!(list(&["labels.a==b".into()]).await.is_empty());
    store.delete(&Ctx::daemon(), &stored[0]).await.expect("deleted");
    assert!(
        store
            .delete(&Ctx::daemon(), &stored[0])
            .await
            .expect_err("gone")
            .is_not_found()
    );
    assert_eq!(list(&[]).await, stored[1..]);

    let _active = writer(&store, "active").await;
    drop(writer(&store, "idle").await);
    drop(writer(&store, "idle").await);
    let all = store.statuses(&Ctx::daemon(), &[]).await.expect("listed");
    let names: Vec<_> = all.iter().map(|status| status.reference.as_str()).collect();
    assert_eq!(names, ["active", "idle"]);
    let some = store
        .statuses(&Ctx::daemon(), &["ref~=^i".into()])
        .await
        .expect("listed");
    assert_eq!(some.len(), 1);
    assert!(store.statuses(&Ctx::daemon(), &["ref~".into()]).await.is_err());
}

#[tokio::test]
async fn what_a_crash_leaves_is_cleaned_or_gone_on_with() {
    let root = tempfile::tempdir().expect("a directory");
    let store = store(root.path()).await;
    let mut whole = writer(&store, "whole").await;
    whole.write(bytes(LARGE, 1).into()).await.expect("written");
    drop(whole);
    drop(writer(&store, "whole").await);
    let ingest = |name: &str| root.path().join("ingest").join(ingest_name(name));
    // A crash between the blob's rename and the removal of its ingest.
    fs::create_dir(ingest("renamed")).expect("made");
    fs::write(ingest("renamed").join("ref"), "renamed").expect("written");
    // A crash while an ingest was made.
    fs::create_dir(ingest("begun")).expect("made");
    // A power cut that left a file without its bytes.
    fs::create_dir(ingest("empty")).expect("made");
    for file in ["ref", "startedat", "updatedat", "data"] {
        fs::write(ingest("empty").join(file), "").expect("written");
    }
    fs::write(root.path().join("ingest/stray"), "").expect("written");
    let mut resumed = writer(&store, "begun").await;
    assert_eq!(resumed.status().await.expect("known").offset, 0);
    let statuses = store.statuses(&Ctx::daemon(), &[]).await.expect("listed");
    assert_eq!(statuses.len(), 2);
    resumed.write(Bytes::from_static(b"x")).await.expect("written");
    let cleaned = store.clone();
    tokio::task::spawn_blocking(move || cleaned.clean())
        .await
        .expect("cleaned");
    drop(resumed);
    drop(writer(&store, "begun").await);
    assert_eq!(ingests(root.path()), 2);
    let status = store.status(&Ctx::daemon(), "whole").await.expect("known");
    assert_eq!(status.offset, LARGE as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_store_many_blobs() {
    let root = tempfile::tempdir().expect("a directory");
    let store = Arc::new(store(root.path()).await);
    let clients = (0..16_u32).map(|client| {
        let store = store.clone();
        tokio::spawn(async move {
            for turn in 0..20_u32 {
                let content = [client.to_le_bytes(), turn.to_le_bytes()].concat().repeat(128);
                let stored = put(&store, &content).await;
                assert_eq!(read(&store, &stored, 0, 0).await, content);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no panic");
    }
    let all = store.list(&Ctx::daemon(), &[]).await.expect("listed");
    assert_eq!(collect(all).await.expect("whole").len(), 320);
    assert_eq!(ingests(root.path()), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, u8),
    /// In thousandths of the length.
    Truncate(u16),
    TruncatePast,
    Digest,
    Reopen,
    RestartAndReopen,
    CommitWrong,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..5_000, any::<u8>()).prop_map(|(length, seed)| Step::Write(length, seed)),
        3 => (0_usize..300_000, any::<u8>()).prop_map(|(length, seed)| Step::Write(length, seed)),
        2 => (0_u16..=1000).prop_map(Step::Truncate),
        1 => Just(Step::TruncatePast),
        1 => Just(Step::Digest),
        2 => Just(Step::Reopen),
        1 => Just(Step::RestartAndReopen),
        1 => Just(Step::CommitWrong),
    ]
}

async fn follow(steps: Vec<Step>) {
    let root = tempfile::tempdir().expect("a directory");
    let mut store = store(root.path()).await;
    let mut open = writer(&store, "model").await;
    let mut model: Vec<u8> = Vec::new();
    for step in steps {
        match step {
            Step::Write(length, seed) => {
                open.write(bytes(length, seed).into()).await.expect("written");
                model.extend(bytes(length, seed));
            }
            Step::Truncate(part) => {
                let size = model.len() * usize::from(part) / 1000;
                open.truncate(size as u64).await.expect("truncated");
                model.truncate(size);
            }
            Step::TruncatePast => {
                let past = open.truncate(model.len() as u64 + 1).await;
                assert_eq!(past.expect_err("refused").code, Code::OutOfRange);
            }
            Step::Digest => assert_eq!(open.digest().await.expect("known"), digest(&model)),
            Step::Reopen => {
                drop(open);
                open = writer(&store, "model").await;
            }
            Step::RestartAndReopen => {
                drop(open);
                drop(writer(&store, "model").await);
                store = self::store(root.path()).await;
                let cleaned = store.clone();
                tokio::task::spawn_blocking(move || cleaned.clean())
                    .await
                    .expect("cleaned");
                open = writer(&store, "model").await;
            }
            Step::CommitWrong => {
                let options = CommitOptions {
                    expected: Some(digest(b"never written")),
                    ..CommitOptions::default()
                };
                assert_eq!(
                    open.commit(options).await.expect_err("refused").code,
                    Code::FailedPrecondition
                );
                drop(open);
                open = writer(&store, "model").await;
            }
        }
        assert_eq!(open.status().await.expect("known").offset, model.len() as u64);
    }
    let stored = open.commit(CommitOptions::default()).await.expect("committed");
    assert_eq!(stored, digest(&model));
    assert_eq!(read(&store, &stored, 0, 0).await, model);
    assert_eq!(ingests(root.path()), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_sequence_ends_in_what_was_written(steps in prop::collection::vec(step(), 0..24)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        runtime.block_on(follow(steps));
    }
}
