//! One run of the daemon, from a configuration to its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use orlop_config::Config;
use orlop_plugin::api::introspection_server::IntrospectionServer;
use orlop_plugin::api::version_server::VersionServer;
use orlop_plugin::registration::StreamProcessor;
use orlop_plugin::rpc::MessageLimits;
use orlop_plugin::serve::{Connections, bind};
use orlop_plugin::{Instance, Registration, Services, kind};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::graph::{self, Node, Wishes};
use crate::host::{Registry, Source};
use crate::introspection::{Introspect, Versions, persistent_uuid};
use crate::lifecycle::{self, Loaded, Running, Setting};
use crate::loader::{self, Found};
use crate::server::grpc::Public;
use crate::server::http::Pages;
use crate::server::metrics::Metrics;
use crate::server::tls::Tls;
use crate::server::{own, socket_directory, ttrpc};

/// The version the daemon answers with.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"), "+orlop");
/// The revision it was built from, where the build knew it.
pub const REVISION: &str = match option_env!("ORLOP_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// How long to wait before accepting again when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Runs the daemon until it is told to end.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut signals = Signals::new()?;
    prepare(&config)?;
    let address = PathBuf::from(&config.grpc.address);
    let ttrpc_listener = config.ttrpc_listener();
    let ttrpc_address = PathBuf::from(&ttrpc_listener.address);

    // The sockets come first: a second daemon on the same address must fail before it touches the first one's state.
    let listeners = Listeners::bind(&config, &address).await?;
    let metrics = Arc::new(Metrics::new(config.metrics.grpc_histogram)?);
    let registry = Registry::new();
    // Shims send events while their tasks are found again: the socket is there before the runtime is.
    socket_directory(&ttrpc_address)?;
    let mut ttrpc = ttrpc::serve(&ttrpc_address, registry.clone()).await?;
    own(&ttrpc_address, ttrpc_listener.uid, ttrpc_listener.gid)?;

    let found = load(&config, &registry).await;
    let running = start(&config, &registry, found, &address, &ttrpc_address).await?;

    let sockets = listeners.serve(&config.grpc, &registry, &metrics);
    // No service manager is an answer too.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(address = %address.display(), took = ?begin.elapsed(), "containerd successfully booted");

    let counted = metrics.clone();
    tokio::spawn(crate::memory::when_idle(move || counted.activity()));
    signals.end().await;
    tracing::info!("the daemon ends; containers run on");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    sockets.end().await;
    running.shutdown().await;
    // The last client is gone: what is still on its way to this socket is a shim's, and it tries again.
    if let Err(error) = ttrpc.shutdown().await {
        tracing::debug!(%error, "the ttrpc server did not end well");
    }
    for socket in [&address, &ttrpc_address] {
        let _ = std::fs::remove_file(socket);
    }
    Ok(())
}

/// Makes the directories and puts the process where the configuration wants it.
fn prepare(config: &Config) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    for directory in [&config.root, &config.state] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(directory)
            .with_context(|| format!("make the daemon's directory {}", directory.display()))?;
    }
    if !config.temp.as_os_str().is_empty() {
        std::fs::create_dir_all(&config.temp)
            .with_context(|| format!("make the temporary directory {}", config.temp.display()))?;
    }
    if config.oom_score != 0 {
        std::fs::write("/proc/self/oom_score_adj", config.oom_score.to_string()).with_context(|| {
            format!(
                "set oom_score to {} (a negative one needs CAP_SYS_RESOURCE)",
                config.oom_score
            )
        })?;
    }
    if !config.cgroup.path.is_empty() {
        crate::server::join_cgroup(&config.cgroup.path)?;
    }
    Ok(())
}

/// Everything that can be found: built in, in libraries, behind sockets.
async fn load(config: &Config, registry: &Arc<Registry>) -> Found {
    let mut found = loader::builtin();
    found.loaded.extend(own_registrations(config, registry));
    found.extend(loader::dylib::load(config, registry).await);
    for (name, entry) in &config.proxy_plugins {
        found.extend(loader::proxy::load(name, entry));
    }
    found
}

