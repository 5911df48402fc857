//! [`Events`] as `containerd.services.events.v1`.

use std::sync::Arc;

use containerd_client::services::v1 as pb;
use containerd_client::types;
use futures_util::StreamExt;

use super::client::Remote;
use super::convert::{required, stamp, time};
use super::server::{Answer, Call, service};
use crate::channel::Channel;
use crate::contract::{Any, BoxStream, Ctx, Envelope, Events, async_trait};
use crate::{Result, Services};

const NAME: &str = "containerd.services.events.v1.Events";

/// Serves `events`.
pub fn serve(events: Arc<dyn Events>) -> Services {
    service(NAME, events, answer)
}

/// The exchange at the far end of `channel`.
pub fn connect(channel: Channel) -> Arc<dyn Events> {
    Arc::new(Far(Remote::new(channel, NAME)))
}

async fn answer(events: Arc<dyn Events>, mut call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "Publish" => {
            let pb::PublishRequest { topic, event } = call.message().await?;
            let event = required(event, "the event")?;
            events.publish(&call.ctx, &topic, event).await.and_then(Answer::empty)
        }
        "Forward" => {
            let pb::ForwardRequest { envelope } = call.message().await?;
            let envelope = required(envelope, "the envelope")?.into();
            events.forward(&call.ctx, envelope).await.and_then(Answer::empty)
        }
        "Subscribe" => {
            let pb::SubscribeRequest { filters } = call.message().await?;
            let envelopes = events.subscribe(&call.ctx, &filters).await?;
            Answer::many(envelopes.map(|envelope| envelope.map(types::Envelope::from)))
        }
        _ => call.unknown(),
    }
}

struct Far(Remote);

#[async_trait]
impl Events for Far {
    async fn publish(&self, ctx: &Ctx, topic: &str, event: Any) -> Result<()> {
        let request = pb::PublishRequest {
            topic: topic.to_owned(),
            event: Some(event),
        };
        self.0.unary(ctx, "Publish", request).await
    }

    async fn forward(&self, ctx: &Ctx, envelope: Envelope) -> Result<()> {
        let request = pb::ForwardRequest {
            envelope: Some(envelope.into()),
        };
        self.0.unary(ctx, "Forward", request).await
    }

    async fn subscribe(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<Envelope>> {
        let filters = filters.to_vec();
        let request = pb::SubscribeRequest { filters };
        let answers: BoxStream<types::Envelope> = self.0.stream(ctx, "Subscribe", request).await?;
        Ok(answers.map(|answer| answer.map(Envelope::from)).boxed())
    }
}

impl From<Envelope> for types::Envelope {
    fn from(envelope: Envelope) -> Self {
        Self {
            timestamp: stamp(envelope.timestamp),
            namespace: envelope.namespace,
            topic: envelope.topic,
            event: envelope.event,
        }
    }
}

impl From<types::Envelope> for Envelope {
    fn from(envelope: types::Envelope) -> Self {
        Self {
            timestamp: time(envelope.timestamp),
            namespace: envelope.namespace,
            topic: envelope.topic,
            event: envelope.event,
        }
    }
}
