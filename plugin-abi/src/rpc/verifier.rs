//! [`ImageVerifier`] as `orlop.verifier.v1`.

use std::sync::Arc;

use super::client::Remote;
use super::convert::required;
use super::server::{Answer, Call, service};
use crate::api::verifier as pb;
use crate::channel::Channel;
use crate::contract::{Ctx, Descriptor, ImageVerifier, Judgement, async_trait};
use crate::{Result, Services};

const NAME: &str = "orlop.verifier.v1.ImageVerifier";

/// Serves `verifier`.
pub fn serve(verifier: Arc<dyn ImageVerifier>) -> Services {
    service(NAME, verifier, answer)
}

/// The verifier at the far end of `channel`.
pub fn connect(channel: Channel) -> Arc<dyn ImageVerifier> {
    Arc::new(Far(Remote::new(channel, NAME)))
}

async fn answer(verifier: Arc<dyn ImageVerifier>, mut call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "Verify" => {
            let pb::VerifyRequest { name, target } = call.message().await?;
            let target = required(target, "target")?.try_into()?;
            let Judgement { accepted, reason } = verifier.verify(&call.ctx, &name, target).await?;
            Answer::one(pb::VerifyResponse { accepted, reason })
        }
        _ => call.unknown(),
    }
}

struct Far(Remote);

#[async_trait]
impl ImageVerifier for Far {
    async fn verify(&self, ctx: &Ctx, name: &str, target: Descriptor) -> Result<Judgement> {
        let request = pb::VerifyRequest {
            name: name.to_owned(),
            target: Some(target.into()),
        };
        let pb::VerifyResponse { accepted, reason } = self.0.unary(ctx, "Verify", request).await?;
        Ok(Judgement { accepted, reason })
    }
}
