//! Streams between two tasks, as a client and a plugin use them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{FutureExt, StreamExt, stream};
use orlop_plugin::contract::{Any, BoxStream, Code, Ctx, Namespace, Streaming, collect};
use orlop_plugin::{Error, Result};
use tokio::sync::mpsc;

use crate::Streams;

fn ctx(namespace: &str) -> Ctx {
    Ctx::new(Namespace::new(namespace).expect("valid"))
}

fn message(text: &str) -> Any {
    Any {
        type_url: "test".into(),
        value: text.into(),
    }
}

fn nothing() -> BoxStream<Any> {
    Box::pin(stream::empty())
}

fn silence() -> BoxStream<Any> {
    Box::pin(stream::pending())
}

/// A stream that a test feeds.
fn fed() -> (mpsc::Sender<Result<Any>>, BoxStream<Any>) {
    let (sender, receiver) = mpsc::channel(1);
    let fed = stream::unfold(receiver, |mut receiver| async move {
        let item = receiver.recv().await?;
        Some((item, receiver))
    });
    (sender, Box::pin(fed))
}

fn texts(items: Vec<Any>) -> Vec<String> {
    items
        .into_iter()
        .map(|item| String::from_utf8(item.value).expect("text"))
        .collect()
}

#[tokio::test]
async fn both_directions_carry() {
    let streams = Streams::default();
    let up = stream::iter(["a", "b"]).map(|text| Ok(message(text)));
    let down = stream::iter(["c", "d", "e"]).map(|text| Ok(message(text)));
    let client = streams.open(&ctx("n"), "s", Box::pin(up)).await.expect("opened");
    let plugin = streams.attach(&ctx("n"), "s", Box::pin(down)).await.expect("attached");
    let (client, plugin) = tokio::join!(collect(client), collect(plugin));
    assert_eq!(texts(client.expect("whole")), ["c", "d", "e"]);
    assert_eq!(texts(plugin.expect("whole")), ["a", "b"]);
}

#[tokio::test]
async fn names_are_taken_joined_and_freed() {
    let streams = Streams::default();
    let code = |result: Result<BoxStream<Any>>| result.err().map(|error| error.code);
    assert_eq!(
        code(streams.open(&ctx("n"), "", silence()).await),
        Some(Code::InvalidArgument)
    );
    assert_eq!(
        code(streams.attach(&ctx("n"), "s", silence()).await),
        Some(Code::NotFound)
    );
    let client = streams.open(&ctx("n"), "s", silence()).await.expect("opened");
    assert_eq!(
        code(streams.open(&ctx("n"), "s", silence()).await),
        Some(Code::AlreadyExists)
    );
    assert_eq!(
        code(streams.attach(&ctx("other"), "s", silence()).await),
        Some(Code::NotFound)
    );
    let _other = streams
        .open(&ctx("other"), "s", silence())
        .await
        .expect("another namespace's");
    let _plugin = streams.attach(&ctx("n"), "s", silence()).await.expect("attached");
    assert_eq!(
        code(streams.attach(&ctx("n"), "s", silence()).await),
        Some(Code::AlreadyExists)
    );
    drop(client);
    assert_eq!(
        code(streams.attach(&ctx("n"), "s", silence()).await),
        Some(Code::NotFound)
    );
    let _again = streams.open(&ctx("n"), "s", silence()).await.expect("free again");
}

#[tokio::test]
async fn a_client_that_goes_early_is_an_error_to_the_plugin() {
    let streams = Streams::default();
    let (send, up) = fed();
    let client = streams.open(&ctx("n"), "s", up).await.expect("opened");
    let (answer, down) = fed();
    let mut plugin = streams.attach(&ctx("n"), "s", down).await.expect("attached");
    send.send(Ok(message("half"))).await.expect("sent");
    drop(client);
    assert_eq!(plugin.next().await, Some(Ok(message("half"))));
    assert_eq!(
        plugin.next().await.expect("an item").expect_err("gone").code,
        Code::Cancelled
    );
    assert_eq!(plugin.next().await, None);
    assert!(answer.is_closed(), "nobody reads the answers");
}

#[tokio::test]
async fn a_client_that_has_said_all_may_go() {
    let streams = Streams::default();
    let client = streams.open(&ctx("n"), "s", nothing()).await.expect("opened");
    let mut plugin = streams.attach(&ctx("n"), "s", silence()).await.expect("attached");
    drop(client);
    assert_eq!(plugin.next().await, None);
}

#[tokio::test]
async fn the_stream_ends_for_the_client_when_the_plugin_is_done_with_both_directions() {
    let streams = Streams::default();
    let (send, up) = fed();
    let mut client = streams.open(&ctx("n"), "s", up).await.expect("opened");
    assert!(client.next().now_or_never().is_none(), "nobody has joined");
    let mut plugin = streams.attach(&ctx("n"), "s", nothing()).await.expect("attached");
    assert!(client.next().now_or_never().is_none(), "the plugin still reads");
    send.send(Ok(message("a"))).await.expect("sent");
    assert_eq!(plugin.next().await, Some(Ok(message("a"))));
    drop(plugin);
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn errors_cross_and_end_the_stream() {
    let streams = Streams::default();
    let (answer, down) = fed();
    let mut client = streams.open(&ctx("n"), "s", silence()).await.expect("opened");
    let _plugin = streams.attach(&ctx("n"), "s", down).await.expect("attached");
    answer.send(Err(Error::data_loss("broken"))).await.expect("sent");
    assert_eq!(client.next().await, Some(Err(Error::data_loss("broken"))));
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back() {
    let streams = Streams::default();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let up = stream::repeat_with(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(message("x"))
    });
    let _client = streams.open(&ctx("n"), "s", Box::pin(up)).await.expect("opened");
    let mut plugin = streams.attach(&ctx("n"), "s", nothing()).await.expect("attached");
    assert_eq!(sent.load(Ordering::Relaxed), 0);
    for read in 1..=3 {
        plugin.next().await.expect("an item").expect("no error");
        assert_eq!(sent.load(Ordering::Relaxed), read);
    }
}
