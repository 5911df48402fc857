//! The `Write` stream of `containerd.services.content.v1`: one [`IngestWriter`] a stream.
//!
//! ```text
//!   first message: ref, total, expected ─▶ writer opened, or AlreadyExists / Unavailable
//!   STAT ─▶ times, offset, total, digest
//!   WRITE, COMMIT at OFFSET: past the end OutOfRange; before it cut there first; then append, then commit
//!   end of the stream, either way ─▶ writer dropped: the ingest stays, unless it was committed
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use containerd_client::services::v1::{WriteAction, WriteContentResponse};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::client::{Remote, malformed};
use super::codec::Outgoing;
use super::content::CHUNK;
use super::convert::{digest_or_empty, digest_or_none, signed, size, stamp, time};
use super::server::{Answer, Call, messages};
use crate::contract::{
    BoxStream, CommitOptions, ContentStore, Ctx, Digest, IngestStatus, IngestWriter, WriterOptions, async_trait,
};
use crate::{Error, Result};

/// `WriteContentRequest`, whose content is not copied when it is decoded.
#[derive(Clone, PartialEq, prost::Message)]
struct Write {
    #[prost(enumeration = "WriteAction", tag = "1")]
    action: i32,
    #[prost(string, tag = "2")]
    reference: String,
    #[prost(int64, tag = "3")]
    total: i64,
    #[prost(string, tag = "4")]
    expected: String,
    #[prost(int64, tag = "5")]
    offset: i64,
    #[prost(bytes = "bytes", tag = "6")]
    data: Bytes,
    #[prost(btree_map = "string, string", tag = "7")]
    labels: BTreeMap<String, String>,
}

// === the answering half ===

struct Session {
    store: Arc<dyn ContentStore>,
    ctx: Ctx,
    requests: BoxStream<Write>,
    /// The first request, until it is answered.
    first: Option<Write>,
    /// None when all is done.
    writer: Option<Box<dyn IngestWriter>>,
    reference: String,
    offset: u64,
    total: u64,
    expected: Option<Digest>,
}

pub(super) async fn answer(store: Arc<dyn ContentStore>, call: Call) -> Result<Answer> {
    let ctx = call.ctx.clone();
    let mut requests: BoxStream<Write> = call.messages();
    let first = requests.next().await.transpose()?;
    let first = first
        .filter(|first| !first.reference.is_empty())
        .ok_or_else(|| Error::invalid_argument("first message must have a reference"))?;
    let options = WriterOptions {
        reference: first.reference.clone(),
        total: size(first.total),
        expected: digest_or_none(&first.expected)?,
    };
    let (total, expected) = (options.total, options.expected.clone());
    let mut writer = store.writer(&ctx, options).await?;
    let session = Session {
        offset: writer.status().await?.offset,
        writer: Some(writer),
        reference: first.reference.clone(),
        first: Some(first),
        store,
        ctx,
        requests,
        total,
        expected,
    };
    Answer::many(stream::try_unfold(session, Session::step))
}

// === impl Session ===

impl Session {
    /// Answers the next request.
    async fn step(mut self) -> Result<Option<(WriteContentResponse, Self)>> {
        let Some(mut writer) = self.writer.take() else {
            return Ok(None);
        };
        let request = match self.first.take() {
            Some(first) => first,
            None => match self.requests.next().await.transpose()? {
                Some(request) => request,
                None => return Ok(None),
            },
        };
        if let Some(expected) = digest_or_none(&request.expected)? {
            if self.store.info(&self.ctx, &expected).await.is_ok() {
                drop(writer);
                // The blob is there, which is all the caller wanted: what is left of the ingest is garbage collection's.
                if let Err(error) = self.store.abort(&self.ctx, &self.reference).await {
                    tracing::debug!(reference = self.reference, %error, "an ingest nobody needs stays");
                }
                return Err(Error::already_exists(format!(
                    "blob with expected digest {expected} exists"
                )));
            }
            self.expected = Some(expected);
        }
        if request.total > 0 {
            self.total = size(request.total);
        }
        let mut answer = WriteContentResponse {
            action: request.action,
            ..WriteContentResponse::default()
        };
        match request.action() {
            WriteAction::Stat => {
                let status = writer.status().await?;
                self.offset = status.offset;
                answer.started_at = stamp(status.started);
                answer.updated_at = stamp(status.updated);
                answer.total = signed(self.total);
                answer.digest = writer.digest().await?.to_string();
                self.writer = Some(writer);
            }
            WriteAction::Write => {
                self.append(&mut *writer, request.offset, request.data).await?;
                answer.digest = writer.digest().await?.to_string();
                self.writer = Some(writer);
            }
            WriteAction::Commit => {
                self.append(&mut *writer, request.offset, request.data).await?;
                let options = CommitOptions {
                    size: self.total,
                    expected: self.expected.clone(),
                    labels: request.labels,
                };
                answer.digest = writer.commit(options).await?.to_string();
            }
        }
        answer.offset = signed(self.offset);
        Ok(Some((answer, self)))
    }

