//! What plugins see of the daemon: the contracts it offers as a whole, and each other.
//!
//! One [`Registry`] holds every plugin's row. Built-in plugins ask it directly ([`HostApi`]); libraries reach the same through a channel
//! whose far end is [`Registry::host_channel`]: containerd's services as other plugins see them (no client's rules in between), Orlop's
//! own host service, and, where a call names a plugin, that plugin's services.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use orlop_plugin::api::host;
use orlop_plugin::api::host::host_server::HostServer;
use orlop_plugin::api::host::{LogLevel, LogRequest, LogResponse, PluginsRequest, PluginsResponse};
use orlop_plugin::channel::{PLUGIN_HEADER, Request, Response};
use orlop_plugin::registration::{HostApi, HostPlugin, host_platform};
use orlop_plugin::services::status_response;
use orlop_plugin::{Contracts, Instance, PluginUri, Reach, Registration, Result, Services, kind, rpc};
use tonic::Status;
use tower::Service;

/// Where a plugin comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Linked into the daemon.
    BuiltIn,
    /// A library in the daemon's process.
    Library {
        /// The file.
        path: PathBuf,
        /// The SDK it was built with.
        version: String,
    },
    /// A gRPC server of somebody else.
    Proxy {
        /// Its unix socket.
        address: PathBuf,
    },
}

/// How a plugin fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started yet.
    Waiting,
    /// Running.
    Ok,
    /// Does not apply here, with the reason (it ends in `skip plugin`).
    Skip(String),
    /// Should run and does not, with the reason.
    Error(String),
}

/// A plugin as `ctr plugins ls -d` shows it.
#[derive(Clone)]
pub struct Row {
    /// Type and id.
    pub uri: PluginUri,
    /// Types it requires.
    pub requires: Vec<String>,
    /// Platforms, `linux/amd64`.
    pub platforms: Vec<String>,
    /// Feature switches.
    pub capabilities: Vec<String>,
    /// Facts, with those of the daemon (`orlop.source`, `orlop.path`, …) among them.
    pub exports: BTreeMap<String, String>,
    /// How it fares.
    pub status: State,
    /// How long it took to start.
    pub init_time: Option<Duration>,
    /// What it offers.
    pub contracts: Contracts,
}

/// Every plugin of the daemon.
pub struct Registry {
    rows: RwLock<BTreeMap<PluginUri, Row>>,
    daemon: RwLock<Contracts>,
    daemon_services: ArcSwap<Services>,
    plugin_services: RwLock<BTreeMap<String, Services>>,
    public: ArcSwap<Services>,
}

// === impl Row ===

impl Row {
    /// The row of a plugin that was not started yet.
    pub fn new(registration: &Registration, source: &Source) -> Self {
        Self {
            uri: registration.uri.clone(),
            requires: registration.requires.clone(),
            platforms: registration.platforms.clone(),
            capabilities: registration.capabilities.clone(),
            exports: source.exports(),
            status: State::Waiting,
            init_time: None,
            contracts: Contracts::default(),
        }
    }

    /// The row of something that never became a plugin.
    pub fn broken(uri: PluginUri, source: &Source, reason: String) -> Self {
        Self {
            uri,
            requires: Vec::new(),
            platforms: vec![host_platform()],
            capabilities: Vec::new(),
            exports: source.exports(),
            status: State::Error(reason),
            init_time: None,
            contracts: Contracts::default(),
        }
    }
}

// === impl Source ===

impl Source {
    fn exports(&self) -> BTreeMap<String, String> {
        let mut exports = BTreeMap::new();
        let mut say = |key: &str, value: String| exports.insert(format!("orlop.{key}"), value);
        match self {
            Self::BuiltIn => {}
            Self::Library { path, version } => {
                say("path", path.display().to_string());
                say("version", version.clone());
            }
            Self::Proxy { address } => {
                say("address", address.display().to_string());
            }
        }
        exports
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::Library { path, .. } => path.display().fmt(f),
            Self::Proxy { address } => write!(f, "the proxy plugin on {}", address.display()),
        }
    }
}

// === impl Registry ===

impl Registry {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            rows: RwLock::default(),
            daemon: RwLock::default(),
            daemon_services: ArcSwap::default(),
            plugin_services: RwLock::default(),
            public: ArcSwap::default(),
        })
    }

    /// Adds or replaces a row.
    pub fn put(&self, row: Row) {
        self.rows
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(row.uri.clone(), row);
    }

    /// Every row, by type and id.
    pub fn rows(&self) -> Vec<Row> {
        self.rows
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// One row.
    pub fn row(&self, uri: &PluginUri) -> Option<Row> {
        self.rows
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(uri)
            .cloned()
    }

    /// A plugin runs: what it offers is there for others from now on.
    pub fn started(&self, uri: &PluginUri, instance: &Instance, init_time: Duration) {
        if let Some(row) = self.rows.write().unwrap_or_else(PoisonError::into_inner).get_mut(uri) {
            row.status = State::Ok;
            row.init_time = Some(init_time);
            row.exports.extend(instance.exports.clone());
            row.exports
                .insert("orlop.init_time".to_owned(), format!("{init_time:.1?}"));
            for capability in &instance.capabilities {
                if !row.capabilities.contains(capability) {
                    row.capabilities.push(capability.clone());
                }
            }
            row.contracts = instance.contracts.clone();
        }
        self.plugin_services
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(uri.to_string(), rpc::serve_all(&instance.contracts));
        let services = {
            let mut daemon = self.daemon.write().unwrap_or_else(PoisonError::into_inner);
            offer(&mut daemon, &uri.kind, &instance.contracts);
            rpc::serve_all(&daemon)
        };
        self.daemon_services.store(Arc::new(services));
        if !instance.grpc.is_empty() {
            self.add_public(instance.grpc.clone());
        }
    }

    /// A plugin does not run.
    pub fn failed(&self, uri: &PluginUri, status: State, init_time: Duration) {
        if let Some(row) = self.rows.write().unwrap_or_else(PoisonError::into_inner).get_mut(uri) {
            row.status = status;
            row.init_time = Some(init_time);
        }
    }

    /// Adds services to the public socket.
    pub fn add_public(&self, services: Services) {
        self.public.rcu(|current| {
            let mut merged = Services::clone(current);
            merged.merge(services.clone());
            merged
        });
    }

    /// What the public socket serves, as of now.
    pub fn public(&self) -> Arc<Services> {
        self.public.load_full()
    }

    /// The far end of the channel that libraries are given.
    pub fn host_channel(self: &Arc<Self>, own: Services) -> HostService {
        HostService {
            registry: self.clone(),
            own,
        }
    }
}

