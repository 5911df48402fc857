//! gRPC services by name: the routing table of a channel.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

type BoxService = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// A set of gRPC services, itself a service: a call goes to the one its path names, or is answered `UNIMPLEMENTED`.
#[derive(Clone, Default)]
pub struct Services(BTreeMap<String, BoxService>);

// === impl Services ===

impl Services {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a generated server.
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.0.insert(S::NAME.to_owned(), BoxCloneSyncService::new(service));
        self
    }

    /// Adds a service under a name known only at run time, such as one that forwards to another channel.
    pub fn with_named<S>(mut self, name: impl Into<String>, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.0.insert(name.into(), BoxCloneSyncService::new(service));
        self
    }

    /// Adds all of `other`, which win over those of the same name.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The full names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether `name` is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A gRPC response that says only `status`.
pub fn status_response(status: &tonic::Status) -> Response<Body> {
    status.clone().into_http()
}

impl Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let name = request
            .uri()
            .path()
            .trim_start_matches('/')
            .split('/')
            .next()
            .unwrap_or_default();
        if let Some(service) = self.0.get(name) {
            return Box::pin(service.clone().oneshot(request));
        }
        let status = tonic::Status::unimplemented(format!("unknown service {name}"));
        Box::pin(std::future::ready(Ok(status_response(&status))))
    }
}
