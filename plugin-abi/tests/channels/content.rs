//! Ingests over every way: what a writer does, and what the `Write` stream is on the wire.

use std::sync::Arc;

use bytes::Bytes;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use orlop_plugin::channel::Channel;
use orlop_plugin::contract::*;
use orlop_plugin::{Contracts, rpc};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::store::{Store, digest_of};
use crate::ways::{near, ways};

/// On each way, to a store of its own.
fn on_each_way(test: impl AsyncFn(&Store, Channel)) {
    near(async {
        for name in ["memory", "library", "socket"] {
            let store = Store::default();
            let contracts = Contracts::default().with_content(Arc::new(store.clone()));
            let way = ways(&contracts)
                .into_iter()
                .find(|way| way.name == name)
                .expect("a way");
            println!("{name}");
            test(&store, way.channel.clone()).await;
        }
    });
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<u8>),
    Truncate(prop::sample::Index),
    TruncatePast(u64),
    Status,
    Digest,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..300).prop_map(Step::Write),
        1 => any::<prop::sample::Index>().prop_map(Step::Truncate),
        1 => (1u64..100).prop_map(Step::TruncatePast),
        1 => Just(Step::Status),
        1 => Just(Step::Digest),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 0..12)
}

#[test]
fn a_writer_is_a_file_that_becomes_a_blob() {
    on_each_way(async |store, channel| {
        let content = rpc::content::connect(channel);
        let ctx = Ctx::daemon();
        let mut runner = TestRunner::new(Config::default());
        for case in 0..24 {
            let steps = steps().new_tree(&mut runner).expect("steps").current();
            println!("{case}: {steps:?}");
            let options = WriterOptions {
                reference: format!("ref-{case}"),
                ..WriterOptions::default()
            };
            let mut writer = content.writer(&ctx, options.clone()).await.expect("opened");
            let mut model = Vec::new();
            for step in steps {
                match step {
                    Step::Write(data) => {
                        writer.write(Bytes::from(data.clone())).await.expect("written");
                        model.extend(data);
                    }
                    Step::Truncate(at) => {
                        let at = at.index(model.len() + 1);
                        writer.truncate(at as u64).await.expect("cut");
                        model.truncate(at);
                    }
                    Step::TruncatePast(by) => {
                        let error = writer
                            .truncate(model.len() as u64 + by)
                            .await
                            .expect_err("past the end");
                        assert_eq!(error.code, Code::OutOfRange);
                        // The error ended the stream, and with it this writer: the ingest is gone on with.
                        writer = reopen(store, &*content, writer, &options).await;
                    }
                    Step::Status => {
                        let status = writer.status().await.expect("a status");
                        assert_eq!(
                            (status.reference, status.offset),
                            (options.reference.clone(), model.len() as u64)
                        );
                    }
                    Step::Digest => assert_eq!(writer.digest().await, Ok(digest_of(&model))),
                    Step::Reopen => writer = reopen(store, &*content, writer, &options).await,
                }
                assert_eq!(store.ingest(&options.reference), Some(model.clone()));
            }
            // A blob of its own in each case, or the second of two equal ones would exist.
            let data = Bytes::from(format!("case {case}"));
            model.extend_from_slice(&data);
            writer.write(data).await.expect("written");
            let labels = Labels::from([("key".to_owned(), "value".to_owned())]);
            let commit = CommitOptions {
                size: model.len() as u64,
                expected: Some(digest_of(&model)),
                labels: labels.clone(),
            };
            assert_eq!(writer.commit(commit).await, Ok(digest_of(&model)));
            assert_eq!(store.inner().blobs.get(&digest_of(&model)), Some(&(model, labels)));
            assert_eq!(store.ingest(&options.reference), None);
        }
    });
}

async fn reopen(
    store: &Store,
    content: &dyn ContentStore,
    writer: Box<dyn IngestWriter>,
    options: &WriterOptions,
) -> Box<dyn IngestWriter> {
    drop(writer);
    free(store, &options.reference).await;
    content.writer(&Ctx::daemon(), options.clone()).await.expect("reopened")
}

