//! A ttrpc connection to a shim: calls with the shim's own errors, and word when it ends.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream as StdUnixStream};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use containerd_shim_protos::protobuf::Message;
use orlop_plugin::contract::Code;
use orlop_plugin::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::proto::KeyValue;

use crate::bootstrap::Bootstrap;

/// Where Go's shims look for the namespace of a call.
const NAMESPACE_KEY: &str = "containerd-namespace-ttrpc";

/// A connection to a shim, for one namespace.
pub struct Connection {
    client: Client,
    service: &'static str,
    namespace: String,
    ended: watch::Receiver<()>,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The connection ended: the shim is gone.
    Closed,
    /// The shim answered this, or the deadline passed.
    Answered(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Closed => {
                Self::unavailable("the task's shim has closed its connection: it has died or is being removed")
            }
            Failure::Answered(error) => error,
        }
    }
}

// === impl Connection ===

impl Connection {
    /// Connects. `NotFound` and `Unavailable` when no shim serves there any more.
    pub async fn open(bootstrap: &Bootstrap, namespace: &str) -> Result<Self> {
        let address = &bootstrap.address;
        let stream = connect(address).await.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                Error::unavailable(format!("no shim serves at {address} any more: {error}"))
            }
            _ => Error::io(format!("connect to the shim at {address}"), &error),
        })?;
        let (alive, ended) = watch::channel(());
        let client = Client::new(Socket::new(Watched { stream, _alive: alive }));
        Ok(Self {
            client,
            service: bootstrap.service(),
            namespace: namespace.to_owned(),
            ended,
        })
    }

    /// Calls `method`, until `deadline`.
    pub async fn call<A: Message, R: Message>(
        &self,
        method: &str,
        request: &A,
        deadline: Option<Instant>,
    ) -> Result<R, Failure> {
        let damaged = |error| Failure::Answered(Error::internal(format!("{method} of the shim: {error}")));
        let timeout = match deadline.map(|deadline| deadline.checked_duration_since(Instant::now())) {
            None => 0,
            Some(Some(left)) if !left.is_zero() => i64::try_from(left.as_nanos()).unwrap_or(i64::MAX),
            Some(_) => return Err(late(method)),
        };
        let request = ttrpc::Request {
            service: self.service.to_owned(),
            method: method.to_owned(),
            payload: request.write_to_bytes().map_err(damaged)?,
            timeout_nano: timeout,
            metadata: vec![KeyValue {
                key: NAMESPACE_KEY.to_owned(),
                value: self.namespace.clone(),
                ..KeyValue::default()
            }],
            ..ttrpc::Request::default()
        };
        match self.client.request(request).await {
            Ok(response) => R::parse_from_bytes(&response.payload).map_err(damaged),
            Err(ttrpc::Error::RpcStatus(status)) => Err(Failure::Answered(Error::new(
                Code::from_i32(status.code.value()),
                status.message,
            ))),
            Err(_) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => Err(late(method)),
            Err(error) => {
                tracing::debug!(method, %error, "a call to a shim ended without an answer");
                Err(Failure::Closed)
            }
        }
    }

    /// Returns once the connection has ended. Does not keep it open.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.ended.clone();
        async move {
            // Nothing is ever sent: the sender goes away with the socket.
            while ended.changed().await.is_ok() {}
        }
    }
}

fn late(method: &str) -> Failure {
    Failure::Answered(Error::deadline_exceeded(format!(
        "the task's shim has not answered {method} in time"
    )))
}

/// A path socket (`unix://PATH`), or the name of an abstract one, which shims before containerd 1.5 used.
async fn connect(address: &str) -> io::Result<UnixStream> {
    match address.strip_prefix("unix://") {
        Some(path) => UnixStream::connect(path).await,
        None if address.contains("://") => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "only unix sockets are supported",
        )),
        None => {
            let stream = StdUnixStream::connect_addr(&SocketAddr::from_abstract_name(address)?)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        }
    }
}

/// A stream that tells its end: ttrpc drops its socket when the peer is gone, or when its last client is.
struct Watched {
    stream: UnixStream,
    _alive: watch::Sender<()>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
