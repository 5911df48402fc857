//! The exchange as publishers and subscribers meet it.

use std::time::{Duration, SystemTime};

use containerd_client::{events, services::v1 as images, to_any};
use futures_util::{FutureExt, StreamExt};
use orlop_plugin::contract::{Any, BoxStream, Code, Ctx, Envelope, Events, Namespace};

use crate::Exchange;
use crate::exchange::{QUEUE, QUEUE_BYTES};

fn ctx(namespace: &str) -> Ctx {
    Ctx::new(Namespace::new(namespace).expect("valid"))
}

fn exit(container: &str, id: &str) -> Any {
    to_any(&events::TaskExit {
        container_id: container.into(),
        id: id.into(),
        pid: 7,
        exit_status: 3,
        exited_at: None,
    })
}

async fn subscribe(exchange: &Exchange, filters: &[&str]) -> BoxStream<Envelope> {
    let filters: Vec<_> = filters.iter().map(ToString::to_string).collect();
    exchange.subscribe(&Ctx::daemon(), &filters).await.expect("subscribed")
}

/// What is there without waiting; a test is no task that must be fair to others.
fn ready(stream: &mut BoxStream<Envelope>) -> Vec<Envelope> {
    std::iter::from_fn(|| tokio::task::unconstrained(stream.next()).now_or_never().flatten())
        .map(|event| event.expect("an event"))
        .collect()
}

#[tokio::test]
async fn everyone_gets_what_happens_after_subscribing() {
    let exchange = Exchange::default();
    exchange
        .publish(&ctx("a"), "/tasks/exit", exit("early", ""))
        .await
        .expect("published");
    let (mut first, mut second) = (subscribe(&exchange, &[]).await, subscribe(&exchange, &[]).await);
    exchange
        .publish(&ctx("a"), "/tasks/exit", exit("c", "e"))
        .await
        .expect("published");
    let stamped = Envelope {
        timestamp: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
        namespace: "b".into(),
        topic: "/tasks/oom".into(),
        event: Some(exit("c", "")),
    };
    exchange
        .forward(&Ctx::daemon(), stamped.clone())
        .await
        .expect("forwarded");
    for subscriber in [&mut first, &mut second] {
        let got = ready(subscriber);
        assert_eq!(got.len(), 2);
        assert_eq!((got[0].namespace.as_str(), got[0].topic.as_str()), ("a", "/tasks/exit"));
        assert_eq!(got[0].event, Some(exit("c", "e")));
        assert_eq!(got[1], stamped, "a forwarded event keeps its stamp");
    }
    drop(first);
    exchange
        .publish(&ctx("a"), "/tasks/exit", exit("d", ""))
        .await
        .expect("published");
    assert_eq!(ready(&mut second).len(), 1);
    exchange.end();
    assert!(second.next().await.is_none(), "it ends without an error");
}

#[tokio::test]
async fn filters_see_namespace_topic_and_the_fields_of_events() {
    let exchange = Exchange::default();
    let cases: &[(&[&str], usize)] = &[
        (&[], 4),
        (&["namespace==a"], 3),
        (&["topic~=\"^/tasks/\""], 3),
        (&["topic==\"/tasks/exit\""], 2),
        (&["event.container_id==one"], 2),
        (&["event.container_id==one,event.id==e"], 1),
        (&["event.id"], 1),
        (&["event.name==img"], 1),
        (&["event.labels.\"a.b\"==c"], 1),
        (&["event.labels.empty"], 1),
        (&["event.io.terminal==true"], 1),
        (&["event.io.stdin"], 0),
        (&["event.pid==7"], 0),
        (&["namespace==b", "event.io.terminal==true"], 2),
        (&["nonsense==1"], 0),
    ];
    let mut subscribers = Vec::new();
    for (filters, _) in cases {
        subscribers.push(subscribe(&exchange, filters).await);
    }
    let create = to_any(&events::TaskCreate {
        container_id: "two".into(),
        io: Some(events::TaskIo {
            terminal: true,
            ..events::TaskIo::default()
        }),
        ..events::TaskCreate::default()
    });
    let image = to_any(&images::ImageCreate {
        name: "img".into(),
        labels: [("a.b".into(), "c".into()), ("empty".into(), String::new())].into(),
    });
    let mut hosted = exit("one", "");
    hosted.type_url.insert_str(0, "type.googleapis.com/");
    for (namespace, topic, event) in [
        ("a", "/tasks/exit", exit("one", "e")),
        ("b", "/tasks/exit", hosted),
        ("a", "/tasks/create", create),
        ("a", "/images/create", image),
    ] {
        exchange
            .publish(&ctx(namespace), topic, event)
            .await
            .expect("published");
    }
    for ((filters, count), subscriber) in cases.iter().zip(&mut subscribers) {
        assert_eq!(ready(subscriber).len(), *count, "{filters:?}");
    }
    let broken = exchange.subscribe(&Ctx::daemon(), &["topic~".into()]).await;
    assert_eq!(broken.err().expect("refused").code, Code::InvalidArgument);
}

#[tokio::test]
async fn what_is_no_event_is_refused() {
    let exchange = Exchange::default();
    for topic in ["", "/", "tasks/exit", "/tasks/", "//exit", "/tasks/a b"] {
        let refused = exchange.publish(&ctx("a"), topic, exit("c", "")).await;
        assert_eq!(refused.expect_err(topic).code, Code::InvalidArgument);
    }
    let untyped = exchange.publish(&ctx("a"), "/tasks/exit", Any::default()).await;
    assert_eq!(untyped.expect_err("refused").code, Code::InvalidArgument);
    let nowhere = exchange.publish(&Ctx::daemon(), "/tasks/exit", exit("c", "")).await;
    assert_eq!(nowhere.expect_err("refused").code, Code::FailedPrecondition);
    let envelope = Envelope {
        timestamp: SystemTime::now(),
        namespace: "..".into(),
        topic: "/tasks/exit".into(),
        event: Some(exit("c", "")),
    };
    let forwarded = exchange.forward(&Ctx::daemon(), envelope).await;
    assert_eq!(forwarded.expect_err("refused").code, Code::InvalidArgument);
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_ended_and_harms_nobody() {
    let exchange = Exchange::default();
    let (mut slow, mut quick) = (subscribe(&exchange, &[]).await, subscribe(&exchange, &[]).await);
    let extra = 100;
    let mut seen = 0;
    for _ in 0..QUEUE + extra {
        exchange
            .publish(&ctx("a"), "/tasks/exit", exit("c", ""))
            .await
            .expect("published");
        seen += ready(&mut quick).len();
    }
    assert_eq!(seen, QUEUE + extra);
    for _ in 0..QUEUE {
        slow.next().await.expect("queued").expect("an event");
    }
    let ended = slow.next().await.expect("an end").expect_err("with a reason");
    assert_eq!(ended.code, Code::ResourceExhausted);
    assert!(slow.next().await.is_none());
}

#[tokio::test]
async fn large_events_do_not_pile_up() {
    let exchange = Exchange::default();
    let mut slow = subscribe(&exchange, &[]).await;
    let large = Any {
        type_url: "test".into(),
        value: vec![0; QUEUE_BYTES / 4],
    };
    for _ in 0..8 {
        exchange
            .publish(&ctx("a"), "/test/large", large.clone())
            .await
            .expect("published");
    }
    let mut got = 0;
    while let Some(Ok(_)) = slow.next().await {
        got += 1;
    }
    assert_eq!(got, 3, "what fits beside its envelope");
}