/// The services that only the core can offer, as rows of the graph like any other.
fn own_registrations(config: &Config, registry: &Arc<Registry>) -> Vec<Loaded> {
    let root = config.root.clone();
    let introspect = {
        let registry = registry.clone();
        Registration::new(kind::GRPC, "introspection", move |_| {
            let (registry, root) = (registry.clone(), root.clone());
            async move {
                let uuid = persistent_uuid(&root)?;
                let server = IntrospectionServer::new(Introspect::new(registry, uuid));
                Ok(Instance::new().with_grpc(Services::new().with(server)))
            }
        })
        .requires([kind::SERVICE])
    };
    let version = Registration::new(kind::GRPC, "version", |_| async {
        Ok(Instance::new().with_grpc(Services::new().with(VersionServer::new(Versions))))
    });
    let service = Registration::new(kind::SERVICE, "introspection-service", |_| async {
        Ok(Instance::new())
    });
    let health = Registration::new(kind::GRPC, "healthcheck", |_| async {
        let (reporter, server) = tonic_health::server::health_reporter();
        // The empty name is the server as a whole: it serves once clients can ask.
        reporter
            .set_service_status("", tonic_health::ServingStatus::Serving)
            .await;
        Ok(Instance::new().with_grpc(Services::new().with(server)))
    });
    [service, introspect, version, health]
        .into_iter()
        .map(|registration| Loaded {
            registration,
            source: Source::BuiltIn,
            pinned: false,
        })
        .collect()
}

async fn start(
    config: &Config,
    registry: &Arc<Registry>,
    found: Found,
    address: &Path,
    ttrpc_address: &Path,
) -> anyhow::Result<Running> {
    for row in found.broken {
        registry.put(row);
    }
    let nodes: Vec<Node> = found
        .loaded
        .iter()
        .map(|loaded| Node {
            uri: loaded.registration.uri.clone(),
            requires: loaded.registration.requires.clone(),
            source: loaded.source.to_string(),
            pinned: loaded.pinned,
        })
        .collect();
    let required: Vec<String> = config.required_plugins.iter().map(ToString::to_string).collect();
    let wishes = Wishes {
        disabled: &|uri| {
            config
                .disabled_plugins
                .iter()
                .any(|entry| entry.matches(&uri.to_string()))
        },
        required: &required,
        names: &|entry, uri| orlop_config::PluginSelector::from(entry).matches(&uri.to_string()),
    };
    let plan = graph::resolve(&nodes, &wishes).context("the plugins cannot be put in order")?;
    let setting = Setting {
        root: config.root.clone(),
        state: config.state.clone(),
        address: address.display().to_string(),
        ttrpc_address: ttrpc_address.display().to_string(),
        timeouts: config
            .timeouts
            .iter()
            .map(|(name, value)| (name.clone(), value.to_string()))
            .collect(),
        stream_processors: config.stream_processors.iter().map(stream_processor).collect(),
        config: config.plugins.clone(),
    };
    lifecycle::start(registry, found.loaded, &plan, &setting)
        .await
        .map_err(|missing| {
            let lines: Vec<_> = missing.iter().map(|(uri, reason)| format!("{uri}: {reason}")).collect();
            anyhow::anyhow!("required plugins do not run:\n{}", lines.join("\n"))
        })
}

fn stream_processor((id, entry): (&String, &orlop_config::StreamProcessor)) -> StreamProcessor {
    StreamProcessor {
        id: id.clone(),
        accepts: entry.accepts.clone(),
        returns: entry.returns.clone(),
        path: entry.path.clone(),
        args: entry.args.clone(),
        env: entry.env.clone(),
    }
}

/// The default configuration of every plugin that can be found, by URI.
pub async fn plugin_defaults(config: &Config) -> std::collections::BTreeMap<String, toml::Table> {
    let registry = Registry::new();
    let found = load(config, &registry).await;
    found
        .loaded
        .into_iter()
        .map(|loaded| (loaded.registration.uri.to_string(), loaded.registration.config))
        .collect()
}

struct Listeners {
    grpc: UnixListener,
    tcp: Option<TcpListener>,
    tls: Option<Tls>,
    metrics: Option<TcpListener>,
    debug: Option<UnixListener>,
}

struct Sockets {
    end: tokio::sync::watch::Sender<bool>,
    tasks: tokio::task::JoinSet<()>,
}

// === impl Listeners ===

