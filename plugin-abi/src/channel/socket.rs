//! Channels to gRPC servers on unix sockets: proxy plugins, and plugins in processes of their own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel as Http2, Endpoint, Uri};
use tower::Service;

use super::{Carrier, Channel, Request, Response};

/// How long connecting may take before a call is `UNAVAILABLE`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of a call's answer may be under way before its reader takes it: as in [`crate::serve`].
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for a whole connection.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// The headers of an answer have its error message in them, which may quote the output of a program.
const MAX_HEADERS: u32 = 1 << 20;

/// A channel to the server on the unix socket `path`. It connects with the first call, and again after a broken connection.
pub fn connect(path: impl AsRef<Path>) -> Channel {
    let path = path.as_ref().to_path_buf();
    let name: std::sync::Arc<str> = path.display().to_string().into();
    // The URI is never resolved: the connector below decides where a connection goes.
    let http2 = Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADERS)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| dial(path.clone())));
    Channel::new(Socket { http2, name })
}

async fn dial(path: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    UnixStream::connect(&path).await.map(TokioIo::new)
}

struct Socket {
    http2: Http2,
    name: std::sync::Arc<str>,
}

impl Carrier for Socket {
    fn carry(&self, request: Request) -> BoxFuture<'static, Result<Response, Status>> {
        let mut http2 = self.http2.clone();
        let name = self.name.clone();
        async move {
            let unavailable = |error: tonic::transport::Error| {
                use std::error::Error;
                let mut reason = error.to_string();
                let mut source = error.source();
                while let Some(cause) = source {
                    // tonic keeps deadlines too, and may be the first to see one pass.
                    if cause.is::<tonic::TimeoutExpired>() {
                        return Status::deadline_exceeded(format!("no answer in time from the plugin on {name}"));
                    }
                    reason = cause.to_string();
                    source = cause.source();
                }
                Status::unavailable(format!("no answer from the plugin on {name}: {reason}"))
            };
            std::future::poll_fn(|cx| http2.poll_ready(cx))
                .await
                .map_err(unavailable)?;
            http2.call(request).await.map_err(unavailable)
        }
        .boxed()
    }
}
