//! Channels: ways to a set of gRPC services, whatever carries them.
//!
//! A [`Channel`] is what the generated clients run over. Three things carry one: function calls inside this binary ([`Channel::memory`]),
//! the ABI of a dynamic library ([`dylib`], frozen as [`v1`]), and a unix socket ([`socket`], behind the feature of that name). A caller
//! cannot tell which it has, except by its price.
//!
//! What all of them promise: dropping a call cancels it on the other side; a call past its `grpc-timeout` is `DEADLINE_EXCEEDED`;
//! bodies move only as fast as they are polled.

mod cancel;
mod deadline;
pub mod dylib;
mod entered;
mod headers;
pub mod note;
#[cfg(feature = "socket")]
pub mod socket;
pub mod v1;

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::Services;

/// A gRPC call on its way: a path, metadata, and a body polled frame by frame.
pub type Request = http::Request<Body>;
/// A gRPC answer: metadata, and a body that ends in trailers.
pub type Response = http::Response<Body>;

/// The `grpc-timeout` of a call.
pub(crate) fn timeout(headers: &http::HeaderMap) -> Option<std::time::Duration> {
    deadline::of(headers)
}

/// What carries a call. A deadline is the channel's business, not the carrier's.
pub trait Carrier: Send + Sync + 'static {
    /// Carries one call. Dropping the future, or the body of its response, cancels the call.
    fn carry(&self, request: Request) -> BoxFuture<'static, Result<Response, Status>>;
}

/// A way to a set of gRPC services; cheap to clone.
#[derive(Clone)]
pub struct Channel {
    carrier: Arc<dyn Carrier>,
    plugin: Option<HeaderValue>,
}

/// Names the plugin a call is meant for, where a channel leads to several.
pub const PLUGIN_HEADER: HeaderName = HeaderName::from_static("orlop-plugin");

// === impl Channel ===

impl Channel {
    /// A channel over `carrier`.
    pub fn new(carrier: impl Carrier) -> Self {
        Self {
            carrier: Arc::new(carrier),
            plugin: None,
        }
    }

    /// A channel to services in this very binary.
    pub fn memory(services: Services) -> Self {
        Self::new(Memory(services))
    }

    /// The same channel, with every call meant for the plugin `uri` behind it.
    pub fn to_plugin(&self, uri: &crate::PluginUri) -> Self {
        Self {
            carrier: self.carrier.clone(),
            plugin: HeaderValue::try_from(uri.to_string()).ok(),
        }
    }
}

impl Service<Request> for Channel {
    type Response = Response;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if let Some(uri) = &self.plugin {
            request.headers_mut().insert(PLUGIN_HEADER, uri.clone());
        }
        let timeout = deadline::of(request.headers());
        let call = cancel::carry(&*self.carrier, request);
        match timeout {
            Some(timeout) => deadline::bound(call, timeout).boxed(),
            None => call,
        }
    }
}

struct Memory(Services);

impl Carrier for Memory {
    fn carry(&self, request: Request) -> BoxFuture<'static, Result<Response, Status>> {
        self.0
            .clone()
            .call(request)
            .map(|answer| answer.map_err(|never| match never {}))
            .boxed()
    }
}
