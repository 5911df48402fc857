//! Publishing and subscribing.
//!
//! A publisher never waits: every subscriber has a queue with two bounds, and one who lets it fill up is ended with an error after what
//! is queued. All subscribers see the events in one order.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures_util::stream;
use orlop_plugin::contract::{Any, BoxStream, Ctx, Envelope, Events, Namespace, async_trait, validate_identifier};
use orlop_plugin::filter::{Filters, non_empty};
use orlop_plugin::{Error, Result};
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::fields::Fields;

/// How many events may wait for one subscriber: the bursts of thousands of containers that end at once.
pub(crate) const QUEUE: usize = 16 << 10;
/// How many bytes of events may wait for one subscriber. One event may have as much as a gRPC message, 16 MiB.
pub(crate) const QUEUE_BYTES: usize = 64 << 20;
/// What a queued event takes beside its strings.
const OVERHEAD: usize = 128;

/// The exchange.
#[derive(Default)]
pub struct Exchange {
    subscribers: Arc<Mutex<Subscribers>>,
}

#[derive(Default)]
struct Subscribers {
    last: u64,
    all: Vec<Subscriber>,
}

struct Subscriber {
    id: u64,
    filters: Filters,
    queue: Sender<Arc<Envelope>>,
    backlog: Arc<Backlog>,
}

/// What the two ends of a queue both know.
#[derive(Default)]
struct Backlog {
    bytes: AtomicUsize,
    lagged: AtomicBool,
}

/// A subscriber's end.
struct Subscription {
    id: u64,
    queue: Receiver<Arc<Envelope>>,
    backlog: Arc<Backlog>,
    subscribers: Arc<Mutex<Subscribers>>,
}

// === impl Exchange ===

impl Exchange {
    /// Ends every subscription.
    pub fn end(&self) {
        lock(&self.subscribers).all.clear();
    }

    fn send(&self, envelope: Envelope) {
        let envelope = Arc::new(envelope);
        let fields = Fields::of(&envelope);
        lock(&self.subscribers)
            .all
            .retain(|subscriber| subscriber.offer(&envelope, &fields));
    }
}

#[async_trait]
impl Events for Exchange {
    async fn publish(&self, ctx: &Ctx, topic: &str, event: Any) -> Result<()> {
        let namespace = ctx.namespace()?.to_string();
        let envelope = Envelope {
            timestamp: SystemTime::now(),
            namespace,
            topic: topic.to_owned(),
            event: Some(event),
        };
        self.forward(ctx, envelope).await
    }

    async fn forward(&self, _ctx: &Ctx, envelope: Envelope) -> Result<()> {
        validate(&envelope)?;
        tracing::debug!(
            topic = envelope.topic,
            ns = envelope.namespace,
            r#type = envelope.event.as_ref().map(|event| event.type_url.as_str()),
            "event"
        );
        self.send(envelope);
        Ok(())
    }

    async fn subscribe(&self, _ctx: &Ctx, filters: &[String]) -> Result<BoxStream<Envelope>> {
        let filters = Filters::parse(filters)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let backlog = Arc::new(Backlog::default());
        let mut subscribers = lock(&self.subscribers);
        subscribers.last += 1;
        let id = subscribers.last;
        subscribers.all.push(Subscriber {
            id,
            filters,
            queue: sender,
            backlog: backlog.clone(),
        });
        let subscription = Subscription {
            id,
            queue: receiver,
            backlog,
            subscribers: self.subscribers.clone(),
        };
        Ok(Box::pin(stream::unfold(Some(subscription), Subscription::next)))
    }
}

// === impl Subscriber ===

impl Subscriber {
    /// Queues an event, if it is wanted. Says whether the subscriber goes on.
    fn offer(&self, envelope: &Arc<Envelope>, fields: &Fields) -> bool {
        let wanted = self.filters.matches(|path| match path {
            ["namespace", ..] => non_empty(&envelope.namespace),
            ["topic", ..] => non_empty(&envelope.topic),
            ["event", path @ ..] => fields.get(path),
            _ => None,
        });
        if !wanted {
            return true;
        }
        let size = size(envelope);
        let waiting = self.backlog.bytes.fetch_add(size, Ordering::Relaxed);
        // One event alone always fits.
        let fits = waiting == 0 || waiting + size <= QUEUE_BYTES;
        if fits && self.queue.try_send(envelope.clone()).is_ok() {
            return true;
        }
        // Also one that is gone already comes here, and nobody reads its flag.
        self.backlog.lagged.store(true, Ordering::Release);
        if !self.queue.is_closed() {
            tracing::warn!(
                topic = envelope.topic,
                "a subscriber to events does not keep up, and is ended"
            );
        }
        false
    }
}

// === impl Subscription ===

impl Subscription {
    async fn next(this: Option<Self>) -> Option<(Result<Envelope>, Option<Self>)> {
        let mut this = this?;
        if let Some(envelope) = this.queue.recv().await {
            this.backlog.bytes.fetch_sub(size(&envelope), Ordering::Relaxed);
            return Some((Ok(Arc::unwrap_or_clone(envelope)), Some(this)));
        }
        let lagged = this.backlog.lagged.load(Ordering::Acquire);
        lagged.then(|| {
            let error = Error::resource_exhausted(format!(
                "the subscriber fell {QUEUE} events or {} MiB behind and missed what followed: \
                 read faster, or narrow the filters, and subscribe again",
                QUEUE_BYTES >> 20
            ));
            (Err(error), None)
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        lock(&self.subscribers)
            .all
            .retain(|subscriber| subscriber.id != self.id);
    }
}

fn lock(subscribers: &Mutex<Subscribers>) -> MutexGuard<'_, Subscribers> {
    subscribers.lock().unwrap_or_else(PoisonError::into_inner)
}

fn size(envelope: &Envelope) -> usize {
    let event = envelope.event.as_ref();
    OVERHEAD
        + envelope.namespace.len()
        + envelope.topic.len()
        + event.map_or(0, |event| event.type_url.len() + event.value.len())
}

fn validate(envelope: &Envelope) -> Result<()> {
    Namespace::new(envelope.namespace.as_str()).map_err(|error| Error::from(error).context("the event's namespace"))?;
    validate_topic(&envelope.topic)
        .map_err(|why| Error::invalid_argument(format!("event topic {:?}: {why}", envelope.topic)))?;
    match &envelope.event {
        Some(event) if !event.type_url.is_empty() => Ok(()),
        _ => Err(Error::invalid_argument(format!(
            "the event for {} has no type url: say what it is, such as containerd.events.TaskExit",
            envelope.topic
        ))),
    }
}

fn validate_topic(topic: &str) -> Result<(), String> {
    let Some(components) = topic.strip_prefix('/') else {
        return Err("it must start with '/'".into());
    };
    if components.is_empty() {
        return Err("it must have at least one component".into());
    }
    components
        .split('/')
        .try_for_each(|component| validate_identifier(component).map_err(|error| error.to_string()))
}
