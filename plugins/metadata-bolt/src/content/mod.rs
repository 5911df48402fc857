//! Namespaced content: which of the content store's blobs a namespace sees, and with which labels.
//!
//! ```text
//!   writer(ref, expected?)                        write…          commit
//!     ├─ the namespace has the blob ▶ AlreadyExists (and the lease holds it)
//!     ├─ sharing allowed, blob is there ▶ Ingest{shares} ─────────────────▶ Blob record     no byte is sent
//!     │                                     └ write, truncate: copied into an ingest of its own, then as below
//!     └─ else ▶ Ingest{backend: NS/COUNTER/ref} ──▶ the store's ingest ────▶ the store's blob ▶ Blob record
//! ```
//!
//! The content store's bytes are shared between namespaces by digest under either policy; the policy says only whether naming a digest
//! is enough to see them. Bytes are freed by garbage collection alone, once no namespace has a record of them.

mod writer;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use containerd_client::events;
use futures_util::{StreamExt, TryStreamExt, stream};
use orlop_plugin::contract::{
    BoxStream, ContentInfo, ContentStore, Ctx, Digest, IngestStatus, IngestWriter, WriterOptions, async_trait,
};
use orlop_plugin::filter::{self, Filters};
use orlop_plugin::{Error, Result};

use crate::in_flight;
use crate::labels;
use crate::leases::{CONTENT, INGESTS};
use crate::namespaces;
use crate::record::{self, BlobRecord, IngestRecord, NamespaceRecord, time};
use crate::shared::{Caller, Shared, backend_key};
use crate::store::{Key, Kind, Prefix, Reader, decode};
use writer::NamespacedWriter;

/// How long an ingest that no lease holds is kept.
const INGEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// A namespace with this label set to `true` lends its blobs to all others, under any policy.
const SHAREABLE: &str = "containerd.io/namespace.shareable";

/// How many ingests are asked after at once.
const STATUSES_AT_ONCE: usize = 16;

/// The content of a namespace.
pub(crate) struct NamespacedContent(pub(crate) Arc<Shared>);

fn content_not_found(digest: &str) -> Error {
    Error::not_found(format!("content digest {digest}: not found"))
}

fn ingest_not_found(reference: &str) -> Error {
    Error::not_found(format!("reference {reference}: not found"))
}

fn from_record(digest: &str, record: BlobRecord) -> Result<ContentInfo> {
    Ok(ContentInfo {
        digest: Digest::new(digest)?,
        size: record.size,
        created: time(record.created),
        updated: time(record.updated),
        labels: record.labels,
    })
}

/// What opening a writer came to.
enum Opened {
    Exists,
    Ingest { backend: String },
}

impl NamespacedContent {
    fn ingest(&self, caller: &Caller, reference: &str) -> Result<IngestRecord> {
        let record = self.0.store.view().load(&Key::ingest(caller.ns(), reference))?;
        record.ok_or_else(|| ingest_not_found(reference))
    }

