//! Blobs of the daemon's content store: read whole or piece by piece, written, labelled.

use crate::client::Client;
use anyhow::{Context, Result, bail, ensure};
use containerd_client::services::v1::{
    Info, InfoRequest, ListContentRequest, ReadContentRequest, ReadContentResponse, UpdateRequest, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use containerd_client::tonic::{Code, Status, Streaming};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Largest manifest, index or configuration that is read into memory.
pub const MAX_DOCUMENT: i64 = 20 << 20;

/// Bytes written in one message.
pub const CHUNK: usize = 1 << 20;

/// Messages under way before an answer is waited for.
const IN_FLIGHT: usize = 4;

/// How often a writer of the same ingest is waited for, and for how long the last time.
const BUSY_TRIES: u32 = 12;

/// A whole small blob. Larger ones than [`MAX_DOCUMENT`] are refused.
pub async fn read(client: &Client, digest: &str) -> Result<Vec<u8>> {
    let size = info(client, digest).await?.size;
    ensure!(
        size <= MAX_DOCUMENT,
        "content {digest} is too large to be a document: {size} bytes"
    );
    let mut bytes = Vec::with_capacity(size as usize);
    let mut pieces = pieces(client, digest, 0, 0).await?;
    while let Some(piece) = pieces.message().await? {
        bytes.extend_from_slice(&piece.data);
    }
    ensure!(
        bytes.len() as i64 == size,
        "content {digest}: {} bytes of {size} were read",
        bytes.len()
    );
    Ok(bytes)
}

/// A blob from `offset`, piece by piece; `size` 0 means to its end.
pub async fn pieces(
    client: &Client,
    digest: &str,
    offset: i64,
    size: i64,
) -> Result<Streaming<ReadContentResponse>, Status> {
    let request = ReadContentRequest {
        digest: digest.to_owned(),
        offset,
        size,
    };
    Ok(client.content().read(client.request(request)).await?.into_inner())
}

/// A blob's record.
pub async fn info(client: &Client, digest: &str) -> Result<Info, Status> {
    let request = InfoRequest {
        digest: digest.to_owned(),
    };
    let answer = client.content().info(client.request(request)).await?.into_inner();
    answer
        .info
        .ok_or_else(|| Status::internal(format!("the daemon answered no record of {digest}")))
}

/// The records that meet one of the filters; all without any.
pub async fn list(client: &Client, filters: Vec<String>) -> Result<Vec<Info>, Status> {
    let mut answers = client
        .content()
        .list(client.request(ListContentRequest { filters }))
        .await?
        .into_inner();
    let mut found = Vec::new();
    while let Some(answer) = answers.message().await? {
        found.extend(answer.info);
    }
    Ok(found)
}

/// Sets labels of a blob, clears those with an empty value, and leaves its others alone.
pub async fn set_labels(
    client: &Client,
    digest: &str,
    labels: impl IntoIterator<Item = (String, String)>,
) -> Result<Info, Status> {
    let labels: HashMap<String, String> = labels.into_iter().collect();
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let labels = labels.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let request = UpdateRequest {
        info: Some(Info {
            digest: digest.to_owned(),
            labels,
            ..Info::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths }),
    };
    let answer = client.content().update(client.request(request)).await?.into_inner();
    answer
        .info
        .ok_or_else(|| Status::internal(format!("the daemon answered no record of {digest}")))
}

/// What is going to be written.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Bytes, 0 when unknown.
    pub size: i64,
    /// Digest, empty when unknown.
    pub digest: String,
}

/// A blob being written.
#[derive(Debug)]
pub struct Writer {
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    reference: String,
    expected: Expected,
    offset: i64,
    unanswered: usize,
}

