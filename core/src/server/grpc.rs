//! The public gRPC service: what the plugins serve, counted.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use orlop_plugin::Services;
use orlop_plugin::rpc::MessageLimits;
use tonic::body::Body;
use tower::Service;

use super::metrics::Metrics;
use crate::host::Registry;

/// Answers clients; cheap to clone.
#[derive(Clone)]
pub struct Public {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    limits: MessageLimits,
}

// === impl Public ===

impl Public {
    /// Answers with whatever `registry` serves at the time of each call.
    pub fn new(registry: Arc<Registry>, metrics: Arc<Metrics>, limits: MessageLimits) -> Self {
        Self {
            registry,
            metrics,
            limits,
        }
    }
}

impl Service<Request<Body>> for Public {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.limits);
        let metrics = self.metrics.clone();
        let services = self.registry.public();
        let path = request.uri().path().trim_start_matches('/');
        let (service, method) = path.split_once('/').unwrap_or((path, ""));
        if !services.contains(service) {
            // Not counted: anybody could fill the registry with names.
            return Services::clone(&services).call(request);
        }
        let call = metrics.started(service, method);
        let answer = Services::clone(&services).call(request);
        Box::pin(async move {
            let response = answer.await?;
            // An error without a message has its status in the headers.
            if let Some(code) = grpc_status(response.headers()) {
                call.handled(code);
                return Ok(response);
            }
            Ok(response.map(|body| Body::new(Counted { body, call: Some(call) })))
        })
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

struct Counted {
    body: Body,
    call: Option<super::metrics::Call>,
}

impl http_body::Body for Counted {
    type Data = <Body as http_body::Body>::Data;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(code) = frame.trailers_ref().and_then(grpc_status)
            && let Some(call) = self.call.take()
        {
            call.handled(code);
        }
        Poll::Ready(frame)
    }
}