impl Listeners {
    async fn bind(config: &Config, address: &Path) -> anyhow::Result<Self> {
        let tls = Tls::of(&config.grpc)?;
        socket_directory(address)?;
        let grpc = bind(address).await?;
        own(address, config.grpc.uid, config.grpc.gid)?;
        let tcp = listen(&config.grpc.tcp_address, "[grpc] tcp_address").await?;
        let metrics = listen(&config.metrics.address, "[metrics] address").await?;
        let debug = if config.debug.address.is_empty() {
            None
        } else {
            let path = Path::new(&config.debug.address);
            socket_directory(path)?;
            let listener = bind(path).await?;
            own(path, config.debug.uid, config.debug.gid)?;
            Some(listener)
        };
        Ok(Self {
            grpc,
            tcp,
            tls,
            metrics,
            debug,
        })
    }

    fn serve(self, grpc: &orlop_config::GrpcConfig, registry: &Arc<Registry>, metrics: &Arc<Metrics>) -> Sockets {
        let end = tokio::sync::watch::Sender::new(false);
        let mut tasks = tokio::task::JoinSet::new();
        let public = |limits| Public::new(registry.clone(), metrics.clone(), limits);
        let service = public(limits(grpc.max_recv_message_size, grpc.max_send_message_size));
        tasks.spawn(accept(end.subscribe(), self.grpc, move |connections, (io, _)| {
            connections.serve(io, service.clone());
        }));
        if let Some(listener) = self.tcp {
            let service = public(limits(
                grpc.tcp_max_recv_message_size.unwrap_or(grpc.max_recv_message_size),
                grpc.tcp_max_send_message_size.unwrap_or(grpc.max_send_message_size),
            ));
            let tls = self.tls;
            tasks.spawn(accept(
                end.subscribe(),
                listener,
                move |connections, (io, _)| match &tls {
                    Some(tls) => connections.serve_once(tls.clone().accept(io), service.clone()),
                    None => connections.serve(io, service.clone()),
                },
            ));
        }
        if let Some(listener) = self.metrics {
            let pages = Pages::metrics(metrics.clone());
            tasks.spawn(accept(end.subscribe(), listener, move |_, (io, _)| pages.serve(io)));
        }
        if let Some(listener) = self.debug {
            let pages = Pages::debug(metrics.clone(), registry.clone());
            tasks.spawn(accept(end.subscribe(), listener, move |_, (io, _)| pages.serve(io)));
        }
        Sockets { end, tasks }
    }
}

/// What the configuration says of messages; containerd takes zero and less for its default.
fn limits(receive: i64, send: i64) -> MessageLimits {
    let size = |configured: i64, default| {
        usize::try_from(configured)
            .ok()
            .filter(|size| *size > 0)
            .unwrap_or(default)
    };
    let default = MessageLimits::default();
    MessageLimits {
        receive: size(receive, default.receive),
        send: size(send, default.send),
    }
}

async fn listen(address: &str, key: &str) -> anyhow::Result<Option<TcpListener>> {
    if address.is_empty() {
        return Ok(None);
    }
    TcpListener::bind(address)
        .await
        .map(Some)
        .with_context(|| format!("listen on {address} ({key})"))
}

trait Accept: Send + 'static {
    type Connection;
    fn next(&self) -> impl Future<Output = std::io::Result<Self::Connection>> + Send;
}

impl Accept for UnixListener {
    type Connection = (tokio::net::UnixStream, tokio::net::unix::SocketAddr);
    async fn next(&self) -> std::io::Result<Self::Connection> {
        self.accept().await
    }
}

impl Accept for TcpListener {
    type Connection = (tokio::net::TcpStream, std::net::SocketAddr);
    async fn next(&self) -> std::io::Result<Self::Connection> {
        self.accept().await
    }
}

async fn accept<L: Accept + Sync>(
    mut end: tokio::sync::watch::Receiver<bool>,
    listener: L,
    serve: impl Fn(&mut Connections, L::Connection) + Send,
) where
    L::Connection: Send,
{
    let mut connections = Connections::default();
    loop {
        tokio::select! {
            // The guard of the value must not outlive the wait.
            () = async { drop(end.wait_for(|end| *end).await) } => break,
            accepted = listener.next() => match accepted {
                Ok(connection) => serve(&mut connections, connection),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    connections.drain().await;
}

// === impl Sockets ===

impl Sockets {
    async fn end(mut self) {
        self.end.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Signals ===

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