    /// The blob that naming it is enough to have; `None` when it must be sent.
    async fn shareable(&self, ctx: &Ctx, options: &WriterOptions) -> Result<Option<ContentInfo>> {
        let Some(digest) = &options.expected else {
            return Ok(None);
        };
        if !self.0.share_content && !self.lent(digest)? {
            return Ok(None);
        }
        match self.0.content().await?.info(ctx, digest).await {
            // Another size is most likely a mistake, which shows when what is sent instead is committed.
            Ok(info) => Ok(Some(info).filter(|info| options.total == 0 || options.total == info.size)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a namespace lends `digest` to all others.
    fn lent(&self, digest: &Digest) -> Result<bool> {
        let view = self.0.store.view();
        for ns in namespaces::names(&view)? {
            let record: NamespaceRecord = view.load(&Key::namespace_record(&ns))?.unwrap_or_default();
            let lends = record.labels.get(SHAREABLE).is_some_and(|value| value == "true");
            if lends && view.has(&Key::blob(&ns, digest.as_str()))? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[async_trait]
impl ContentStore for NamespacedContent {
    async fn info(&self, ctx: &Ctx, digest: &Digest) -> Result<ContentInfo> {
        let caller = Caller::of(ctx)?;
        let record = self.0.store.view().load(&Key::blob(caller.ns(), digest.as_str()))?;
        from_record(
            digest.as_str(),
            record.ok_or_else(|| content_not_found(digest.as_str()))?,
        )
    }

    async fn update(&self, ctx: &Ctx, info: ContentInfo, fields: &[String]) -> Result<ContentInfo> {
        let (caller, fields) = (Caller::of(ctx)?, fields.to_vec());
        self.0
            .store
            .write(move |draft| {
                let digest = info.digest.as_str();
                let key = Key::blob(caller.ns(), digest);
                let mut record: BlobRecord = draft.load(&key)?.ok_or_else(|| content_not_found(digest))?;
                labels::update(&mut record.labels, &info.labels, &fields, "content info", digest)?;
                labels::validate("info.Labels", &record.labels)?;
                record.labels = labels::kept(record.labels);
                record.updated = record::now();
                draft.put(key, &record);
                from_record(digest, record)
            })
            .await
    }

    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<ContentInfo>> {
        let (caller, filters) = (Caller::of(ctx)?, Filters::parse(filters)?);
        Ok(self
            .0
            .store
            .stream(Prefix::in_namespace(Kind::Blob, &caller.ns), move |key, value| {
                let record: BlobRecord = decode(key, value)?;
                let [_, digest] = key.parts();
                let wanted = filters.matches(|path| match path {
                    ["digest", ..] => Some(digest),
                    ["labels", key @ ..] => filter::label(&record.labels, key),
                    _ => None,
                });
                wanted.then(|| from_record(digest, record)).transpose()
            }))
    }

    async fn delete(&self, ctx: &Ctx, digest: &Digest) -> Result<()> {
        let (caller, blob) = (Caller::of(ctx)?, digest.clone());
        let ns = caller.ns.clone();
        self.0
            .store
            .write(move |draft| {
                let key = Key::blob(caller.ns(), blob.as_str());
                if !draft.has(&key)? {
                    return Err(content_not_found(blob.as_str()));
                }
                caller.release(draft, CONTENT, blob.as_str());
                draft.delete(key);
                draft.leaves_garbage();
                Ok(())
            })
            .await?;
        self.0.dirty.content();
        self.0
            .publish(
                &ns,
                events::ContentDelete {
                    digest: digest.to_string(),
                },
            )
            .await;
        Ok(())
    }

    async fn read(&self, ctx: &Ctx, digest: &Digest, offset: u64, size: u64) -> Result<BoxStream<Bytes>> {
        let caller = Caller::of(ctx)?;
        if !self.0.store.view().has(&Key::blob(caller.ns(), digest.as_str()))? {
            return Err(content_not_found(digest.as_str()));
        }
        self.0.content().await?.read(ctx, digest, offset, size).await
    }

    async fn status(&self, ctx: &Ctx, reference: &str) -> Result<IngestStatus> {
        let ingest = self.ingest(&Caller::of(ctx)?, reference)?;
        let status = self
            .0
            .content()
            .await?
            .status(ctx, &ingest.backend)
            .await
            .map_err(|error| {
                // The store knows the ingest by a name that means nothing to the caller.
                if error.is_not_found() {
                    ingest_not_found(reference)
                } else {
                    error
                }
            })?;
        Ok(IngestStatus {
            reference: reference.to_owned(),
            ..status
        })
    }

    async fn statuses(&self, ctx: &Ctx, filters: &[String]) -> Result<Vec<IngestStatus>> {
        let (caller, filters) = (Caller::of(ctx)?, Filters::parse(filters)?);
        let mut ingests = Vec::new();
        self.0
            .store
            .view()
            .scan(&Prefix::in_namespace(Kind::Ingest, &caller.ns), &mut |key, value| {
                let record: IngestRecord = decode(&key, value)?;
                let [_, reference] = key.parts();
                if filters.matches(|path| (path.first() == Some(&"ref")).then_some(reference)) {
                    ingests.push((reference.to_owned(), record.backend));
                }
                Ok(())
            })?;
        if ingests.is_empty() {
            return Ok(Vec::new());
        }
        let content = self.0.content().await?;
        let asked = stream::iter(ingests).map(|(reference, backend)| {
            let content = &content;
            async move {
                match content.status(ctx, &backend).await {
                    Ok(status) => Ok(Some(IngestStatus { reference, ..status })),
                    Err(error) if error.is_not_found() => Ok(None),
                    Err(error) => Err(error),
                }
            }
        });
        asked
            .buffered(STATUSES_AT_ONCE)
            .try_filter_map(|status| async move { Ok(status) })
            .try_collect()
            .await
    }

    async fn abort(&self, ctx: &Ctx, reference: &str) -> Result<()> {
        let (caller, aborted) = (Caller::of(ctx)?, reference.to_owned());
        let ingest = self
            .0
            .store
            .write(move |draft| {
                let key = Key::ingest(caller.ns(), &aborted);
                let ingest: IngestRecord = draft.load(&key)?.ok_or_else(|| ingest_not_found(&aborted))?;
                draft.delete(key);
                caller.release(draft, INGESTS, &aborted);
                Ok(ingest)
            })
            .await?;
        match self.0.content().await?.abort(ctx, &ingest.backend).await {
            // One that shares a blob mostly has nothing in the store; and one that a crash cut short may not have got there.
            Err(error) if !error.is_not_found() => {
                self.0.dirty.content();
                Err(error)
            }
            _ => Ok(()),
        }
    }

    async fn writer(&self, ctx: &Ctx, options: WriterOptions) -> Result<Box<dyn IngestWriter>> {
        let caller = Caller::of(ctx)?;
        if options.reference.is_empty() {
            return Err(Error::invalid_argument("ref must not be empty"));
        }
        // Held until the record that shares the blob is there, so that the blob is not cleaned away in between.
        let held = match &options.expected {
            Some(digest) => Some(self.0.in_flight.hold(in_flight::blob(digest.as_str())).await),
            None => None,
        };
        let shares = self.shareable(ctx, &options).await?;
        let fresh = backend_key(caller.ns(), self.0.store.next_id().await?, &options.reference);
        let opened = self
            .open(
                &caller,
                &options,
                shares.as_ref().map(|info| info.digest.clone()),
                fresh,
            )
            .await?;
        let Opened::Ingest { backend } = opened else {
            let digest = options.expected.map(|digest| digest.to_string()).unwrap_or_default();
            return Err(Error::already_exists(format!("content {digest}: already exists")));
        };
        let open = self.0.in_flight.hold(in_flight::ingest(&backend)).await;
        let source = if let Some(info) = shares {
            writer::Source::shared(info.digest, info.size)
        } else {
            // The digest is not passed on: a blob that the store has may be none that this namespace may see.
            let inner = WriterOptions {
                reference: backend.clone(),
                total: options.total,
                expected: None,
            };
            let opened = self.0.content().await?.writer(ctx, inner).await;
            writer::Source::Ingest(opened.map_err(|error| name_ingest(error, &backend, caller.ns()))?)
        };
        drop(held);
        Ok(Box::new(NamespacedWriter {
            shared: Arc::clone(&self.0),
            ctx: ctx.clone(),
            caller,
            reference: options.reference,
            backend,
            source,
            _open: open,
        }))
    }
}

/// An error that names an ingest as its client does.
fn name_ingest(mut error: Error, backend: &str, ns: &str) -> Error {
    let counted = backend.strip_prefix(ns).and_then(|rest| rest.strip_prefix('/'));
    if let Some((_, reference)) = counted.and_then(|counted| counted.split_once('/')) {
        error.message = error.message.replace(backend, reference);
    }
    error
}

impl NamespacedContent {
    /// Makes or finds the record of an ingest, or finds that the namespace has what it is for.
    async fn open(
        &self,
        caller: &Caller,
        options: &WriterOptions,
        shares: Option<Digest>,
        fresh: String,
    ) -> Result<Opened> {
        let (caller, reference, expected) = (caller.clone(), options.reference.clone(), options.expected.clone());
        self.0
            .store
            .write(move |draft| {
                if let Some(digest) = &expected
                    && draft.has(&Key::blob(caller.ns(), digest.as_str()))?
                {
                    caller.hold(draft, CONTENT, digest.as_str())?;
                    return Ok(Opened::Exists);
                }
                let key = Key::ingest(caller.ns(), &reference);
                let mut ingest: IngestRecord = draft.load(&key)?.unwrap_or_default();
                if ingest.backend.is_empty() {
                    ingest.backend = fresh;
                }
                ingest.shares = shares.map(|digest| digest.to_string()).unwrap_or_default();
                if !caller.hold(draft, INGESTS, &reference)? {
                    ingest.expires = record::nanos(SystemTime::now() + INGEST_LIFETIME);
                }
                draft.put(key, &ingest);
                draft.ensure_namespace(caller.ns())?;
                Ok(Opened::Ingest {
                    backend: ingest.backend,
                })
            })
            .await
    }
}

#[cfg(test)]
mod tests;
