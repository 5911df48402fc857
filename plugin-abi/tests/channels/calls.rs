//! What a call is besides its messages: its deadline, its end before the end, its panics, its limits, its manners on the wire.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use containerd_client::services::v1 as pb;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::snapshots as snapshots_pb;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use futures_util::StreamExt;
use orlop_plugin::contract::*;
use orlop_plugin::{Contracts, Error, rpc};
use tokio::sync::mpsc;

use crate::probe::Probe;
use crate::ways::{Way, library, near, ways};

/// Transfers and subscriptions that do what their names say, and tell when they are let go.
struct Acts {
    gone: mpsc::UnboundedSender<()>,
    produced: Arc<AtomicU64>,
}

/// Tells that it is gone.
struct Guard(mpsc::UnboundedSender<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[async_trait]
impl Transfer for Acts {
    async fn transfer(&self, _: &Ctx, _: Any, _: Any, act: &str) -> Result<()> {
        let _guard = Guard(self.gone.clone());
        match act {
            "hang" => std::future::pending().await,
            "panic" => panic!("the plugin's own words"),
            // A timer finds its driver only where the far side's runtime is entered.
            "sleep" => tokio::time::sleep(Duration::from_millis(1)).await,
            _ => {}
        }
        Ok(())
    }
}

#[async_trait]
impl Events for Acts {
    async fn publish(&self, _: &Ctx, _: &str, _: Any) -> Result<()> {
        Ok(())
    }

    async fn forward(&self, _: &Ctx, _: Envelope) -> Result<()> {
        Ok(())
    }

    async fn subscribe(&self, _: &Ctx, acts: &[String]) -> Result<BoxStream<Envelope>> {
        let (guard, produced, act) = (Guard(self.gone.clone()), self.produced.clone(), acts[0].clone());
        let envelopes = futures_util::stream::unfold(0u64, move |number| {
            let _held = &guard;
            assert!(act != "panic" || number < 3, "after {number} events");
            produced.fetch_add(1, Ordering::SeqCst);
            let envelope = Envelope {
                timestamp: std::time::SystemTime::UNIX_EPOCH,
                namespace: String::new(),
                topic: number.to_string(),
                event: Some(Any {
                    type_url: String::new(),
                    value: vec![0; 16 << 10],
                }),
            };
            std::future::ready(Some((Ok(envelope), number + 1)))
        });
        Ok(envelopes.boxed())
    }
}

struct Stage {
    gone: mpsc::UnboundedReceiver<()>,
    produced: Arc<AtomicU64>,
    transfer: Arc<dyn Transfer>,
    events: Arc<dyn Events>,
    _way: Way,
}

// === impl Stage ===

impl Stage {
    async fn act(&self, ctx: &Ctx, act: &str) -> Result<()> {
        self.transfer.transfer(ctx, Any::default(), Any::default(), act).await
    }
}

fn contracts() -> (Contracts, mpsc::UnboundedReceiver<()>, Arc<AtomicU64>) {
    let (gone, left) = mpsc::unbounded_channel();
    let produced = Arc::new(AtomicU64::new(0));
    let acts = Arc::new(Acts {
        gone,
        produced: produced.clone(),
    });
    let contracts = Contracts::default().with_transfer(acts.clone()).with_events(acts);
    (contracts, left, produced)
}

fn on_each_way(test: impl AsyncFn(Stage)) {
    near(async {
        for name in ["memory", "library", "socket"] {
            println!("{name}");
            let (contracts, gone, produced) = contracts();
            let way = ways(&contracts)
                .into_iter()
                .find(|way| way.name == name)
                .expect("a way");
            test(Stage {
                gone,
                produced,
                transfer: rpc::transfer::connect(way.channel.clone()),
                events: rpc::events::connect(way.channel.clone()),
                _way: way,
            })
            .await;
        }
    });
}

#[test]
fn a_deadline_arrives() {
    near(async {
        let probe = Arc::new(Probe::default());
        for way in ways(&probe.contracts()) {
            println!("{}", way.name);
            let images = rpc::images::connect(way.channel.clone());
            let deadline = Instant::now() + Duration::from_secs(60);
            probe.answer::<()>(Ok(()));
            let before = Instant::now();
            images
                .delete(&Ctx::daemon().with_deadline(deadline), "name", false, None)
                .await
                .expect("deleted");
            let took = before.elapsed();
            let (ctx, ..) = probe.take::<(Ctx, String, bool, Option<Descriptor>)>();
            let arrived = ctx.deadline.expect("a deadline");
            // It was sent as what was left, in microseconds, and counted from its arrival.
            assert!(arrived + Duration::from_micros(1) >= deadline && arrived <= deadline + took);
        }
    });
}

#[test]
fn a_late_call_is_given_up_on_both_sides() {
    on_each_way(async |mut stage| {
        let ctx = Ctx::daemon().with_deadline(Instant::now() + Duration::from_millis(50));
        let late = stage.act(&ctx, "hang").await.expect_err("late");
        assert_eq!(late.code, Code::DeadlineExceeded);
        stage.gone.recv().await.expect("let go");

        let ctx = Ctx::daemon().with_deadline(Instant::now() + Duration::from_millis(50));
        let mut events = stage
            .events
            .subscribe(&ctx, &["endless".to_owned()])
            .await
            .expect("subscribed");
        let late = loop {
            // Slow enough to be late before it has read it all.
            tokio::time::sleep(Duration::from_millis(1)).await;
            match events.next().await.expect("no end but the deadline") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(late.code, Code::DeadlineExceeded);
        stage.gone.recv().await.expect("let go");
    });
}

#[test]
fn a_dropped_call_is_cancelled_on_the_other_side() {
    on_each_way(async |mut stage| {
        let ctx = Ctx::daemon();
        {
            let mut call = std::pin::pin!(stage.act(&ctx, "hang"));
            for _ in 0..1000 {
                assert!(futures_util::poll!(call.as_mut()).is_pending());
                tokio::task::yield_now().await;
            }
            // A socket's call may be on its way still: dropped before it arrives, it is none.
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(futures_util::poll!(call.as_mut()).is_pending());
        }
        stage.gone.recv().await.expect("let go");
        let mut events = stage
            .events
            .subscribe(&ctx, &["endless".to_owned()])
            .await
            .expect("subscribed");
        events.next().await.expect("an event").expect("an event");
        drop(events);
        stage.gone.recv().await.expect("let go");
    });
}

#[test]
fn a_stream_is_made_only_as_fast_as_it_is_read() {
    on_each_way(async |stage| {
        let endless = ["endless".to_owned()];
        let mut events = stage
            .events
            .subscribe(&Ctx::daemon(), &endless)
            .await
            .expect("subscribed");
        for read in 1..=200u64 {
            events.next().await.expect("an event").expect("an event");
            // In flight at most: a socket's windows and buffers on both sides.
            let ahead = stage.produced.load(Ordering::SeqCst) - read;
            assert!(ahead < (6 << 20) / (16 << 10), "{ahead} events ahead");
        }
    });
}

#[test]
fn timers_work_wherever_a_call_is_polled() {
    on_each_way(async |stage| {
        stage.act(&Ctx::daemon(), "sleep").await.expect("slept");
    });
}

#[test]
fn a_panic_in_a_library_is_an_error_and_the_next_call_works() {
    near(async {
        let (contracts, mut gone, _) = contracts();
        let way = library(rpc::serve_all(&contracts));
        let transfer = rpc::transfer::connect(way.channel.clone());
        let ctx = Ctx::daemon();
        for _ in 0..2 {
            let act = |act| transfer.transfer(&ctx, Any::default(), Any::default(), act);
            let panicked = act("panic").await.expect_err("panicked");
            assert_eq!(panicked.code, Code::Internal);
            assert!(panicked.message.contains("the plugin's own words"), "{panicked}");
            gone.recv().await.expect("let go");
            act("fine").await.expect("fine");
            gone.recv().await.expect("let go");
        }
        let events = rpc::events::connect(way.channel.clone());
        let mut stream = events.subscribe(&ctx, &["panic".to_owned()]).await.expect("subscribed");
        let panicked = loop {
            match stream.next().await.expect("no end but the panic") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(panicked.code, Code::Internal);
        assert!(panicked.message.contains("after 3 events"), "{panicked}");
        gone.recv().await.expect("let go");
        events.publish(&ctx, "topic", Any::default()).await.expect("published");
    });
}

#[test]
fn what_is_too_large_is_refused_on_either_side() {
    near(async {
        let probe = Arc::new(Probe::default());
        for way in ways(&probe.contracts()) {
            println!("{}", way.name);
            let images = rpc::images::connect(way.channel.clone());
            let ctx = Ctx::daemon();
            // 15 MiB pass, both ways.
            let image = |bytes: usize| Image {
                name: "n".repeat(bytes),
                labels: Labels::new(),
                target: Descriptor {
                    media_type: String::new(),
                    digest: Digest::from_sha256([0; 32]),
                    size: 0,
                    annotations: Labels::new(),
                },
                created: std::time::SystemTime::UNIX_EPOCH,
                updated: std::time::SystemTime::UNIX_EPOCH,
            };
            probe.answer(Ok(image(15 << 20)));
            let crossed = images.create(&ctx, image(15 << 20)).await.expect("crossed");
            assert_eq!(crossed.name.len(), 15 << 20);
            probe.answer(Ok(image(17 << 20)));
            let large = images.get(&ctx, "name").await.expect_err("a large answer");
            assert_eq!(large.code, Code::ResourceExhausted, "{large}");
            let large = images
                .get(&ctx, &"n".repeat(17 << 20))
                .await
                .expect_err("a large request");
            assert_eq!(large.code, Code::ResourceExhausted, "{large}");
        }
    });
}

#[test]
fn long_messages_of_errors_arrive_whole() {
    near(async {
        let probe = Arc::new(Probe::default());
        for way in ways(&probe.contracts()) {
            let images = rpc::images::connect(way.channel.clone());
            let error = Error::internal("runc says: ö\n".repeat(5000));
            probe.answer::<Image>(Err(error.clone()));
            assert!(images.get(&Ctx::daemon(), "name").await == Err(error), "{}", way.name);
        }
    });
}

#[test]
fn names_are_parsed_at_the_edge() {
    near(async {
        let probe = Arc::new(Probe::default());
        for way in ways(&probe.contracts()) {
            let mut client = ImagesClient::new(way.channel.clone());
            let mut get = async |namespace: &'static str| {
                let mut request = tonic::Request::new(pb::GetImageRequest::default());
                let value = tonic::metadata::MetadataValue::from_static(namespace);
                request.metadata_mut().insert("containerd-namespace", value);
                client.get(request).await.map(|_| ()).map_err(|status| status.code())
            };
            assert_eq!(get("a/b").await, Err(Code::InvalidArgument));
            // None is the implementation's business: some calls need none.
            probe.answer::<Image>(Err(Error::not_found("image")));
            assert_eq!(get("").await, Err(Code::NotFound));
            assert_eq!(probe.take::<(Ctx, String)>().0, Ctx::daemon());
        }
    });
}

#[test]
fn labels_of_an_image_change_without_its_target() {
    near(async {
        let probe = Arc::new(Probe::default());
        let contracts = Contracts::default().with_images(Arc::new(Labelled(probe.clone())));
        for way in ways(&contracts) {
            let request = |paths: &[&str]| pb::UpdateImageRequest {
                image: Some(pb::Image {
                    name: "name".to_owned(),
                    target: Some(containerd_client::types::Descriptor::default()),
                    ..pb::Image::default()
                }),
                update_mask: Some(prost_types::FieldMask {
                    paths: paths.iter().map(ToString::to_string).collect(),
                }),
                source_date_epoch: None,
            };
            let mut client = ImagesClient::new(way.channel.clone());
            let updated = client
                .update(request(&["labels.a"]))
                .await
                .expect("updated")
                .into_inner();
            let target = updated.image.expect("an image").target.expect("a target");
            assert_eq!(target.digest, Digest::from_sha256([7; 32]).to_string());
            for paths in [&[][..], &["target"]] {
                let refused = client.update(request(paths)).await.map(|_| ()).expect_err("no target");
                assert_eq!(refused.code(), Code::InvalidArgument);
            }
        }
    });
}

/// A store with one image, that an update leaves as it is sent.
struct Labelled(Arc<Probe>);

#[async_trait]
impl Images for Labelled {
    async fn get(&self, _: &Ctx, name: &str) -> Result<Image> {
        Ok(Image {
            name: name.to_owned(),
            labels: Labels::new(),
            target: Descriptor {
                media_type: String::new(),
                digest: Digest::from_sha256([7; 32]),
                size: 0,
                annotations: Labels::new(),
            },
            created: std::time::SystemTime::UNIX_EPOCH,
            updated: std::time::SystemTime::UNIX_EPOCH,
        })
    }

    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<Image>> {
        Images::list(&*self.0, ctx, filters).await
    }

    async fn create(&self, _: &Ctx, image: Image) -> Result<Image> {
        Ok(image)
    }

    async fn update(&self, _: &Ctx, image: Image, _: &[String]) -> Result<Image> {
        Ok(image)
    }

    async fn delete(&self, _: &Ctx, _: &str, _: bool, _: Option<Descriptor>) -> Result<()> {
        Ok(())
    }
}

/// One snapshotter, `known`.
struct Named(Arc<Probe>);

impl Snapshotters for Named {
    fn snapshotter(&self, name: &str) -> Result<Arc<dyn Snapshotter>> {
        match name {
            "known" => Ok(self.0.clone()),
            _ => Err(Error::not_found(format!("snapshotter {name} is not loaded"))),
        }
    }
}

#[test]
fn snapshotters_are_chosen_by_name_and_a_single_one_by_any() {
    near(async {
        let probe = Arc::new(Probe::default());
        let named = Contracts::default().with_snapshotters(Arc::new(Named(probe.clone())));
        for way in ways(&named) {
            let snapshotters = rpc::snapshotter::connect_all(way.channel.clone());
            let code = async |name: &str| {
                probe.answer::<()>(Ok(()));
                let object = snapshotters.snapshotter(name).expect("connected");
                object.remove(&Ctx::daemon(), "key").await.map_err(|error| error.code)
            };
            assert_eq!(code("known").await, Ok(()));
            assert_eq!(code("other").await, Err(Code::InvalidArgument));
            assert_eq!(code("").await, Err(Code::InvalidArgument));
        }
        for way in ways(&probe.contracts()) {
            for name in ["", "any"] {
                probe.answer::<()>(Ok(()));
                let request = snapshots_pb::RemoveSnapshotRequest {
                    snapshotter: name.to_owned(),
                    key: "key".to_owned(),
                };
                SnapshotsClient::new(way.channel.clone())
                    .remove(request)
                    .await
                    .expect("removed");
            }
        }
    });
}

#[test]
fn what_is_not_served_is_unimplemented() {
    near(async {
        let contracts = Contracts::default().with_images(Arc::new(Probe::default()));
        for way in ways(&contracts) {
            let events = rpc::events::connect(way.channel.clone());
            let error = events
                .publish(&Ctx::daemon(), "", Any::default())
                .await
                .expect_err("not served");
            assert_eq!(
                (error.code, error.message.as_str()),
                (
                    Code::Unimplemented,
                    "unknown service containerd.services.events.v1.Events"
                )
            );
        }
    });
}
