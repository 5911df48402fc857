//! Cancellation: who lets go of a call, or of its answer, ends the request too, wherever the far side has taken it.
//!
//! HTTP/2 does that by a reset of the stream. Where a request is only moved, its body may have ended up in another call altogether (a
//! named stream between two plugins), and nobody would tell it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tonic::Status;
use tonic::body::Body;

use super::{Carrier, Request, Response};

/// Ends the request when it is dropped, unless the answer has come to its own end: a request may outlast that.
struct Held(Option<oneshot::Sender<()>>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(signal) = self.0.take() {
            // The request may have been read, and dropped, long ago.
            let _ = signal.send(());
        }
    }
}

/// The call over `carrier`, whose request ends when the call or its answer is dropped.
pub(super) fn carry(carrier: &dyn Carrier, request: Request) -> BoxFuture<'static, Result<Response, Status>> {
    let (signal, dropped) = oneshot::channel();
    let held = Held(Some(signal));
    let dropped = Some(dropped);
    let call = carrier.carry(request.map(|body| Body::new(Revocable { body, dropped })));
    async move {
        let response = call.await?;
        Ok(response.map(|body| Body::new(Holding { body, held })))
    }
    .boxed()
}

struct Revocable {
    body: Body,
    /// None when it can happen no more.
    dropped: Option<oneshot::Receiver<()>>,
}

impl http_body::Body for Revocable {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(dropped) = &mut self.dropped
            && let Poll::Ready(signal) = dropped.poll_unpin(cx)
        {
            self.dropped = None;
            if signal.is_ok() {
                self.body = Body::empty();
                return Poll::Ready(Some(Err(Status::cancelled("the caller has given up the call"))));
            }
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Holding {
    body: Body,
    held: Held,
}

impl http_body::Body for Holding {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        let ended = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || self.body.is_end_stream(),
            Some(Err(_)) => false,
        };
        if ended {
            self.held.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
