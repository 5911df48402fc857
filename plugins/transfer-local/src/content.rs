//! The content store as a transfer uses it: documents read whole and checked, blobs written as they arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use orlop_plugin::contract::{
    BoxStream, Code, CommitOptions, ContentInfo, ContentStore, Ctx, Digest, IngestWriter, Labels, WriterOptions,
};
use orlop_plugin::{Error, Result};
use tokio::time::sleep;

use crate::oci::{Descriptor, check_size};

/// Pieces of a stream are gathered up to this size, because each write to the store is a hop to a thread that may block.
const WRITE_SIZE: usize = 256 << 10;

/// The longest pause before looking again whether another writer is done.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The content of one namespace, under one lease.
#[derive(Clone)]
pub struct Content {
    /// The store.
    pub store: Arc<dyn ContentStore>,
    /// Namespace and lease.
    pub ctx: Ctx,
}

/// A string that no other transfer of this daemon uses.
pub fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanoseconds = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    format!("{nanoseconds}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

// === impl Content ===

impl Content {
    /// What is known of the blob that `descriptor` names: `NotFound` when it is not there, `FailedPrecondition` when its size is
    /// another.
    pub async fn check(&self, descriptor: &Descriptor) -> Result<ContentInfo> {
        let info = self
            .store
            .info(&self.ctx, &descriptor.digest)
            .await
            .map_err(|error| match error.code {
                Code::NotFound => {
                    Error::not_found(format!("the blob {} is not in the content store", descriptor.digest))
                }
                _ => error.context(format!("look up the blob {}", descriptor.digest)),
            })?;
        if info.size == descriptor.size {
            Ok(info)
        } else {
            Err(Error::failed_precondition(format!(
                "the blob {} has {} bytes, but {} are said of it",
                descriptor.digest, info.size, descriptor.size
            )))
        }
    }

    /// A whole document. `InvalidArgument` when it is larger than a document may be.
    pub async fn read_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        check_size(descriptor)?;
        self.check(descriptor).await?;
        let mut bytes = Vec::with_capacity(descriptor.size as usize);
        let mut pieces = self.read(&descriptor.digest).await?;
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes)
    }

    /// The bytes of a blob.
    pub async fn read(&self, digest: &Digest) -> Result<BoxStream<Bytes>> {
        self.read_range(digest, 0, 0).await
    }

    /// `length` bytes of a blob from `offset` on; with 0 all that there are.
    pub async fn read_range(&self, digest: &Digest, offset: u64, length: u64) -> Result<BoxStream<Bytes>> {
        let read = self.store.read(&self.ctx, digest, offset, length).await;
        read.map_err(|error| error.context(format!("read the blob {digest}")))
    }

    /// Opens a blob for writing. With `expected`, one that is stored already is not written again.
    pub async fn create(&self, name: &str, size: u64, expected: Option<Digest>) -> Result<Ingest> {
        let reference = format!("transfer-{}-{name}", unique());
        let options = WriterOptions {
            reference: reference.clone(),
            total: size,
            expected: expected.clone(),
        };
        let writer = match (self.store.writer(&self.ctx, options).await, &expected) {
            (Err(error), Some(digest)) if error.is_already_exists() => {
                self.check(&Descriptor::new("", digest.clone(), size)).await?;
                None
            }
            (opened, _) => {
                let mut writer = opened.map_err(|error| error.context(format!("store {name:?}")))?;
                // A new reference begins at 0, unless another namespace shares the blob: then all of it is there.
                let present = writer.status().await?.offset;
                if present > 0 && present == size && expected.is_some() {
                    let commit = CommitOptions {
                        size,
                        expected: expected.clone(),
                        labels: Labels::new(),
                    };
                    stored(writer.commit(commit).await, expected.as_ref())?;
                    None
                } else {
                    if present > 0 {
                        writer.truncate(0).await?;
                    }
                    Some(writer)
                }
            }
        };
        Ok(Ingest {
            content: self.clone(),
            reference,
            writer,
            expected,
            pending: BytesMut::new(),
        })
    }

    /// Opens the ingest `reference` of a blob where it was left, and says where that is; `None` when the blob is there. Waits while
    /// somebody else writes it.
    pub async fn resume(&self, reference: String, descriptor: &Descriptor) -> Result<Option<(Ingest, u64)>> {
        let options = WriterOptions {
            reference: reference.clone(),
            total: descriptor.size,
            expected: Some(descriptor.digest.clone()),
        };
        let mut pause = Duration::from_millis(20);
        let mut writer = loop {
            match self.store.writer(&self.ctx, options.clone()).await {
                Ok(writer) => break writer,
                Err(error) if error.is_already_exists() => {
                    self.check(descriptor).await?;
                    return Ok(None);
                }
                Err(error) if error.code == Code::Unavailable => {
                    sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                Err(error) => return Err(error.context(format!("store the blob {}", descriptor.digest))),
            }
        };
        let mut offset = writer.status().await?.offset;
        if offset > descriptor.size {
            writer.truncate(0).await?;
            offset = 0;
        }
        let ingest = Ingest {
            content: self.clone(),
            reference,
            writer: Some(writer),
            expected: Some(descriptor.digest.clone()),
            pending: BytesMut::new(),
        };
        Ok(Some((ingest, offset)))
    }

    /// Stores a small blob that we have made.
    pub async fn write(&self, name: &str, bytes: Vec<u8>) -> Result<Digest> {
        let (digest, size) = (crate::oci::digest_of(&bytes), bytes.len() as u64);
        let mut ingest = self.create(name, size, Some(digest)).await?;
        ingest.write(Bytes::from(bytes)).await?;
        ingest.commit(size, Labels::new()).await
    }

    /// Sets labels of a blob, leaving its others alone.
    pub async fn label(&self, digest: &Digest, labels: Labels) -> Result<()> {
        let fields: Vec<String> = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = ContentInfo {
            digest: digest.clone(),
            size: 0,
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            labels,
        };
        let updated = self.store.update(&self.ctx, info, &fields).await;
        updated
            .map(|_| ())
            .map_err(|error| error.context(format!("label the blob {digest}")))
    }
}

