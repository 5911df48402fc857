//! A library's log: its `tracing` events, sent to the daemon's.
//!
//! `tracing` keeps its subscriber in a static, and a library has its own copy of that static: without this its events would go nowhere.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::api::host::host_client::HostClient;
use crate::api::host::{LogLevel, LogRequest};
use crate::channel::Channel;

/// Events that wait for the daemon. What comes when it is full is dropped, and the next one that fits says so.
const BACKLOG: usize = 256;

/// Sends this library's events to `host` from now on.
pub(crate) fn forward(host: Channel, runtime: &Handle) {
    let (sender, mut receiver) = mpsc::channel::<LogRequest>(BACKLOG);
    let forward = Forward {
        sender,
        dropped: AtomicBool::new(false),
    };
    // Only the first of a library's subscribers counts, and there is no other.
    if tracing::subscriber::set_global_default(forward).is_err() {
        return;
    }
    runtime.spawn(async move {
        let mut client = HostClient::new(host);
        while let Some(event) = receiver.recv().await {
            // There is nowhere to tell that logging failed.
            let _ = client.log(event).await;
        }
    });
}

struct Forward {
    sender: mpsc::Sender<LogRequest>,
    dropped: AtomicBool,
}

impl Subscriber for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::DEBUG && !is_transport(metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn event(&self, event: &Event<'_>) {
        let mut request = LogRequest {
            level: match *event.metadata().level() {
                Level::ERROR => LogLevel::Error,
                Level::WARN => LogLevel::Warn,
                Level::INFO => LogLevel::Info,
                _ => LogLevel::Debug,
            }
            .into(),
            target: event.metadata().target().to_owned(),
            time: Some(std::time::SystemTime::now().into()),
            ..LogRequest::default()
        };
        event.record(&mut Fields(&mut request));
        if self.dropped.swap(false, Ordering::Relaxed) {
            request
                .fields
                .insert("dropped".to_owned(), "events before this one were lost".to_owned());
        }
        if self.sender.try_send(request).is_err() {
            self.dropped.store(true, Ordering::Relaxed);
        }
    }

    // Spans do not cross: an event says all it has to say in its own fields.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The transport below this very log would log about itself.
fn is_transport(target: &str) -> bool {
    ["h2", "hyper", "tower", "tonic"].iter().any(|name| {
        target
            .strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::") || rest.starts_with('_'))
    })
}

struct Fields<'a>(&'a mut LogRequest);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }
}

impl Fields<'_> {
    fn set(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.0.message = value;
        } else {
            self.0.fields.insert(field.name().to_owned(), value);
        }
    }
}
