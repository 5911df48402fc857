//! Content: blobs by digest, and the ingests that become blobs.
//!
//! ```text
//!   writer(ref)            write…            commit(size, digest)
//!  (none) ────▶ Ingest ──────────▶ Ingest ───────────────────────▶ Blob
//!                 │ dropped writer: stays, resumable at its offset
//!                 └ abort(ref) ▶ (none)
//! ```

use super::{BoxStream, Ctx, Digest, Labels, Result, async_trait};
use bytes::Bytes;
use std::time::SystemTime;

/// What is known of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its length, in bytes.
    pub size: u64,
    /// When it was committed.
    pub created: SystemTime,
    /// When its labels last changed.
    pub updated: SystemTime,
    /// Labels.
    pub labels: Labels,
}

/// How far an ingest is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestStatus {
    /// The writer's name for it.
    pub reference: String,
    /// When it began.
    pub started: SystemTime,
    /// When it was last written.
    pub updated: SystemTime,
    /// Bytes so far.
    pub offset: u64,
    /// Bytes expected; 0 when unknown.
    pub total: u64,
    /// The digest expected.
    pub expected: Option<Digest>,
}

/// How an ingest is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterOptions {
    /// The writer's name for it; one writer a reference at a time.
    pub reference: String,
    /// Bytes expected; 0 when unknown.
    pub total: u64,
    /// The digest expected.
    pub expected: Option<Digest>,
}

/// How an ingest is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitOptions {
    /// Bytes it must have; 0 when the caller does not know.
    pub size: u64,
    /// The digest it must have.
    pub expected: Option<Digest>,
    /// The labels of the blob.
    pub labels: Labels,
}

/// A content store, as `containerd.services.content.v1` describes it.
#[async_trait]
pub trait ContentStore: Send + Sync + 'static {
    /// What is known of `digest`. `NotFound` when there is none.
    async fn info(&self, ctx: &Ctx, digest: &Digest) -> Result<ContentInfo>;

    /// Changes the labels of `info.digest`: those named in `fields` (`labels.KEY`), or all (`labels`, or no fields).
    async fn update(&self, ctx: &Ctx, info: ContentInfo, fields: &[String]) -> Result<ContentInfo>;

    /// All blobs that match any of `filters` (none: all), in order of their digest.
    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<ContentInfo>>;

    /// Removes a blob.
    async fn delete(&self, ctx: &Ctx, digest: &Digest) -> Result<()>;

    /// `size` bytes from `offset` on (0: all the rest), in chunks. `OutOfRange` past the end.
    async fn read(&self, ctx: &Ctx, digest: &Digest, offset: u64, size: u64) -> Result<BoxStream<Bytes>>;

    /// How far the ingest `reference` is.
    async fn status(&self, ctx: &Ctx, reference: &str) -> Result<IngestStatus>;

    /// All ingests that match any of `filters` (none: all).
    async fn statuses(&self, ctx: &Ctx, filters: &[String]) -> Result<Vec<IngestStatus>>;

    /// Gives up the ingest `reference` and frees what it holds.
    async fn abort(&self, ctx: &Ctx, reference: &str) -> Result<()>;

    /// Opens an ingest, or goes on with one. `Unavailable` while another writer has it, `AlreadyExists` when the expected digest
    /// is stored already.
    async fn writer(&self, ctx: &Ctx, options: WriterOptions) -> Result<Box<dyn IngestWriter>>;
}

/// The one writer of an ingest. Dropped without a commit, the ingest stays and can be gone on with.
#[async_trait]
pub trait IngestWriter: Send + 'static {
    /// How far it is.
    async fn status(&mut self) -> Result<IngestStatus>;

    /// The digest of what was written so far.
    async fn digest(&mut self) -> Result<Digest>;

    /// Appends. Not durable before the commit.
    async fn write(&mut self, data: Bytes) -> Result<()>;

    /// Cuts (or starts over at) `size` bytes. A size past the end is `OutOfRange`, and so is any but 0 for containerd behind a socket; there an
    /// error also ends this writer, and the next one goes on.
    async fn truncate(&mut self, size: u64) -> Result<()>;

    /// Makes it a blob, durably. `FailedPrecondition` for a wrong size or digest, `AlreadyExists` when the blob is there (the
    /// ingest is gone then too). Returns the digest. Nothing may be called afterwards.
    async fn commit(&mut self, options: CommitOptions) -> Result<Digest>;
}