/// A blob that is being written; nothing is written when it is there already.
pub struct Ingest {
    content: Content,
    reference: String,
    writer: Option<Box<dyn IngestWriter>>,
    expected: Option<Digest>,
    pending: BytesMut,
}

// === impl Ingest ===

impl Ingest {
    /// Appends.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        if self.pending.is_empty() && bytes.len() >= WRITE_SIZE {
            return writer.write(bytes).await;
        }
        self.pending.extend_from_slice(&bytes);
        if self.pending.len() >= WRITE_SIZE {
            writer.write(self.pending.split().freeze()).await?;
        }
        Ok(())
    }

    /// Hands what was written over to the store, which keeps it when this is dropped.
    pub async fn flush(&mut self) -> Result<()> {
        match &mut self.writer {
            Some(writer) if !self.pending.is_empty() => writer.write(self.pending.split().freeze()).await,
            _ => Ok(()),
        }
    }

    /// Makes it a blob. `FailedPrecondition` when its digest or size is not what was expected.
    pub async fn commit(mut self, size: u64, labels: Labels) -> Result<Digest> {
        let Some(mut writer) = self.writer.take() else {
            return self
                .expected
                .ok_or_else(|| Error::internal("a blob without a digest cannot exist already"));
        };
        if !self.pending.is_empty() {
            writer.write(self.pending.split().freeze()).await?;
        }
        let digest = match &self.expected {
            Some(digest) => digest.clone(),
            None => writer.digest().await?,
        };
        let commit = CommitOptions {
            size,
            expected: Some(digest.clone()),
            labels,
        };
        match stored(writer.commit(commit).await, Some(&digest)) {
            Ok(digest) => Ok(digest),
            Err(error) => {
                drop(writer);
                self.abort().await;
                Err(error)
            }
        }
    }

    /// Gives up what was written so far.
    pub async fn abort(mut self) {
        self.writer = None;
        if let Err(error) = self.content.store.abort(&self.content.ctx, &self.reference).await
            && !error.is_not_found()
        {
            tracing::debug!(reference = self.reference, %error, "an ingest is left to garbage collection");
        }
    }
}

/// A commit that finds the blob there has done its work.
fn stored(committed: Result<Digest>, digest: Option<&Digest>) -> Result<Digest> {
    match (committed, digest) {
        (Err(error), Some(digest)) if error.is_already_exists() => Ok(digest.clone()),
        (committed, _) => committed,
    }
}
