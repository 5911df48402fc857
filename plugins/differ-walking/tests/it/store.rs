//! A content store in memory: what a differ asks of one, and that it can be made to fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use bytes::Bytes;
use orlop_plugin::contract::{
    BoxStream, CommitOptions, ContentInfo, ContentStore, Ctx, Digest, IngestStatus, IngestWriter, WriterOptions,
    async_trait, stream_of,
};
use orlop_plugin::{Error, Result};
use sha2::{Digest as _, Sha256};

#[derive(Default)]
struct State {
    blobs: BTreeMap<Digest, (ContentInfo, Bytes)>,
    ingests: BTreeMap<String, Vec<u8>>,
    /// Writes fail when an ingest would grow past this.
    full_at: Option<usize>,
}

/// The store.
#[derive(Clone, Default)]
pub(crate) struct Store(Arc<Mutex<State>>);

impl Store {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }

    /// Stores `data` without labels.
    pub(crate) fn put(&self, data: impl Into<Bytes>) -> Digest {
        let data = data.into();
        let digest = Digest::from_sha256(Sha256::digest(&data));
        let info = ContentInfo {
            digest: digest.clone(),
            size: data.len() as u64,
            created: SystemTime::now(),
            updated: SystemTime::now(),
            labels: BTreeMap::new(),
        };
        self.state().blobs.insert(digest.clone(), (info, data));
        digest
    }

    pub(crate) fn get(&self, digest: &Digest) -> (ContentInfo, Bytes) {
        self.state().blobs.get(digest).cloned().expect("it is there")
    }

    pub(crate) fn begin(&self, reference: &str, data: &[u8]) {
        self.state().ingests.insert(reference.to_owned(), data.to_vec());
    }

    pub(crate) fn ingests(&self) -> Vec<String> {
        self.state().ingests.keys().cloned().collect()
    }

    pub(crate) fn full_at(&self, size: usize) {
        self.state().full_at = Some(size);
    }
}

fn missing(what: impl std::fmt::Display) -> Error {
    Error::not_found(format!("{what} is not there"))
}

#[async_trait]
impl ContentStore for Store {
    async fn info(&self, _: &Ctx, digest: &Digest) -> Result<ContentInfo> {
        let state = self.state();
        let (info, _) = state.blobs.get(digest).ok_or_else(|| missing(digest))?;
        Ok(info.clone())
    }

    async fn update(&self, _: &Ctx, info: ContentInfo, fields: &[String]) -> Result<ContentInfo> {
        let mut state = self.state();
        let (stored, _) = state.blobs.get_mut(&info.digest).ok_or_else(|| missing(&info.digest))?;
        for field in fields {
            let key = field.strip_prefix("labels.").expect("one label");
            stored.labels.insert(key.to_owned(), info.labels[key].clone());
        }
        Ok(stored.clone())
    }

    async fn list(&self, _: &Ctx, _: &[String]) -> Result<BoxStream<ContentInfo>> {
        Ok(stream_of(
            self.state().blobs.values().map(|(info, _)| info.clone()).collect(),
        ))
    }

    async fn delete(&self, _: &Ctx, digest: &Digest) -> Result<()> {
        self.state()
            .blobs
            .remove(digest)
            .map(|_| ())
            .ok_or_else(|| missing(digest))
    }

    async fn read(&self, _: &Ctx, digest: &Digest, offset: u64, _: u64) -> Result<BoxStream<Bytes>> {
        let state = self.state();
        let (_, data) = state.blobs.get(digest).ok_or_else(|| missing(digest))?;
        let data = data.slice(usize::try_from(offset).expect("small")..);
        Ok(stream_of(data.chunks(10_000).map(Bytes::copy_from_slice).collect()))
    }

    async fn status(&self, _: &Ctx, reference: &str) -> Result<IngestStatus> {
        Err(missing(reference))
    }

    async fn statuses(&self, _: &Ctx, _: &[String]) -> Result<Vec<IngestStatus>> {
        Ok(Vec::new())
    }

    async fn abort(&self, _: &Ctx, reference: &str) -> Result<()> {
        self.state()
            .ingests
            .remove(reference)
            .map(|_| ())
            .ok_or_else(|| missing(reference))
    }

    async fn writer(&self, _: &Ctx, options: WriterOptions) -> Result<Box<dyn IngestWriter>> {
        self.state().ingests.entry(options.reference.clone()).or_default();
        Ok(Box::new(Writer {
            store: self.clone(),
            reference: options.reference,
        }))
    }
}

struct Writer {
    store: Store,
    reference: String,
}

impl Writer {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<u8>) -> T) -> Result<T> {
        let mut state = self.store.state();
        let data = state
            .ingests
            .get_mut(&self.reference)
            .ok_or_else(|| missing(&self.reference))?;
        Ok(f(data))
    }
}

#[async_trait]
impl IngestWriter for Writer {
    async fn status(&mut self) -> Result<IngestStatus> {
        Ok(IngestStatus {
            reference: self.reference.clone(),
            started: SystemTime::now(),
            updated: SystemTime::now(),
            offset: self.with(|data| data.len() as u64)?,
            total: 0,
            expected: None,
        })
    }

    async fn digest(&mut self) -> Result<Digest> {
        self.with(|data| Digest::from_sha256(Sha256::digest(data)))
    }

    async fn write(&mut self, more: Bytes) -> Result<()> {
        let full_at = self.store.state().full_at;
        self.with(|data| {
            if full_at.is_some_and(|full| data.len() + more.len() > full) {
                return Err(Error::resource_exhausted("the store is full"));
            }
            data.extend_from_slice(&more);
            Ok(())
        })?
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        self.with(|data| data.truncate(usize::try_from(size).expect("small")))
    }

    async fn commit(&mut self, options: CommitOptions) -> Result<Digest> {
        let data = self
            .store
            .state()
            .ingests
            .remove(&self.reference)
            .ok_or_else(|| missing(&self.reference))?;
        let digest = Digest::from_sha256(Sha256::digest(&data));
        if options.expected.is_some_and(|expected| expected != digest) {
            return Err(Error::failed_precondition("another digest"));
        }
        if self.store.state().blobs.contains_key(&digest) {
            return Err(Error::already_exists("the blob is there"));
        }
        self.store.put(data);
        if let Some((info, _)) = self.store.state().blobs.get_mut(&digest) {
            info.labels = options.labels;
        }
        Ok(digest)
    }
}