    async fn append(&mut self, writer: &mut dyn IngestWriter, offset: i64, data: Bytes) -> Result<()> {
        // A negative offset is "wherever it is".
        if let Ok(offset) = u64::try_from(offset) {
            if offset > self.offset {
                return Err(Error::out_of_range(format!(
                    "write @{offset} must occur at current offset {}",
                    self.offset
                )));
            }
            if offset < self.offset {
                writer.truncate(offset).await?;
                self.offset = offset;
            }
        }
        if !data.is_empty() {
            let length = data.len() as u64;
            writer.write(data).await?;
            self.offset += length;
        }
        Ok(())
    }
}

// === the calling half ===

/// Opens the ingest at the far end of `remote`.
pub(super) async fn open(remote: &Remote, ctx: &Ctx, options: WriterOptions) -> Result<Box<dyn IngestWriter>> {
    let (requests, receiver) = mpsc::channel::<Outgoing>(1);
    // The first request must be on its way before the far side can begin to answer.
    let first = Write {
        action: WriteAction::Stat.into(),
        reference: options.reference.clone(),
        total: signed(options.total),
        expected: digest_or_empty(options.expected.as_ref()),
        ..Write::default()
    };
    requests
        .send(Box::new(first))
        .await
        .map_err(|_| Error::internal("the new call takes no message"))?;
    let answers = remote
        .duplex(ctx, "Write", ReceiverStream::new(receiver).boxed())
        .await?;
    let mut writer = Far {
        requests: Some(requests),
        answers: messages(answers),
        options,
        offset: 0,
        digest: None,
    };
    writer.receive().await?;
    Ok(Box::new(writer))
}

struct Far {
    /// None after the commit.
    requests: Option<mpsc::Sender<Outgoing>>,
    answers: BoxStream<WriteContentResponse>,
    options: WriterOptions,
    offset: u64,
    /// Of all that was written, as the far side said last.
    digest: Option<Digest>,
}

// === impl Far ===

impl Far {
    async fn call(&mut self, request: Write) -> Result<WriteContentResponse> {
        let committed = || Error::failed_precondition("the ingest was committed: nothing more can be done with it");
        let requests = self.requests.as_ref().ok_or_else(committed)?;
        // That the far side has ended the call is what receiving says, with the reason.
        let _ = requests.send(Box::new(request)).await;
        self.receive().await
    }

    async fn receive(&mut self) -> Result<WriteContentResponse> {
        let answer = self.answers.next().await.unwrap_or_else(|| {
            Err(Error::unavailable(format!(
                "the writer of {} was closed by the far side",
                self.options.reference
            )))
        })?;
        self.offset = size(answer.offset);
        self.digest = digest_or_none(&answer.digest).map_err(malformed)?;
        Ok(answer)
    }
}

#[async_trait]
impl IngestWriter for Far {
    async fn status(&mut self) -> Result<IngestStatus> {
        let request = Write {
            action: WriteAction::Stat.into(),
            ..Write::default()
        };
        let answer = self.call(request).await?;
        Ok(IngestStatus {
            reference: self.options.reference.clone(),
            started: time(answer.started_at),
            updated: time(answer.updated_at),
            offset: size(answer.offset),
            total: size(answer.total),
            expected: self.options.expected.clone(),
        })
    }

    async fn digest(&mut self) -> Result<Digest> {
        if self.digest.is_none() {
            self.status().await?;
        }
        self.digest
            .clone()
            .ok_or_else(|| Error::unimplemented("the far side tells no digest before the commit"))
    }

    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            let rest = data.split_off(data.len().min(CHUNK));
            let end = self.offset + data.len() as u64;
            let request = Write {
                action: WriteAction::Write.into(),
                offset: signed(self.offset),
                data,
                ..Write::default()
            };
            self.call(request).await?;
            if self.offset != end {
                return Err(Error::data_loss(format!(
                    "the far side is at {} instead of {end} after a write to {}",
                    self.offset, self.options.reference
                )));
            }
            data = rest;
        }
        Ok(())
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        let request = Write {
            action: WriteAction::Write.into(),
            offset: signed(size),
            ..Write::default()
        };
        self.call(request).await?;
        Ok(())
    }

    async fn commit(&mut self, options: CommitOptions) -> Result<Digest> {
        let request = Write {
            action: WriteAction::Commit.into(),
            total: signed(options.size),
            expected: digest_or_empty(options.expected.as_ref()),
            offset: signed(self.offset),
            labels: options.labels,
            ..Write::default()
        };
        let answer = self.call(request).await;
        self.requests = None;
        answer?;
        // To its end, so that the call is one that ended well and not one that was cancelled.
        let digest = self.digest.clone();
        while self.answers.next().await.is_some() {}
        digest.ok_or_else(|| malformed(Error::data_loss("a commit without a digest")))
    }
}