/// Returns when nobody writes `reference` any more: over a socket the far side hears of it later.
async fn free(store: &Store, reference: &str) {
    while !store.is_free(reference) {
        tokio::task::yield_now().await;
    }
}

#[test]
fn large_content_crosses_in_pieces() {
    on_each_way(async |_, channel| {
        let content = rpc::content::connect(channel);
        let ctx = Ctx::daemon();
        // More than one message may have.
        let data = Bytes::from((0..20u32 << 20).map(|n| (n % 251) as u8).collect::<Vec<_>>());
        let options = WriterOptions {
            reference: "large".to_owned(),
            ..WriterOptions::default()
        };
        let mut writer = content.writer(&ctx, options).await.expect("opened");
        writer.write(data.clone()).await.expect("written");
        let digest = writer.commit(CommitOptions::default()).await.expect("committed");
        assert_eq!(digest, digest_of(&data));
        let pieces = collect(content.read(&ctx, &digest, 3, 0).await.expect("read"))
            .await
            .expect("read");
        assert!(pieces.iter().all(|piece| piece.len() <= 1 << 20));
        assert!(pieces.concat() == data[3..], "content changed on its way");
    });
}

#[test]
fn a_second_writer_waits_its_turn_and_a_known_blob_is_not_sent_again() {
    on_each_way(async |store, channel| {
        let content = rpc::content::connect(channel);
        let ctx = Ctx::daemon();
        let options = WriterOptions {
            reference: "one".to_owned(),
            total: 3,
            expected: Some(digest_of(b"abc")),
        };
        let mut writer = content.writer(&ctx, options.clone()).await.expect("opened");
        let status = writer.status().await.expect("a status");
        assert_eq!((status.total, status.expected), (3, options.expected.clone()));
        let code = |result: Result<Box<dyn IngestWriter>>| result.map(|_| ()).map_err(|error| error.code);
        assert_eq!(
            code(content.writer(&ctx, options.clone()).await),
            Err(Code::Unavailable)
        );
        writer.write(Bytes::from_static(b"abc")).await.expect("written");
        writer.commit(CommitOptions::default()).await.expect("committed");
        let error = writer
            .write(Bytes::from_static(b"d"))
            .await
            .expect_err("after the commit");
        assert_eq!(error.code, Code::FailedPrecondition);
        assert_eq!(code(content.writer(&ctx, options).await), Err(Code::AlreadyExists));
        assert_eq!(store.ingest("one"), None);
    });
}

#[test]
fn a_wrong_size_or_digest_is_refused_and_the_ingest_stays() {
    on_each_way(async |store, channel| {
        let content = rpc::content::connect(channel);
        let ctx = Ctx::daemon();
        let options = WriterOptions {
            reference: "one".to_owned(),
            ..WriterOptions::default()
        };
        let wrong = [
            CommitOptions {
                size: 4,
                ..CommitOptions::default()
            },
            CommitOptions {
                expected: Some(digest_of(b"x")),
                ..CommitOptions::default()
            },
        ];
        for commit in wrong {
            let mut writer = content.writer(&ctx, options.clone()).await.expect("opened");
            writer.truncate(0).await.expect("cut");
            writer.write(Bytes::from_static(b"abc")).await.expect("written");
            let error = writer.commit(commit).await.expect_err("wrong");
            assert_eq!(error.code, Code::FailedPrecondition);
            drop(writer);
            free(store, "one").await;
            assert_eq!(store.ingest("one"), Some(b"abc".to_vec()));
        }
    });
}

/// A `Write` stream, message by message, as a client of containerd's makes it.
struct Wire {
    requests: mpsc::Sender<WriteContentRequest>,
    answers: tonic::Streaming<WriteContentResponse>,
}

// === impl Wire ===

