//! [`ContentStore`] as `containerd.services.content.v1`; the `Write` stream is in [`super::ingest`].

use std::sync::Arc;

use bytes::Bytes;
use containerd_client::services::v1 as pb;
use futures_util::StreamExt;

use super::client::{Remote, malformed};
use super::convert::{
    all, digest_or_empty, digest_or_none, fields, mask, ordered, required, signed, size, stamp, time, try_all,
    unordered,
};
use super::ingest;
use super::server::{Answer, Call, batches, service};
use crate::channel::Channel;
use crate::contract::{
    BoxStream, ContentInfo, ContentStore, Ctx, Digest, IngestStatus, IngestWriter, WriterOptions, async_trait,
};
use crate::{Error, Result, Services};

const NAME: &str = "containerd.services.content.v1.Content";

/// How many blobs one message of a list has, as in containerd.
const BATCH: usize = 100;

/// How much content one message has at most: large enough for throughput, far below what a message may be.
pub(super) const CHUNK: usize = 1 << 20;

/// Serves `store`.
pub fn serve(store: Arc<dyn ContentStore>) -> Services {
    service(NAME, store, answer)
}

/// The content store at the far end of `channel`.
pub fn connect(channel: Channel) -> Arc<dyn ContentStore> {
    Arc::new(Far(Remote::new(channel, NAME)))
}

/// `ReadContentResponse`, whose content is not copied when it is decoded.
#[derive(Clone, PartialEq, prost::Message)]
struct Chunk {
    #[prost(int64, tag = "1")]
    offset: i64,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
}