impl Writer {
    /// Opens the ingest `reference` and starts it anew; `None` when the store has the expected blob already. An ingest
    /// that somebody else writes is waited for.
    pub async fn open(client: &Client, reference: &str, expected: Expected) -> Result<Option<Self>> {
        let mut tries = 0;
        loop {
            match Self::try_open(client, reference, &expected).await {
                Ok(writer) => return Ok(Some(writer)),
                Err(status) if status.code() == Code::AlreadyExists => return Ok(None),
                Err(status) if status.code() == Code::Unavailable && tries < BUSY_TRIES => {
                    tokio::time::sleep(Duration::from_millis(16 << tries.min(7))).await;
                    tries += 1;
                }
                Err(status) => return Err(status).with_context(|| format!("failed to open writer {reference:?}")),
            }
        }
    }

    async fn try_open(client: &Client, reference: &str, expected: &Expected) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(IN_FLIGHT);
        let stat = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.to_owned(),
            total: expected.size,
            expected: expected.digest.clone(),
            ..WriteContentRequest::default()
        };
        // The channel is new and has room.
        let _ = requests.try_send(stat);
        let mut answers = client
            .content()
            .write(client.request(ReceiverStream::new(receiver)))
            .await?
            .into_inner();
        answers
            .message()
            .await?
            .ok_or_else(|| Status::unavailable("the daemon closed the write at once"))?;
        Ok(Self {
            requests,
            answers,
            reference: reference.to_owned(),
            expected: expected.clone(),
            offset: 0,
            unanswered: 0,
        })
    }

    /// Appends bytes. A first write at offset 0 drops what an earlier, broken ingest of this name left.
    pub async fn write(&mut self, data: Vec<u8>) -> Result<()> {
        if self.unanswered >= IN_FLIGHT {
            self.answer().await?;
        }
        let length = data.len() as i64;
        let request = WriteContentRequest {
            action: WriteAction::Write.into(),
            offset: self.offset,
            data,
            ..WriteContentRequest::default()
        };
        self.send(request).await?;
        self.offset += length;
        Ok(())
    }

    /// Bytes written.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Makes it a blob; answers its digest when the daemon says it, which it does unless it had the blob already.
    pub async fn commit(mut self, labels: HashMap<String, String>) -> Result<Option<String>> {
        while self.unanswered > 0 {
            self.answer().await?;
        }
        let request = WriteContentRequest {
            action: WriteAction::Commit.into(),
            total: self.expected.size,
            expected: self.expected.digest.clone(),
            offset: self.offset,
            labels,
            ..WriteContentRequest::default()
        };
        self.send(request).await?;
        match self.answers.message().await {
            Ok(Some(answer)) => Ok(Some(answer.digest)),
            Ok(None) => bail!("the daemon closed the write of {:?} before its commit", self.reference),
            Err(status) if status.code() == Code::AlreadyExists => Ok(None),
            Err(status) => Err(status).with_context(|| format!("failed commit on ref {:?}", self.reference)),
        }
    }

    async fn send(&mut self, request: WriteContentRequest) -> Result<()> {
        if self.requests.send(request).await.is_err() {
            // The call has ended; the answers say why.
            while self.unanswered > 0 {
                self.answer().await?;
            }
            self.answers.message().await?;
            bail!("the daemon closed the write of {:?}", self.reference);
        }
        self.unanswered += 1;
        Ok(())
    }

    async fn answer(&mut self) -> Result<()> {
        let answer = self
            .answers
            .message()
            .await
            .with_context(|| format!("writing {:?}", self.reference))?;
        ensure!(answer.is_some(), "the daemon closed the write of {:?}", self.reference);
        self.unanswered -= 1;
        Ok(())
    }
}

/// Writes a small blob under its digest, unless the store has it.
pub async fn write_document(
    client: &Client,
    reference: &str,
    digest: &str,
    bytes: Vec<u8>,
    labels: HashMap<String, String>,
) -> Result<()> {
    let expected = Expected {
        size: bytes.len() as i64,
        digest: digest.to_owned(),
    };
    if let Some(mut writer) = Writer::open(client, reference, expected).await? {
        writer.write(bytes).await?;
        writer.commit(labels).await?;
    } else if !labels.is_empty() {
        set_labels(client, digest, labels).await?;
    }
    Ok(())
}

/// The digest of bytes.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}
