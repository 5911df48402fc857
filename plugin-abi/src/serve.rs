//! Serving on sockets: the HTTP/2 server that the daemon and plugins in processes of their own share, and [`serve`], which turns
//! registrations into a proxy plugin.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tonic::body::Body;
use tower::{Service, ServiceExt};

use crate::registration::{Host, HostApi, HostPlugin};
use crate::rpc::Reach;
use crate::{Contracts, Error, InitContext, Registration, Result, Services, rpc};

/// How much of a call's body may be under way before its reader takes it: layers are streamed in pieces of up to this size.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for a whole connection.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// How long open calls may go on after the end was announced: subscriptions and waits never end by themselves.
const DRAIN: Duration = Duration::from_millis(500);

/// Connections of one or more listeners; ends them in an orderly way.
pub struct Connections {
    tasks: JoinSet<()>,
    end: tokio::sync::watch::Sender<bool>,
}

// === impl Connections ===

impl Default for Connections {
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            end: tokio::sync::watch::Sender::new(false),
        }
    }
}

impl Connections {
    /// Serves one accepted connection in the background.
    pub fn serve<IO, S>(&mut self, io: IO, service: S)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        self.serve_once(std::future::ready(Ok(io)), service);
    }

    /// [`Connections::serve`] for a connection that has to shake hands first.
    pub fn serve_once<IO, S>(&mut self, ready: impl Future<Output = std::io::Result<IO>> + Send + 'static, service: S)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        // Finished ones are forgotten here, so that the set does not grow with every client that ever came.
        while self.tasks.try_join_next().is_some() {}
        let mut end = self.end.subscribe();
        self.tasks.spawn(async move {
            let io = match ready.await {
                Ok(io) => io,
                Err(error) => return tracing::debug!(%error, "a client was not let in"),
            };
            let answer = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                service.clone().oneshot(request.map(Body::new))
            });
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_streams(None)
                .serve_connection(TokioIo::new(io), answer);
            tokio::pin!(connection);
            // What is waited for holds a lock, which must not be held while the last calls go on.
            let ended = async {
                let _ = end.wait_for(|end| *end).await;
            };
            let result = tokio::select! {
                result = &mut connection => result,
                () = ended => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a client's connection broke");
            }
        });
    }

    /// Tells every client that this is the end, and waits a while for their last calls.
    pub async fn drain(mut self) {
        self.end.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            tracing::info!("calls were still open at the end: they are cut off");
        }
    }
}

/// Makes a unix socket at `path`, in place of a dead one. Its mode is 0660 less nothing: what the owner and group may do.
///
/// Fails with `FailedPrecondition` when somebody answers on it.
pub async fn bind(path: &Path) -> Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let doing = |what: &str| format!("{what} {}", path.display());
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(Error::failed_precondition(format!(
            "{} is in use: another daemon answers on it; choose another address or stop that one",
            path.display()
        )));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(doing("remove the dead socket"), &error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|error| Error::io(doing("listen on"), &error))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .map_err(|error| Error::io(doing("set the mode of"), &error))?;
    Ok(listener)
}

/// Where and how [`serve`] runs plugins.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The socket that goes into `[proxy_plugins.NAME] address`.
    pub address: PathBuf,
    /// The directory for what the plugins keep; each gets `ROOT/TYPE.ID`.
    pub root: PathBuf,
    /// Configuration laid over the defaults, by plugin URI.
    pub config: BTreeMap<String, toml::Table>,
}

/// Serves plugins on a unix socket until `end`, so that any daemon that knows `[proxy_plugins]` (Orlop, containerd) can use them.
///
/// The contracts are served as containerd's public services. There is no daemon behind these plugins: what they ask of their host is
/// `Unavailable`.
pub async fn serve(registrations: Vec<Registration>, options: Options, end: impl Future<Output = ()>) -> Result<()> {
    let mut services = Services::new();
    let mut shutdowns = Vec::new();
    for registration in registrations {
        let uri = registration.uri.to_string();
        let mut config = registration.config.clone();
        config.extend(options.config.get(&uri).cloned().unwrap_or_default());
        let context = InitContext {
            uri: registration.uri.clone(),
            root_path: options.root.join(&uri),
            state_path: options.root.join("state").join(&uri),
            config,
            address: String::new(),
            ttrpc_address: String::new(),
            timeouts: BTreeMap::new(),
            stream_processors: Vec::new(),
            host: Host::new(Arc::new(Nobody)),
        };
        let instance = registration
            .init(context)
            .await
            .map_err(|error| Error::failed_precondition(format!("{uri} does not start: {error}")))?;
        services.merge(rpc::serve_offered(&instance.contracts)?);
        services.merge(instance.grpc);
        shutdowns.extend(instance.shutdown);
    }
    let listener = bind(&options.address).await?;
    let mut connections = Connections::default();
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            accepted = listener.accept() => match accepted {
                Ok((io, _)) => connections.serve(io, services.clone()),
                Err(error) => {
                    // Out of file descriptors, mostly: waiting is all one can do.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    connections.drain().await;
    for shutdown in shutdowns {
        shutdown().await;
    }
    // The socket may be gone already; nobody listens on it either way.
    let _ = std::fs::remove_file(&options.address);
    Ok(())
}

/// [`serve`] for a program that does nothing else: until it is sent SIGTERM or SIGINT. Blocks.
pub fn serve_until_signal(registrations: Vec<Registration>, options: Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the plugin's runtime", &error))?;
    runtime.block_on(async { serve(registrations, options, signalled()?).await })
}

/// What ends when the process is sent SIGTERM or SIGINT. From this call on they do not kill it any more.
pub fn signalled() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| Error::io("listen for signals", &error));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

struct Nobody;

#[async_trait]
impl HostApi for Nobody {
    fn daemon(&self) -> Reach {
        Contracts::default().into()
    }

    async fn plugins(&self, _: &str) -> Result<Vec<HostPlugin>> {
        Ok(Vec::new())
    }
}
