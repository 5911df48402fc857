//! The calling half of every contract: one client type, whatever it calls.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream as Boxed;
use tonic::Streaming;
use tonic::client::Grpc;

use super::codec::{MAX_MESSAGE, Outgoing, Raw, decode, error};
use super::convert;
use super::server::messages;
use crate::channel::Channel;
use crate::contract::{BoxStream, Ctx};
use crate::{Error, Result};

/// A gRPC service at the far end of a channel.
#[derive(Clone)]
pub(super) struct Remote {
    channel: Channel,
    service: &'static str,
}

// === impl Remote ===

impl Remote {
    pub(super) fn new(channel: Channel, service: &'static str) -> Self {
        Self { channel, service }
    }

    /// A call with one message and one answer.
    pub(super) async fn unary<R: prost::Message + Default>(
        &self,
        ctx: &Ctx,
        method: &str,
        request: impl prost::Message + 'static,
    ) -> Result<R> {
        decode(self.one(ctx, method, Box::new(request)).await?)
    }

    /// A call with one message and a stream of answers.
    pub(super) async fn stream<R: prost::Message + Default + 'static>(
        &self,
        ctx: &Ctx,
        method: &str,
        request: impl prost::Message + 'static,
    ) -> Result<BoxStream<R>> {
        Ok(messages(self.ask(ctx, method, Box::new(request)).await?))
    }

    /// A call that streams both ways. Returns when the far side has begun to answer.
    pub(super) async fn duplex(
        &self,
        ctx: &Ctx,
        method: &str,
        requests: Boxed<'static, Outgoing>,
    ) -> Result<Streaming<Bytes>> {
        let path = format!("/{}/{method}", self.service);
        let path = http::uri::PathAndQuery::try_from(path)
            .map_err(|error| Error::invalid_argument(format!("no path for {method}: {error}")))?;
        let mut request = tonic::Request::new(requests);
        convert::metadata(ctx, &mut request)?;
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        match grpc.streaming(request, path, Raw).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(error(&status)),
        }
    }

    /// A call with one message.
    async fn ask(&self, ctx: &Ctx, method: &str, request: Outgoing) -> Result<Streaming<Bytes>> {
        // Sent all the same, it would only be a call that breaks off.
        if request.length() > MAX_MESSAGE {
            return Err(Error::resource_exhausted(format!(
                "the message to {}/{method} has {} bytes, {MAX_MESSAGE} is the limit",
                self.service,
                request.length()
            )));
        }
        let request = futures_util::stream::once(std::future::ready(request));
        self.duplex(ctx, method, request.boxed()).await
    }

    async fn one(&self, ctx: &Ctx, method: &str, request: Outgoing) -> Result<Bytes> {
        let mut answers = self.ask(ctx, method, request).await?;
        let answer = answers.message().await.map_err(|status| error(&status))?;
        // Even after its answer a call may say that it failed.
        answers.trailers().await.map_err(|status| error(&status))?;
        answer.ok_or_else(|| Error::internal(format!("{}/{method} answered without a message", self.service)))
    }
}

/// An answer that cannot be true: the far side's fault, not the caller's.
pub(super) fn malformed(error: Error) -> Error {
    Error::internal(format!("the far side's answer makes no sense: {error}"))
}
