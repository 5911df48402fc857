//! The flow control, against clients that keep to it strictly.

use bytes::Bytes;
use containerd_client::to_any;
use containerd_client::types::transfer::{Data, Progress, WindowUpdate};

use super::*;
use crate::fixture::{Daemon, bytes_of, ctx};

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

#[tokio::test]
async fn bytes_arrive_whole_however_many_windows_they_take() {
    for length in [0, 1, 100_000, 5 << 20] {
        let daemon = Daemon::new();
        let sent = pattern(length);
        let client = daemon.streaming.send(&ctx(), "a", sent.clone()).await;
        let stream = receive(Attached::join(&daemon.host(), &ctx(), "a").await.expect("joined"));
        assert_eq!(bytes_of(stream).await.expect("received"), sent);
        client.await.expect("sent");
    }
}

#[tokio::test]
async fn bytes_are_sent_only_as_asked_for() {
    let daemon = Daemon::new();
    let sent = pattern(1 << 20);
    let client = daemon.streaming.receive(&ctx(), "a").await;
    let mut sink = ByteSink::new(Attached::join(&daemon.host(), &ctx(), "a").await.expect("joined"));
    for piece in sent.chunks(100_000) {
        sink.write(Bytes::copy_from_slice(piece)).await.expect("written");
    }
    sink.close(None).await;
    assert_eq!(client.await.expect("no panic").expect("whole"), sent);
}

#[tokio::test]
async fn an_export_that_fails_does_not_look_whole() {
    let daemon = Daemon::new();
    let client = daemon.streaming.receive(&ctx(), "a").await;
    let mut sink = ByteSink::new(Attached::join(&daemon.host(), &ctx(), "a").await.expect("joined"));
    sink.write(Bytes::from_static(b"half")).await.expect("written");
    sink.close(Some(Error::data_loss("the disk is broken"))).await;
    assert_eq!(
        client.await.expect("no panic").expect_err("failed").message,
        "the disk is broken"
    );
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_the_export() {
    let daemon = Daemon::new();
    let client = daemon.streaming.receive(&ctx(), "a").await;
    let mut sink = ByteSink::new(Attached::join(&daemon.host(), &ctx(), "a").await.expect("joined"));
    sink.write(Bytes::from_static(b"half")).await.expect("written");
    client.abort();
    let _ = client.await;
    let failed = sink.write(Bytes::from(vec![0; 1 << 20])).await;
    assert_eq!(
        failed.expect_err("hung up").code,
        orlop_plugin::contract::Code::Cancelled
    );
}

#[tokio::test]
async fn a_stream_that_nobody_opened_is_not_found() {
    let joined = Attached::join(&Daemon::new().host(), &ctx(), "a").await;
    let error = joined.err().expect("not there");
    assert!(error.is_not_found() && error.message.contains("\"a\""), "{error}");
}

#[test]
fn frames_are_told_by_their_type() {
    let decode = |any| Frame::decode(any).expect("decodes");
    assert_eq!(decode(to_any(&Data { data: vec![1] })), Frame::Data(vec![1]));
    assert_eq!(decode(to_any(&WindowUpdate { update: 7 })), Frame::WindowUpdate(7));
    assert!(matches!(decode(to_any(&Progress::default())), Frame::Unknown(_)));
    let broken = Any {
        type_url: "containerd.types.transfer.Data".to_owned(),
        value: vec![0xff],
    };
    assert!(Frame::decode(broken).is_err());
}
