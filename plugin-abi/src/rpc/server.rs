//! The answering half of every contract: one service type, whatever it serves.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream as Boxed;
use futures_util::{Stream, StreamExt};
use tonic::body::Body;
use tonic::{Status, Streaming};
use tower::Service;

use super::codec::{MessageLimits, Outgoing, Raw, decode, error, request_body};
use super::convert;
use crate::contract::{BoxStream, Ctx};
use crate::{Error, Result, Services};

/// The gRPC service `name`, whose every call goes to `answer`.
pub(super) fn service<T, F, R>(name: &'static str, target: Arc<T>, answer: F) -> Services
where
    T: ?Sized + Send + Sync + 'static,
    F: Fn(Arc<T>, Call) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Answer>> + Send + 'static,
{
    let answer: Arc<Answerer> = Arc::new(move |call| Box::pin(answer(target.clone(), call)));
    Services::new().with_named(name, Server { name, answer })
}

type Answerer = dyn Fn(Call) -> BoxFuture<'static, Result<Answer>> + Send + Sync;

#[derive(Clone)]
struct Server {
    name: &'static str,
    answer: Arc<Answerer>,
}

impl Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let limits: MessageLimits = request.extensions().get().copied().unwrap_or_default();
        let path = request.uri().path();
        let handler = Handler {
            service: self.name,
            method: path.rsplit_once('/').map_or(path, |(_, method)| method).to_owned(),
            answer: self.answer.clone(),
            send: limits.send,
        };
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw).max_decoding_message_size(limits.receive);
            Ok(grpc.streaming(handler, request.map(request_body)).await)
        })
    }
}

struct Handler {
    service: &'static str,
    method: String,
    answer: Arc<Answerer>,
    send: usize,
}

impl Service<tonic::Request<Streaming<Bytes>>> for Handler {
    type Response = tonic::Response<Limited>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Streaming<Bytes>>) -> Self::Future {
        let (metadata, _, incoming) = request.into_parts();
        let ctx = match convert::ctx(metadata.as_ref()) {
            Ok(ctx) => ctx,
            Err(error) => return Box::pin(std::future::ready(Err(error.into()))),
        };
        let answer = (self.answer)(Call {
            service: self.service,
            method: std::mem::take(&mut self.method),
            ctx,
            incoming,
        });
        let send = self.send;
        Box::pin(async move {
            Ok(tonic::Response::new(Limited {
                answer: answer.await?,
                send,
            }))
        })
    }
}

/// An answer in messages of up to `send` bytes.
struct Limited {
    answer: Answer,
    send: usize,
}

impl Stream for Limited {
    type Item = Result<Outgoing, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.answer.poll_next_unpin(cx));
        // Checked here and not by tonic, whose code for it is another than gRPC's.
        Poll::Ready(match next {
            Some(Ok(message)) if message.length() > self.send => Some(Err(Status::resource_exhausted(format!(
                "the answer has {} bytes, {} is the limit ([grpc] max_send_message_size on the daemon's socket): ask for less",
                message.length(),
                self.send
            )))),
            next => next,
        })
    }
}

/// A call that has arrived.
pub(super) struct Call {
    service: &'static str,
    /// The method's name on the wire.
    pub method: String,
    /// On whose behalf.
    pub ctx: Ctx,
    incoming: Streaming<Bytes>,
}

// === impl Call ===

impl Call {
    /// The one message of a call that has one.
    pub(super) async fn message<M: prost::Message + Default>(&mut self) -> Result<M> {
        decode(self.bytes().await?)
    }

    async fn bytes(&mut self) -> Result<Bytes> {
        match self.incoming.message().await {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(Error::internal("the call ended before its message came")),
            Err(status) => Err(error(&status)),
        }
    }

    /// The messages of a call that streams.
    pub(super) fn messages<M: prost::Message + Default + 'static>(self) -> BoxStream<M> {
        messages(self.incoming)
    }

    /// The answer where the service has no such method.
    pub(super) fn unknown(&self) -> Result<Answer> {
        Err(Error::unimplemented(format!(
            "unknown method {} for service {}",
            self.method, self.service
        )))
    }
}

/// What arrives, decoded; its errors as errors.
pub(super) fn messages<M: prost::Message + Default + 'static>(incoming: Streaming<Bytes>) -> BoxStream<M> {
    Box::pin(incoming.map(|message| message.map_err(|status| error(&status)).and_then(decode)))
}

/// What is answered: one message, or a stream.
pub(super) enum Answer {
    /// One, or none any more.
    One(Option<Outgoing>),
    /// As they come.
    Many(Boxed<'static, Result<Outgoing, Status>>),
}

// === impl Answer ===

impl Answer {
    #[expect(clippy::unnecessary_wraps, reason = "the last word of a method that may fail")]
    pub(super) fn one(message: impl prost::Message + 'static) -> Result<Self> {
        Ok(Self::One(Some(Box::new(message))))
    }

    /// `google.protobuf.Empty`.
    pub(super) fn empty((): ()) -> Result<Self> {
        Self::one(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the last word of a method that may fail")]
    pub(super) fn many<M: prost::Message + 'static>(
        messages: impl Stream<Item = Result<M>> + Send + 'static,
    ) -> Result<Self> {
        let messages = messages.map(|message| match message {
            Ok(message) => Ok(Box::new(message) as Outgoing),
            Err(error) => Err(Status::from(error)),
        });
        Ok(Self::Many(messages.boxed()))
    }
}

impl Stream for Answer {
    type Item = Result<Outgoing, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut *self {
            Self::One(message) => Poll::Ready(message.take().map(Ok)),
            Self::Many(messages) => {
                let next = std::task::ready!(messages.poll_next_unpin(cx));
                if !matches!(next, Some(Ok(_))) {
                    // Ended or broken: what it holds is let go now, not when the client has read the end.
                    *self = Self::One(None);
                }
                Poll::Ready(next)
            }
        }
    }
}

/// Items in messages of up to `size`, as many as are ready: what containerd does with lists that may be long.
pub(super) fn batches<T: Send + 'static>(items: BoxStream<T>, size: usize) -> BoxStream<Vec<T>> {
    let batches = items.ready_chunks(size).flat_map(|chunk| {
        let mut ready = Vec::with_capacity(2);
        let mut batch = Vec::with_capacity(chunk.len());
        for item in chunk {
            match item {
                Ok(item) => batch.push(item),
                Err(error) => {
                    ready.push(Err(error));
                    break;
                }
            }
        }
        if !batch.is_empty() {
            ready.insert(0, Ok(batch));
        }
        futures_util::stream::iter(ready)
    });
    Box::pin(batches)
}
