//! A content store in memory, with the rules of a real one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use bytes::Bytes;
use orlop_plugin::Error;
use orlop_plugin::contract::*;
use sha2::{Digest as _, Sha256};

pub fn digest_of(data: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(data))
}

/// Cheap to clone; each is the same store.
#[derive(Clone, Default)]
pub struct Store(Arc<Mutex<Inner>>);

#[derive(Default)]
pub struct Inner {
    pub blobs: BTreeMap<Digest, (Vec<u8>, Labels)>,
    pub ingests: BTreeMap<String, Ingest>,
}

#[derive(Default)]
pub struct Ingest {
    data: Vec<u8>,
    total: u64,
    expected: Option<Digest>,
    written: bool,
}

struct Writer {
    store: Store,
    reference: String,
}

// === impl Store ===

impl Store {
    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("unpoisoned")
    }

    fn with<T>(&self, reference: &str, f: impl FnOnce(&mut Ingest) -> T) -> T {
        f(self
            .inner()
            .ingests
            .get_mut(reference)
            .expect("an ingest being written"))
    }

    pub fn ingest(&self, reference: &str) -> Option<Vec<u8>> {
        self.inner().ingests.get(reference).map(|ingest| ingest.data.clone())
    }

    pub fn is_free(&self, reference: &str) -> bool {
        self.inner().ingests.get(reference).is_none_or(|ingest| !ingest.written)
    }
}

#[async_trait]
impl ContentStore for Store {
    async fn info(&self, _: &Ctx, digest: &Digest) -> Result<ContentInfo> {
        let inner = self.inner();
        let (data, labels) = inner
            .blobs
            .get(digest)
            .ok_or_else(|| Error::not_found(format!("content {digest}")))?;
        Ok(ContentInfo {
            digest: digest.clone(),
            size: data.len() as u64,
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            labels: labels.clone(),
        })
    }

    async fn update(&self, _: &Ctx, _: ContentInfo, _: &[String]) -> Result<ContentInfo> {
        Err(Error::unimplemented("update"))
    }

    async fn list(&self, ctx: &Ctx, _: &[String]) -> Result<BoxStream<ContentInfo>> {
        let digests: Vec<_> = self.inner().blobs.keys().cloned().collect();
        let mut infos = Vec::new();
        for digest in digests {
            infos.push(self.info(ctx, &digest).await?);
        }
        Ok(stream_of(infos))
    }

    async fn delete(&self, _: &Ctx, digest: &Digest) -> Result<()> {
        self.inner().blobs.remove(digest);
        Ok(())
    }

    async fn read(&self, _: &Ctx, digest: &Digest, offset: u64, _: u64) -> Result<BoxStream<Bytes>> {
        let data = self
            .inner()
            .blobs
            .get(digest)
            .map(|(data, _)| Bytes::from(data.clone()));
        let data = data.ok_or_else(|| Error::not_found(format!("content {digest}")))?;
        if offset > data.len() as u64 {
            return Err(Error::out_of_range("read past the end"));
        }
        Ok(stream_of(vec![data.slice(offset as usize..)]))
    }

    async fn status(&self, _: &Ctx, reference: &str) -> Result<IngestStatus> {
        let inner = self.inner();
        let ingest = inner
            .ingests
            .get(reference)
            .ok_or_else(|| Error::not_found(format!("ingest {reference}")))?;
        Ok(IngestStatus {
            reference: reference.to_owned(),
            started: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            offset: ingest.data.len() as u64,
            total: ingest.total,
            expected: ingest.expected.clone(),
        })
    }

    async fn statuses(&self, _: &Ctx, _: &[String]) -> Result<Vec<IngestStatus>> {
        Err(Error::unimplemented("statuses"))
    }

    async fn abort(&self, _: &Ctx, reference: &str) -> Result<()> {
        self.inner().ingests.remove(reference);
        Ok(())
    }

    async fn writer(&self, _: &Ctx, options: WriterOptions) -> Result<Box<dyn IngestWriter>> {
        let mut inner = self.inner();
        if let Some(expected) = &options.expected
            && inner.blobs.contains_key(expected)
        {
            return Err(Error::already_exists(format!("content {expected} exists")));
        }
        let ingest = inner.ingests.entry(options.reference.clone()).or_default();
        if ingest.written {
            return Err(Error::unavailable(format!("ref {} is locked", options.reference)));
        }
        ingest.written = true;
        ingest.total = options.total;
        ingest.expected = options.expected;
        Ok(Box::new(Writer {
            store: self.clone(),
            reference: options.reference,
        }))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(ingest) = self.store.inner().ingests.get_mut(&self.reference) {
            ingest.written = false;
        }
    }
}

#[async_trait]
impl IngestWriter for Writer {
    async fn status(&mut self) -> Result<IngestStatus> {
        self.store.status(&Ctx::daemon(), &self.reference).await
    }

    async fn digest(&mut self) -> Result<Digest> {
        Ok(self.store.with(&self.reference, |ingest| digest_of(&ingest.data)))
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.store
            .with(&self.reference, |ingest| ingest.data.extend_from_slice(&data));
        Ok(())
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        self.store.with(&self.reference, |ingest| {
            if size > ingest.data.len() as u64 {
                return Err(Error::out_of_range("truncate past the end"));
            }
            ingest.data.truncate(size as usize);
            Ok(())
        })
    }

    async fn commit(&mut self, options: CommitOptions) -> Result<Digest> {
        let mut inner = self.store.inner();
        let ingest = &inner.ingests[&self.reference];
        let (size, digest) = (ingest.data.len() as u64, digest_of(&ingest.data));
        if options.size != 0 && options.size != size {
            return Err(Error::failed_precondition(format!(
                "size {size} is not {}",
                options.size
            )));
        }
        if options.expected.is_some_and(|expected| expected != digest) {
            return Err(Error::failed_precondition(format!("digest is {digest}")));
        }
        let data = inner.ingests.remove(&self.reference).unwrap_or_default().data;
        inner.blobs.insert(digest.clone(), (data, options.labels));
        Ok(digest)
    }
}
