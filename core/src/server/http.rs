//! Plain HTTP for operators: metrics on a TCP address, the debug socket.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::metrics::Metrics;
use crate::host::{Registry, State};

/// What is answered on which path.
#[derive(Clone)]
pub struct Pages {
    metrics: Arc<Metrics>,
    registry: Option<Arc<Registry>>,
}

// === impl Pages ===

impl Pages {
    /// The metrics address: `/v1/metrics`.
    pub fn metrics(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            registry: None,
        }
    }

    /// The debug socket: the metrics, and `/debug/vars` with the state of every plugin.
    pub fn debug(metrics: Arc<Metrics>, registry: Arc<Registry>) -> Self {
        Self {
            metrics,
            registry: Some(registry),
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, kind, text) = match (request.method(), request.uri().path(), &self.registry) {
            (&Method::GET, "/v1/metrics" | "/metrics", _) => {
                (StatusCode::OK, "text/plain; version=0.0.4", self.metrics.text())
            }
            (&Method::GET, "/debug/vars", Some(registry)) => (StatusCode::OK, "application/json", vars(registry)),
            (_, path, _) => (
                StatusCode::NOT_FOUND,
                "text/plain",
                format!("nothing is served at {path}\n"),
            ),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
        response
    }

    /// Serves one connection in the background.
    pub fn serve<IO>(&self, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let pages = self.clone();
        tokio::spawn(async move {
            let answer = hyper::service::service_fn(move |request| {
                let response = pages.answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(io), answer);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP connection broke");
            }
        });
    }
}

fn vars(registry: &Registry) -> String {
    let plugins: serde_json::Map<_, _> = registry
        .rows()
        .into_iter()
        .map(|row| {
            let status = match row.status {
                State::Waiting => "waiting".to_owned(),
                State::Ok => "ok".to_owned(),
                State::Skip(reason) => format!("skip: {reason}"),
                State::Error(reason) => format!("error: {reason}"),
            };
            (row.uri.to_string(), status.into())
        })
        .collect();
    let vars = serde_json::json!({
        "version": crate::daemon::VERSION,
        "pid": std::process::id(),
        "plugins": plugins,
    });
    format!("{vars:#}\n")
}