/// What a plugin of type `kind` offers for the daemon as a whole. A service stands for what is behind it: its rules apply.
fn offer(daemon: &mut Contracts, kind: &str, offered: &Contracts) {
    let offered = offered.clone();
    match kind {
        kind::METADATA => {
            daemon.content = offered.content;
            daemon.images = offered.images;
            daemon.containers = offered.containers;
            daemon.namespaces = offered.namespaces;
            daemon.snapshotters = offered.snapshotters;
            daemon.collector = offered.collector;
            if daemon.leases.is_none() {
                daemon.leases = offered.leases;
            }
        }
        kind::LEASE => daemon.leases = offered.leases,
        kind::EVENT => daemon.events = offered.events,
        kind::STREAMING => daemon.streaming = offered.streaming,
        kind::TRANSFER => daemon.transfer = offered.transfer,
        kind::GC => daemon.gc = offered.gc,
        kind::RUNTIME if daemon.tasks.is_none() => daemon.tasks = offered.tasks,
        kind::SERVICE => {
            if offered.differ.is_some() {
                daemon.differ = offered.differ;
            }
            if offered.tasks.is_some() {
                daemon.tasks = offered.tasks;
            }
        }
        _ => {}
    }
}

#[async_trait]
impl HostApi for Registry {
    fn daemon(&self) -> Reach {
        self.daemon
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .into()
    }

    async fn plugins(&self, kind: &str) -> Result<Vec<HostPlugin>> {
        let rows = self.rows();
        let running = rows
            .into_iter()
            .filter(|row| row.uri.kind == kind && row.status == State::Ok);
        Ok(running
            .map(|row| HostPlugin {
                uri: row.uri,
                contracts: row.contracts.into(),
                capabilities: row.capabilities,
                exports: row.exports,
            })
            .collect())
    }
}

/// Answers the calls that libraries make to the daemon.
#[derive(Clone)]
pub struct HostService {
    registry: Arc<Registry>,
    own: Services,
}

impl Service<Request> for HostService {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let refuse = |status: Status| -> Self::Future { Box::pin(std::future::ready(Ok(status_response(&status)))) };
        if let Some(plugin) = request.headers().get(PLUGIN_HEADER) {
            let uri = String::from_utf8_lossy(plugin.as_bytes()).into_owned();
            let services = self
                .registry
                .plugin_services
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&uri)
                .cloned();
            return match services {
                Some(mut services) => services.call(request),
                None => refuse(Status::unavailable(format!(
                    "plugin {uri} is not running: see `ctr plugins ls`"
                ))),
            };
        }
        let name = request
            .uri()
            .path()
            .trim_start_matches('/')
            .split('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        if self.own.contains(&name) {
            return self.own.call(request);
        }
        let daemon = self.registry.daemon_services.load_full();
        if daemon.contains(&name) {
            Services::clone(&daemon).call(request)
        } else {
            refuse(Status::unavailable(format!(
                "no running plugin offers {name}: see `ctr plugins ls` for the one that failed or is missing"
            )))
        }
    }
}

/// Orlop's own services for libraries: their log, and look-up of other plugins.
pub fn host_services(registry: &Arc<Registry>) -> Services {
    Services::new().with(HostServer::new(Answers(registry.clone())))
}

struct Answers(Arc<Registry>);

#[async_trait]
impl orlop_plugin::api::host::host_server::Host for Answers {
    async fn log(&self, request: tonic::Request<LogRequest>) -> Result<tonic::Response<LogResponse>, Status> {
        let event = request.into_inner();
        let fields: Vec<_> = event
            .fields
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let (target, message, fields) = (event.target.as_str(), event.message.as_str(), fields.join(" "));
        // The level of an event is part of its static description: one event a level.
        match LogLevel::try_from(event.level).unwrap_or(LogLevel::Info) {
            LogLevel::Error => tracing::error!(plugin = target, fields, "{message}"),
            LogLevel::Warn => tracing::warn!(plugin = target, fields, "{message}"),
            LogLevel::Debug => tracing::debug!(plugin = target, fields, "{message}"),
            _ => tracing::info!(plugin = target, fields, "{message}"),
        }
        Ok(tonic::Response::new(LogResponse {}))
    }

    async fn plugins(
        &self,
        request: tonic::Request<PluginsRequest>,
    ) -> Result<tonic::Response<PluginsResponse>, Status> {
        let plugins = HostApi::plugins(&*self.0, &request.into_inner().kind).await?;
        let plugins = plugins.into_iter().map(|plugin| host::Plugin {
            contracts: plugin.contracts.names(),
            kind: plugin.uri.kind,
            id: plugin.uri.id,
            exports: plugin.exports.into_iter().collect(),
            capabilities: plugin.capabilities,
        });
        Ok(tonic::Response::new(PluginsResponse {
            plugins: plugins.collect(),
        }))
    }
}
