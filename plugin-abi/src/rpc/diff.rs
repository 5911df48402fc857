//! [`Differ`] as `containerd.services.diff.v1`.

use std::sync::Arc;

use containerd_client::services::v1 as pb;
use containerd_client::types;

use super::client::{Remote, malformed};
use super::convert::{all, ordered, required, stamp, unordered};
use super::server::{Answer, Call, service};
use crate::channel::Channel;
use crate::contract::{Applier, ApplyOptions, Comparer, Ctx, Descriptor, DiffOptions, Differ, Mount, async_trait};
use crate::{Error, Result, Services};

const NAME: &str = "containerd.services.diff.v1.Diff";

/// Serves `differ`.
pub fn serve(differ: Arc<dyn Differ>) -> Services {
    service(NAME, differ, answer)
}

/// The differ at the far end of `channel`.
pub fn connect(channel: Channel) -> Arc<dyn Differ> {
    Arc::new(Far(Remote::new(channel, NAME)))
}

async fn answer(differ: Arc<dyn Differ>, mut call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "Apply" => {
            let request: pb::ApplyRequest = call.message().await?;
            let layer = required(request.diff, "diff")?.try_into()?;
            let options = ApplyOptions {
                payloads: ordered(request.payloads),
                sync_fs: request.sync_fs,
            };
            let applied = differ.apply(&call.ctx, layer, all(request.mounts), options).await?;
            Answer::one(pb::ApplyResponse {
                applied: Some(applied.into()),
            })
        }
        "Diff" => {
            let request: pb::DiffRequest = call.message().await?;
            let options = DiffOptions {
                media_type: request.media_type,
                reference: request.r#ref,
                labels: ordered(request.labels),
                source_date_epoch: request
                    .source_date_epoch
                    .map(TryInto::try_into)
                    .transpose()
                    .map_err(|error| Error::invalid_argument(format!("source_date_epoch: {error}")))?,
            };
            let layer = differ
                .diff(&call.ctx, all(request.left), all(request.right), options)
                .await?;
            Answer::one(pb::DiffResponse {
                diff: Some(layer.into()),
            })
        }
        _ => call.unknown(),
    }
}

struct Far(Remote);

fn descriptor(descriptor: Option<types::Descriptor>) -> Result<Descriptor> {
    required(descriptor, "the descriptor")
        .and_then(TryInto::try_into)
        .map_err(malformed)
}

#[async_trait]
impl Applier for Far {
    async fn apply(
        &self,
        ctx: &Ctx,
        layer: Descriptor,
        mounts: Vec<Mount>,
        options: ApplyOptions,
    ) -> Result<Descriptor> {
        let request = pb::ApplyRequest {
            diff: Some(layer.into()),
            mounts: all(mounts),
            payloads: unordered(options.payloads),
            sync_fs: options.sync_fs,
        };
        let answer: pb::ApplyResponse = self.0.unary(ctx, "Apply", request).await?;
        descriptor(answer.applied)
    }
}

#[async_trait]
impl Comparer for Far {
    async fn diff(&self, ctx: &Ctx, lower: Vec<Mount>, upper: Vec<Mount>, options: DiffOptions) -> Result<Descriptor> {
        let request = pb::DiffRequest {
            left: all(lower),
            right: all(upper),
            media_type: options.media_type,
            r#ref: options.reference,
            labels: unordered(options.labels),
            source_date_epoch: options.source_date_epoch.and_then(stamp),
        };
        let answer: pb::DiffResponse = self.0.unary(ctx, "Diff", request).await?;
        descriptor(answer.diff)
    }
}
