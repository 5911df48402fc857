//! Named streams over every way: both ends, their close, and what breaks off.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use containerd_client::services::v1::streaming_client::StreamingClient;
use futures_util::StreamExt;
use orlop_plugin::channel::Channel;
use orlop_plugin::contract::*;
use orlop_plugin::{Contracts, Error, rpc};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::ways::{near, ways};

/// Streams that wait for their other end.
#[derive(Default)]
struct Streams(Mutex<BTreeMap<String, End>>);

struct End {
    outgoing: BoxStream<Any>,
    incoming: mpsc::Sender<Result<Any>>,
}

#[async_trait]
impl Streaming for Streams {
    async fn open(&self, _: &Ctx, id: &str, outgoing: BoxStream<Any>) -> Result<BoxStream<Any>> {
        let (incoming, receiver) = mpsc::channel(1);
        let mut streams = self.0.lock().expect("unpoisoned");
        if streams.contains_key(id) {
            return Err(Error::already_exists(format!("stream {id}")));
        }
        streams.insert(id.to_owned(), End { outgoing, incoming });
        Ok(ReceiverStream::new(receiver).boxed())
    }

    async fn attach(&self, _: &Ctx, id: &str, mut outgoing: BoxStream<Any>) -> Result<BoxStream<Any>> {
        let end = self.0.lock().expect("unpoisoned").remove(id);
        let end = end.ok_or_else(|| Error::not_found(format!("stream {id}")))?;
        tokio::spawn(async move {
            while let Some(message) = outgoing.next().await {
                if end.incoming.send(message).await.is_err() {
                    break;
                }
            }
        });
        Ok(end.outgoing)
    }
}

fn message(text: &str) -> Any {
    Any {
        type_url: "test".to_owned(),
        value: text.as_bytes().to_vec(),
    }
}

fn end() -> (mpsc::Sender<Result<Any>>, BoxStream<Any>) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, ReceiverStream::new(receiver).boxed())
}

fn on_each_way(test: impl AsyncFn(Channel, Arc<dyn Streaming>)) {
    near(async {
        let contracts = Contracts::default().with_streaming(Arc::new(Streams::default()));
        for way in ways(&contracts) {
            println!("{}", way.name);
            test(way.channel.clone(), rpc::streaming::connect(way.channel.clone())).await;
        }
    });
}

#[test]
fn both_ends_talk_and_close() {
    on_each_way(async |_, streams| {
        let ctx = Ctx::daemon();
        let (to_plugin, outgoing) = end();
        let mut from_plugin = streams.open(&ctx, "one", outgoing).await.expect("opened");
        let taken = streams.open(&ctx, "one", end().1).await.map(|_| ()).expect_err("taken");
        assert_eq!(taken.code, Code::AlreadyExists);
        let (to_client, outgoing) = end();
        let mut from_client = streams.attach(&ctx, "one", outgoing).await.expect("attached");
        let missing = streams
            .attach(&ctx, "one", end().1)
            .await
            .map(|_| ())
            .expect_err("missing");
        assert_eq!(missing.code, Code::NotFound);
        for turn in 0..5 {
            let (question, answer) = (message(&format!("question {turn}")), message(&format!("answer {turn}")));
            to_plugin.send(Ok(question.clone())).await.expect("sent");
            assert_eq!(from_client.next().await, Some(Ok(question)));
            to_client.send(Ok(answer.clone())).await.expect("sent");
            assert_eq!(from_plugin.next().await, Some(Ok(answer)));
        }
        drop(to_plugin);
        assert_eq!(from_client.next().await, None);
        // Half closed: the other half goes on.
        to_client.send(Ok(message("last"))).await.expect("sent");
        assert_eq!(from_plugin.next().await, Some(Ok(message("last"))));
        drop(to_client);
        assert_eq!(from_plugin.next().await, None);
    });
}

#[test]
fn half_of_a_stream_does_not_pass_for_all_of_it() {
    on_each_way(async |_, streams| {
        let ctx = Ctx::daemon();
        let (to_plugin, outgoing) = end();
        let mut from_plugin = streams.open(&ctx, "one", outgoing).await.expect("opened");
        let (_to_client, outgoing) = end();
        let mut from_client = streams.attach(&ctx, "one", outgoing).await.expect("attached");
        to_plugin.send(Ok(message("half"))).await.expect("sent");
        assert_eq!(from_client.next().await, Some(Ok(message("half"))));
        to_plugin
            .send(Err(Error::data_loss("the disk is gone")))
            .await
            .expect("sent");
        // What goes out is read as the far side reads: both ends are at it.
        let near = async move { from_plugin.next().await };
        let (near, far) = futures_util::future::join(near, from_client.next()).await;
        assert_eq!(near, Some(Err(Error::data_loss("the disk is gone"))));
        let broken = far.expect("no clean end").expect_err("broken off");
        assert_ne!(broken.code, Code::Ok);
    });
}

#[test]
fn a_stream_must_be_named_first() {
    on_each_way(async |channel, _| {
        let mut client = StreamingClient::new(channel);
        let requests = futures_util::stream::iter([message("no name")]);
        let refused = client.stream(requests).await.map(|_| ()).expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
    });
}