async fn answer(store: Arc<dyn ContentStore>, mut call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "Info" => {
            let pb::InfoRequest { digest } = call.message().await?;
            let info = store.info(&call.ctx, &Digest::new(digest)?).await?;
            Answer::one(pb::InfoResponse {
                info: Some(info.into()),
            })
        }
        "Update" => {
            let pb::UpdateRequest { info, update_mask } = call.message().await?;
            let info = required(info, "the info")?.try_into()?;
            let info = store.update(&call.ctx, info, &fields(update_mask)).await?;
            Answer::one(pb::UpdateResponse {
                info: Some(info.into()),
            })
        }
        "List" => {
            let pb::ListContentRequest { filters } = call.message().await?;
            let infos = store.list(&call.ctx, &filters).await?;
            Answer::many(batches(infos, BATCH).map(|infos| Ok(pb::ListContentResponse { info: all(infos?) })))
        }
        "Delete" => {
            let pb::DeleteContentRequest { digest } = call.message().await?;
            store
                .delete(&call.ctx, &Digest::new(digest)?)
                .await
                .and_then(Answer::empty)
        }
        "Read" => {
            let request: pb::ReadContentRequest = call.message().await?;
            let digest = Digest::new(request.digest)?;
            let content = store
                .read(&call.ctx, &digest, size(request.offset), size(request.size))
                .await?;
            Answer::many(chunks(content))
        }
        "Status" => {
            let pb::StatusRequest { r#ref } = call.message().await?;
            let status = store
                .status(&call.ctx, &r#ref)
                .await
                .map_err(|error| error.context(format_args!("could not get status for ref {ref:?}")))?;
            Answer::one(pb::StatusResponse {
                status: Some(status.into()),
            })
        }
        "ListStatuses" => {
            let pb::ListStatusesRequest { filters } = call.message().await?;
            let statuses = all(store.statuses(&call.ctx, &filters).await?);
            Answer::one(pb::ListStatusesResponse { statuses })
        }
        "Abort" => {
            let pb::AbortRequest { r#ref } = call.message().await?;
            store.abort(&call.ctx, &r#ref).await.and_then(Answer::empty)
        }
        "Write" => ingest::answer(store, call).await,
        _ => call.unknown(),
    }
}

/// Content in messages. Their offsets count from where the reading began, as containerd's do.
fn chunks(content: BoxStream<Bytes>) -> BoxStream<Chunk> {
    let chunks =
        futures_util::stream::try_unfold((content, Bytes::new(), 0), async |(mut content, mut data, offset)| {
            while data.is_empty() {
                match content.next().await.transpose()? {
                    Some(next) => data = next,
                    None => return Ok(None),
                }
            }
            let rest = data.split_off(data.len().min(CHUNK));
            let next = offset + data.len() as i64;
            Ok(Some((Chunk { offset, data }, (content, rest, next))))
        });
    Box::pin(chunks)
}

struct Far(Remote);

fn info(info: Option<pb::Info>) -> Result<ContentInfo> {
    required(info, "the info")
        .and_then(TryInto::try_into)
        .map_err(malformed)
}

#[async_trait]
impl ContentStore for Far {
    async fn info(&self, ctx: &Ctx, digest: &Digest) -> Result<ContentInfo> {
        let digest = digest.to_string();
        let answer: pb::InfoResponse = self.0.unary(ctx, "Info", pb::InfoRequest { digest }).await?;
        info(answer.info)
    }

    async fn update(&self, ctx: &Ctx, changed: ContentInfo, fields: &[String]) -> Result<ContentInfo> {
        let request = pb::UpdateRequest {
            info: Some(changed.into()),
            update_mask: mask(fields),
        };
        let answer: pb::UpdateResponse = self.0.unary(ctx, "Update", request).await?;
        info(answer.info)
    }

    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<ContentInfo>> {
        let filters = filters.to_vec();
        let request = pb::ListContentRequest { filters };
        let answers: BoxStream<pb::ListContentResponse> = self.0.stream(ctx, "List", request).await?;
        let infos = answers.flat_map(|answer| {
            futures_util::stream::iter(match answer {
                Ok(answer) => answer.info.into_iter().map(|one| info(Some(one))).collect(),
                Err(error) => vec![Err(error)],
            })
        });
        Ok(infos.boxed())
    }

    async fn delete(&self, ctx: &Ctx, digest: &Digest) -> Result<()> {
        let digest = digest.to_string();
        self.0.unary(ctx, "Delete", pb::DeleteContentRequest { digest }).await
    }

    async fn read(&self, ctx: &Ctx, digest: &Digest, offset: u64, size: u64) -> Result<BoxStream<Bytes>> {
        let request = pb::ReadContentRequest {
            digest: digest.to_string(),
            offset: signed(offset),
            size: signed(size),
        };
        let chunks: BoxStream<Chunk> = self.0.stream(ctx, "Read", request).await?;
        Ok(chunks.map(|chunk| chunk.map(|chunk| chunk.data)).boxed())
    }

    async fn status(&self, ctx: &Ctx, reference: &str) -> Result<IngestStatus> {
        let request = pb::StatusRequest {
            r#ref: reference.to_owned(),
        };
        let answer: pb::StatusResponse = self.0.unary(ctx, "Status", request).await?;
        required(answer.status, "the status")
            .and_then(TryInto::try_into)
            .map_err(malformed)
    }

    async fn statuses(&self, ctx: &Ctx, filters: &[String]) -> Result<Vec<IngestStatus>> {
        let filters = filters.to_vec();
        let request = pb::ListStatusesRequest { filters };
        let answer: pb::ListStatusesResponse = self.0.unary(ctx, "ListStatuses", request).await?;
        try_all(answer.statuses).map_err(malformed)
    }

    async fn abort(&self, ctx: &Ctx, reference: &str) -> Result<()> {
        let request = pb::AbortRequest {
            r#ref: reference.to_owned(),
        };
        self.0.unary(ctx, "Abort", request).await
    }

    async fn writer(&self, ctx: &Ctx, options: WriterOptions) -> Result<Box<dyn IngestWriter>> {
        ingest::open(&self.0, ctx, options).await
    }
}

impl From<ContentInfo> for pb::Info {
    fn from(info: ContentInfo) -> Self {
        Self {
            digest: info.digest.to_string(),
            size: signed(info.size),
            created_at: stamp(info.created),
            updated_at: stamp(info.updated),
            labels: unordered(info.labels),
        }
    }
}

impl TryFrom<pb::Info> for ContentInfo {
    type Error = Error;

    fn try_from(info: pb::Info) -> Result<Self> {
        Ok(Self {
            digest: Digest::new(info.digest)?,
            size: size(info.size),
            created: time(info.created_at),
            updated: time(info.updated_at),
            labels: ordered(info.labels),
        })
    }
}

impl From<IngestStatus> for pb::Status {
    fn from(status: IngestStatus) -> Self {
        Self {
            started_at: stamp(status.started),
            updated_at: stamp(status.updated),
            r#ref: status.reference,
            offset: signed(status.offset),
            total: signed(status.total),
            expected: digest_or_empty(status.expected.as_ref()),
        }
    }
}

impl TryFrom<pb::Status> for IngestStatus {
    type Error = Error;

    fn try_from(status: pb::Status) -> Result<Self> {
        Ok(Self {
            reference: status.r#ref,
            started: time(status.started_at),
            updated: time(status.updated_at),
            offset: size(status.offset),
            total: size(status.total),
            expected: digest_or_none(&status.expected)?,
        })
    }
}
