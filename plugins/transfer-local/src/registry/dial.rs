//! Connections, by way of a proxy where the environment names one (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::hosts::is_localhost;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes connections.
#[derive(Clone)]
pub struct Dialer {
    /// For the last step.
    pub tcp: HttpConnector,
    /// Which proxies there are.
    pub proxies: Arc<Matcher>,
}

/// A connection to a host or its proxy.
pub struct Dialed {
    stream: TokioIo<TcpStream>,
    /// The other end passes requests on, and must be told whole URLs.
    forwards: bool,
}

/// The proxy on the way to `uri`; to this machine itself there is none, as for Go's client.
pub fn proxy_for(proxies: &Matcher, uri: &Uri) -> Option<Intercept> {
    let local = uri.authority().is_none_or(|authority| is_localhost(authority.as_str()));
    proxies.intercept(uri).filter(|_| !local)
}

impl Service<Uri> for Dialer {
    type Response = Dialed;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Dialed, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let mut tcp = self.tcp.clone();
        let proxy = proxy_for(&self.proxies, &to);
        Box::pin(async move {
            let Some(proxy) = proxy else {
                let stream = tcp.call(to).await?;
                return Ok(Dialed {
                    stream,
                    forwards: false,
                });
            };
            let address = proxy.uri().clone();
            if address.scheme_str() != Some("http") {
                let scheme = address.scheme_str().unwrap_or_default();
                return Err(format!(
                    "the environment names a proxy that speaks {scheme}: only http:// proxies are used"
                )
                .into());
            }
            if to.scheme_str() != Some("https") {
                let stream = tcp.call(address).await?;
                return Ok(Dialed { stream, forwards: true });
            }
            let mut tunnel = Tunnel::new(address, tcp);
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(auth.clone());
            }
            let stream = tunnel.call(to).await?;
            Ok(Dialed {
                stream,
                forwards: false,
            })
        })
    }
}

impl Connection for Dialed {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.forwards)
    }
}

impl Read for Dialed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Dialed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}
