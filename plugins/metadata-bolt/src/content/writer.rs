//! The writer of a namespace's ingest: over the content store's writer, or over a blob that is shared without a byte being sent.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use containerd_client::events;
use futures_util::StreamExt;
use orlop_plugin::contract::{
    CommitOptions, Ctx, Digest, IngestStatus, IngestWriter, Labels, WriterOptions, async_trait,
};
use orlop_plugin::{Error, Result};

use crate::in_flight::{self, InUse};
use crate::labels;
use crate::leases::{CONTENT, INGESTS};
use crate::record::{self, BlobRecord};
use crate::shared::{Caller, Shared, detached};
use crate::store::{Key, Reader};

/// Where the bytes of an ingest are.
pub(super) enum Source {
    /// In a blob that the content store has already.
    Shared {
        digest: Digest,
        size: u64,
        since: SystemTime,
    },
    /// In the content store's ingest.
    Ingest(Box<dyn IngestWriter>),
    /// It was committed.
    Committed,
}

/// See the module.
pub(super) struct NamespacedWriter {
    pub(super) shared: Arc<Shared>,
    pub(super) ctx: Ctx,
    pub(super) caller: Caller,
    /// What the namespace calls the ingest.
    pub(super) reference: String,
    /// What the content store calls it.
    pub(super) backend: String,
    pub(super) source: Source,
    /// Keeps garbage collection from the store's ingest while it is written.
    pub(super) _open: InUse,
}

/// A commit on its way: runs to its end, whatever becomes of its caller.
struct Commit {
    shared: Arc<Shared>,
    ctx: Ctx,
    caller: Caller,
    reference: String,
    labels: Labels,
}

// === impl Source ===

impl Source {
    /// A blob that the content store has.
    pub(super) fn shared(digest: Digest, size: u64) -> Self {
        Self::Shared {
            digest,
            size,
            since: SystemTime::now(),
        }
    }
}

// === impl NamespacedWriter ===

impl NamespacedWriter {
    /// The content store's writer; what is shared is copied into an ingest first, `keep` bytes of it.
    async fn own(&mut self, keep: u64) -> Result<&mut Box<dyn IngestWriter>> {
        if let Source::Shared { digest, .. } = &self.source {
            let content = self.shared.content().await?;
            let options = WriterOptions {
                reference: self.backend.clone(),
                total: keep,
                expected: None,
            };
            let mut writer = content.writer(&self.ctx, options).await?;
            // An earlier attempt may have left bytes.
            writer.truncate(0).await?;
            if keep > 0 {
                let mut bytes = content.read(&self.ctx, digest, 0, keep).await?;
                while let Some(chunk) = bytes.next().await {
                    writer.write(chunk?).await?;
                }
            }
            self.source = Source::Ingest(writer);
        }
        match &mut self.source {
            Source::Ingest(writer) => Ok(writer),
            Source::Shared { .. } | Source::Committed => Err(committed(&self.reference)),
        }
    }
}

fn committed(reference: &str) -> Error {
    Error::failed_precondition(format!("ingest {reference:?} was committed already"))
}

#[async_trait]
impl IngestWriter for NamespacedWriter {
    async fn status(&mut self) -> Result<IngestStatus> {
        match &mut self.source {
            Source::Ingest(writer) => Ok(IngestStatus {
                reference: self.reference.clone(),
                ..writer.status().await?
            }),
            Source::Shared { digest, size, since } => Ok(IngestStatus {
                reference: self.reference.clone(),
                started: *since,
                updated: *since,
                offset: *size,
                total: *size,
                expected: Some(digest.clone()),
            }),
            Source::Committed => Err(committed(&self.reference)),
        }
    }

    async fn digest(&mut self) -> Result<Digest> {
        match &mut self.source {
            Source::Ingest(writer) => writer.digest().await,
            Source::Shared { digest, .. } => Ok(digest.clone()),
            Source::Committed => Err(committed(&self.reference)),
        }
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let keep = if let Source::Shared { size, .. } = self.source {
            size
        } else {
            0
        };
        self.own(keep).await?.write(data).await
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        if let Source::Shared { size: all, .. } = self.source {
            if size > all {
                return Err(Error::out_of_range(format!(
                    "truncate ingest {:?}: {size} bytes are past its end, {all}",
                    self.reference
                )));
            }
            return self.own(size).await.map(|_| ());
        }
        self.own(size).await?.truncate(size).await
    }

