//! [`Transfer`] as `containerd.services.transfer.v1`.

use std::sync::Arc;

use containerd_client::services::v1 as pb;

use super::client::Remote;
use super::convert::required;
use super::server::{Answer, Call, service};
use crate::channel::Channel;
use crate::contract::{Any, Ctx, Transfer, async_trait};
use crate::{Result, Services};

const NAME: &str = "containerd.services.transfer.v1.Transfer";

/// Serves `transfer`.
pub fn serve(transfer: Arc<dyn Transfer>) -> Services {
    service(NAME, transfer, answer)
}

/// The mover of images at the far end of `channel`.
pub fn connect(channel: Channel) -> Arc<dyn Transfer> {
    Arc::new(Far(Remote::new(channel, NAME)))
}

async fn answer(transfer: Arc<dyn Transfer>, mut call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "Transfer" => {
            let request: pb::TransferRequest = call.message().await?;
            let source = required(request.source, "the source")?;
            let destination = required(request.destination, "the destination")?;
            let progress = request.options.unwrap_or_default().progress_stream;
            transfer
                .transfer(&call.ctx, source, destination, &progress)
                .await
                .and_then(Answer::empty)
        }
        _ => call.unknown(),
    }
}

struct Far(Remote);

#[async_trait]
impl Transfer for Far {
    async fn transfer(&self, ctx: &Ctx, source: Any, destination: Any, progress: &str) -> Result<()> {
        let request = pb::TransferRequest {
            source: Some(source),
            destination: Some(destination),
            options: (!progress.is_empty()).then(|| pb::TransferOptions {
                progress_stream: progress.to_owned(),
            }),
        };
        self.0.unary(ctx, "Transfer", request).await
    }
}