impl Wire {
    async fn open(channel: &Channel, first: WriteContentRequest) -> std::result::Result<Self, tonic::Status> {
        let (requests, receiver) = mpsc::channel(8);
        requests.send(first).await.expect("room");
        let answers = ContentClient::new(channel.clone())
            .write(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        Ok(Self { requests, answers })
    }

    async fn call(&mut self, request: WriteContentRequest) -> std::result::Result<WriteContentResponse, tonic::Status> {
        let _ = self.requests.send(request).await;
        self.answer().await
    }

    async fn answer(&mut self) -> std::result::Result<WriteContentResponse, tonic::Status> {
        let answer = self.answers.message().await?;
        answer.ok_or_else(|| tonic::Status::ok("the stream has ended"))
    }
}

fn first(reference: &str) -> WriteContentRequest {
    WriteContentRequest {
        r#ref: reference.to_owned(),
        ..WriteContentRequest::default()
    }
}

fn write(action: WriteAction, offset: i64, data: &[u8]) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        offset,
        data: data.to_vec(),
        ..WriteContentRequest::default()
    }
}

#[test]
fn the_write_stream_is_containerds() {
    on_each_way(async |store, channel| {
        let refused = Wire::open(&channel, first("")).await.map(|_| ()).expect_err("no ref");
        assert_eq!(refused.code(), Code::InvalidArgument);

        let mut wire = Wire::open(&channel, first("one")).await.expect("opened");
        let answer = wire.answer().await.expect("the answer to the first message");
        assert_eq!((answer.action(), answer.offset), (WriteAction::Stat, 0));
        assert_eq!(answer.digest, digest_of(b"").to_string());

        let answer = wire
            .call(write(WriteAction::Write, 0, b"hello"))
            .await
            .expect("written");
        assert_eq!((answer.action(), answer.offset), (WriteAction::Write, 5));
        assert_eq!(answer.digest, digest_of(b"hello").to_string());
        let answer = wire
            .call(write(WriteAction::Write, 5, b", you"))
            .await
            .expect("written");
        assert_eq!(answer.offset, 10);

        // At 0 it starts over.
        let answer = wire.call(write(WriteAction::Write, 0, b"anew")).await.expect("written");
        assert_eq!((answer.offset, answer.digest), (4, digest_of(b"anew").to_string()));

        // Past the end is no place to write, and the end of the stream.
        let error = wire
            .call(write(WriteAction::Write, 9, b"!"))
            .await
            .expect_err("past the end");
        assert_eq!(error.code(), Code::OutOfRange);
        free(store, "one").await;
        assert_eq!(store.ingest("one"), Some(b"anew".to_vec()));

        // The total named first holds for the commit, the labels are the blob's, and the stream ends after it.
        let total = WriteContentRequest {
            total: 5,
            ..first("one")
        };
        let mut wire = Wire::open(&channel, total).await.expect("opened");
        let answer = wire.answer().await.expect("an answer");
        assert_eq!((answer.offset, answer.total), (4, 5));
        let commit = WriteContentRequest {
            labels: [("key".to_owned(), "value".to_owned())].into(),
            ..write(WriteAction::Commit, 4, b"!")
        };
        let answer = wire.call(commit).await.expect("committed");
        assert_eq!((answer.action(), answer.offset), (WriteAction::Commit, 5));
        assert_eq!(answer.digest, digest_of(b"anew!").to_string());
        assert_eq!(wire.answer().await.expect_err("the end").code(), Code::Ok);
        assert!(store.inner().blobs[&digest_of(b"anew!")].1.contains_key("key"));
    });
}

#[test]
fn a_blob_that_came_in_between_ends_an_ingest_of_it() {
    on_each_way(async |store, channel| {
        let mut wire = Wire::open(&channel, first("one")).await.expect("opened");
        wire.answer().await.expect("an answer");
        wire.call(write(WriteAction::Write, 0, b"abc")).await.expect("written");
        store.inner().blobs.insert(digest_of(b"abc"), Default::default());
        let commit = WriteContentRequest {
            expected: digest_of(b"abc").to_string(),
            ..write(WriteAction::Commit, 3, b"")
        };
        let error = wire.call(commit).await.expect_err("there already");
        assert_eq!(error.code(), Code::AlreadyExists);
        assert_eq!(store.ingest("one"), None);
    });
}