    async fn commit(&mut self, options: CommitOptions) -> Result<Digest> {
        labels::validate("info.Labels", &options.labels)?;
        let commit = Commit {
            shared: Arc::clone(&self.shared),
            ctx: self.ctx.clone(),
            caller: self.caller.clone(),
            reference: self.reference.clone(),
            labels: options.labels,
        };
        let (size, expected) = (options.size, options.expected);
        match std::mem::replace(&mut self.source, Source::Committed) {
            Source::Ingest(writer) => detached(commit.ingest(writer, size, expected)).await,
            Source::Shared { digest, size: all, .. } => {
                if size != 0 && size != all {
                    return Err(wrong_size(&self.reference, all, size));
                }
                if let Some(expected) = expected.filter(|expected| *expected != digest) {
                    return Err(Error::failed_precondition(format!(
                        "{:?} unexpected digest: it is {digest}, not {expected}",
                        self.reference
                    )));
                }
                detached(commit.shared(digest, all)).await
            }
            Source::Committed => Err(committed(&self.reference)),
        }
    }
}

fn wrong_size(reference: &str, actual: u64, wanted: u64) -> Error {
    Error::failed_precondition(format!("{reference:?} failed size validation: {actual} != {wanted}"))
}

// === impl Commit ===

impl Commit {
    /// Commits the content store's ingest, then the record.
    async fn ingest(self, mut writer: Box<dyn IngestWriter>, size: u64, expected: Option<Digest>) -> Result<Digest> {
        let actual = writer.status().await?.offset;
        if size != 0 && size != actual {
            return Err(wrong_size(&self.reference, actual, size));
        }
        let digest = writer.digest().await?;
        let held = self.shared.in_flight.hold(in_flight::blob(digest.as_str())).await;
        let options = CommitOptions {
            size: actual,
            expected,
            labels: Labels::new(),
        };
        match writer.commit(options).await {
            // Another namespace has it.
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error),
            Ok(committed) if committed != digest => {
                self.shared.dirty.content();
                return Err(Error::data_loss(format!(
                    "{:?}: the content store committed {committed}, but {digest} was written",
                    self.reference
                )));
            }
            Ok(_) => {}
        }
        self.record(digest, actual, held).await
    }

    /// Commits a record for a blob that the content store has.
    async fn shared(self, digest: Digest, size: u64) -> Result<Digest> {
        let held = self.shared.in_flight.hold(in_flight::blob(digest.as_str())).await;
        // The ingest that spared the blob may have expired meanwhile.
        self.shared.content().await?.info(&self.ctx, &digest).await?;
        self.record(digest, size, held).await
    }

    /// Commits the record; `held` keeps the blob from being cleaned away until it is there.
    async fn record(self, digest: Digest, size: u64, held: InUse) -> Result<Digest> {
        let Self {
            shared,
            caller,
            reference,
            labels,
            ..
        } = self;
        let (ns, blob) = (caller.ns.clone(), digest.clone());
        let recorded = shared
            .store
            .write(move |draft| {
                draft.delete(Key::ingest(caller.ns(), &reference));
                caller.release(draft, INGESTS, &reference);
                caller.hold(draft, CONTENT, blob.as_str())?;
                let key = Key::blob(caller.ns(), blob.as_str());
                let fresh = !draft.has(&key)?;
                if fresh {
                    let now = record::now();
                    draft.put(
                        key,
                        &BlobRecord {
                            labels: labels::kept(labels),
                            size,
                            created: now,
                            updated: now,
                        },
                    );
                    draft.ensure_namespace(caller.ns())?;
                }
                Ok(fresh)
            })
            .await;
        drop(held);
        // The blob may be nobody's now.
        if recorded.is_err() {
            shared.dirty.content();
        }
        if !recorded? {
            return Err(Error::already_exists(format!("content {digest}: already exists")));
        }
        let event = events::ContentCreate {
            digest: digest.to_string(),
            size: size as i64,
        };
        shared.publish(&ns, event).await;
        Ok(digest)
    }
}
