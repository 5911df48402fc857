//! The contracts: what a plugin can be, as plain Rust traits with the types they speak of.
//!
//! One file a capability. A contract has the operations of the gRPC service that containerd's API defines for it, and nothing
//! about how it is reached: [`crate::rpc`] carries each over a channel. Everything crosses by value, so that an implementation
//! in another library, another process or on the other end of a socket is the same to its caller.
//!
//! Every operation takes a [`Ctx`]: on whose behalf (namespace), for which lease, until when.

mod containers;
mod content;
mod diff;
mod error;
mod events;
mod gc;
mod ids;
mod images;
mod leases;
mod namespaces;
mod snapshotter;
mod streaming;
mod tasks;
mod transfer;
mod verifier;

pub use containers::{Container, Containers, Runtime};
pub use content::{CommitOptions, ContentInfo, ContentStore, IngestStatus, IngestWriter, WriterOptions};
pub use diff::{Applier, ApplyOptions, Comparer, DiffOptions, Differ};
pub use error::{Code, Error, Result};
pub use events::{Envelope, Events};
pub use gc::{Collector, GarbageCollector, GcStats, Mutation};
pub use ids::{Digest, InvalidId, Namespace, validate_identifier};
pub use images::{Image, Images};
pub use leases::{Lease, LeaseResource, Leases};
pub use namespaces::{NamespaceInfo, Namespaces};
pub use snapshotter::{Mount, REBASE, SnapshotInfo, SnapshotKind, Snapshotter, Snapshotters, Usage};
pub use streaming::Streaming;
pub use tasks::{CreateTask, ExecProcess, Exit, Process, ProcessInfo, ProcessState, Stdio, TaskMetric, Tasks};
pub use transfer::Transfer;
pub use verifier::{ImageVerifier, Judgement};

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Instant;

pub use async_trait::async_trait;
/// `google.protobuf.Any`: containerd's type urls have no host (`containerd.events.TaskExit`).
pub use prost_types::Any;

/// Labels of an object, by key. Key and value together are at most 4096 bytes (containerd `pkg/labels`).
pub type Labels = BTreeMap<String, String>;

/// A stream of results that crosses a channel; dropping it cancels the call behind it.
pub type BoxStream<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T>> + Send + 'static>>;

/// A stream of what is already at hand.
pub fn stream_of<T: Send + 'static>(items: Vec<T>) -> BoxStream<T> {
    Box::pin(futures_util::stream::iter(items.into_iter().map(Ok)))
}

/// Reads a whole stream into memory: for lists whose length is bounded.
pub async fn collect<T>(mut stream: BoxStream<T>) -> Result<Vec<T>> {
    use futures_util::StreamExt;
    let mut items = Vec::new();
    while let Some(item) = stream.next().await {
        items.push(item?);
    }
    Ok(items)
}

/// On whose behalf a call is made; gRPC metadata on the wire (`containerd-namespace`, `containerd-lease`, `grpc-timeout`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ctx {
    /// The namespace, absent only where an operation is about the daemon as a whole.
    pub namespace: Option<Namespace>,
    /// The lease that what is made by this call shall belong to.
    pub lease: Option<String>,
    /// When the caller stops waiting. A channel turns what comes later into `DEADLINE_EXCEEDED`.
    pub deadline: Option<Instant>,
}

// === impl Ctx ===

impl Ctx {
    /// A call in `namespace`, without a lease or a deadline.
    pub fn new(namespace: Namespace) -> Self {
        Self {
            namespace: Some(namespace),
            ..Self::default()
        }
    }

    /// A call about the daemon as a whole.
    pub fn daemon() -> Self {
        Self::default()
    }

    /// The same call, with what it makes held by `lease`.
    pub fn with_lease(mut self, lease: impl Into<String>) -> Self {
        self.lease = Some(lease.into());
        self
    }

    /// The same call, given up at `deadline`.
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The namespace, or the error containerd answers without one.
    pub fn namespace(&self) -> Result<&Namespace> {
        self.namespace
            .as_ref()
            .ok_or_else(|| Error::failed_precondition("namespace is required: send it as `containerd-namespace`"))
    }
}

/// What a content descriptor says (OCI image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The media type of what `digest` names.
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The length of the content, in bytes.
    pub size: u64,
    /// Free annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The contracts that one plugin instance offers: `Contracts::default().with_snapshotter(…)`.
#[derive(Clone, Default)]
pub struct Contracts {
    /// Their gRPC services, by field, made when one is offered: so a library has code to serve only for what it offers.
    pub(crate) served: Vec<(&'static str, crate::Services)>,
    /// Reads and writes blobs.
    pub content: Option<std::sync::Arc<dyn ContentStore>>,
    /// One snapshotter.
    pub snapshotter: Option<std::sync::Arc<dyn Snapshotter>>,
    /// Several snapshotters, by name (the metadata store's, namespaced).
    pub snapshotters: Option<std::sync::Arc<dyn Snapshotters>>,
    /// Applies layers and makes them.
    pub differ: Option<std::sync::Arc<dyn Differ>>,
    /// Image records.
    pub images: Option<std::sync::Arc<dyn Images>>,
    /// Container records.
    pub containers: Option<std::sync::Arc<dyn Containers>>,
    /// Leases.
    pub leases: Option<std::sync::Arc<dyn Leases>>,
    /// Namespaces.
    pub namespaces: Option<std::sync::Arc<dyn Namespaces>>,
    /// The events exchange.
    pub events: Option<std::sync::Arc<dyn Events>>,
    /// Running tasks.
    pub tasks: Option<std::sync::Arc<dyn Tasks>>,
    /// Moves images.
    pub transfer: Option<std::sync::Arc<dyn Transfer>>,
    /// Named streams.
    pub streaming: Option<std::sync::Arc<dyn Streaming>>,
    /// Decides when to collect garbage.
    pub gc: Option<std::sync::Arc<dyn GarbageCollector>>,
    /// Collects garbage when told.
    pub collector: Option<std::sync::Arc<dyn Collector>>,
    /// Judges images before they are pulled.
    pub image_verifier: Option<std::sync::Arc<dyn ImageVerifier>>,
}
