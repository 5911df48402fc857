//! A library from the inside: its runtime, its plugins, and its way to the daemon.
//!
//! ```text
//!   daemon ──Channel──▶ Library ─┬─ orlop.plugin.v1.Plugin   (describe, init, shutdown, …)
//!                                └─ `orlop-plugin: URI` ▶ the contracts of that instance
//!   plugin ──Host──▶ Channel ──▶ the daemon
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tonic::{Request as Grpc, Response as Answer, Status};
use tower::Service;

use crate::api::plugin::plugin_server::{Plugin, PluginServer};
use crate::api::plugin::{
    DescribeRequest, DescribeResponse, Described, HealthRequest, HealthResponse, InitRequest, InitResponse,
    MetricsRequest, MetricsResponse, ReconfigureRequest, ReconfigureResponse, ShutdownRequest, ShutdownResponse,
};
use crate::api::{host, plugin as pb};
use crate::channel::v1::ChannelBox;
use crate::channel::{Channel, PLUGIN_HEADER, Request, Response, dylib, note};
use crate::registration::{HostApi, HostPlugin, StreamProcessor};
use crate::rpc::Reach;
use crate::services::status_response;
use crate::{Error, Host, InitContext, InitError, PluginUri, Registration, Result, Services, log, rpc};

/// Idle blocking threads go after this long: an idle daemon has one thread a library.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How many blocking calls of one library may be under way.
const BLOCKING_THREADS: usize = 64;

/// Starts the library's runtime and gives the daemon the way to its plugins.
pub(crate) fn start(far: ChannelBox, registrations: Vec<Registration>) -> Result<ChannelBox> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .thread_name("orlop-plugin")
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the library's runtime", &error))?;
    let handle = runtime.handle().clone();
    // The library stays mapped until the process ends, and so does its runtime.
    std::mem::forget(runtime);
    let host = Channel::new(dylib::Dylib::new(far, handle.clone(), "the daemon"));
    log::forward(host.clone(), &handle);
    let library = Library(Arc::new(Inner {
        registrations,
        running: Mutex::default(),
        host,
    }));
    Ok(dylib::serve(library, handle))
}

#[derive(Clone)]
struct Library(Arc<Inner>);

struct Inner {
    registrations: Vec<Registration>,
    running: Mutex<BTreeMap<String, Running>>,
    host: Channel,
}

struct Running {
    services: Services,
    shutdown: Option<Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>>,
}

// === impl Library ===

impl Service<Request> for Library {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Some(plugin) = request.headers().get(PLUGIN_HEADER) else {
            return PluginServer::new(self.clone()).call(request);
        };
        let uri = String::from_utf8_lossy(plugin.as_bytes()).into_owned();
        let services = self.running().get(&uri).map(|running| running.services.clone());
        if let Some(mut services) = services {
            return services.call(request);
        }
        let status = Status::unavailable(format!("plugin {uri} is not running in this library"));
        Box::pin(std::future::ready(Ok(status_response(&status))))
    }
}

impl Library {
    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Plugin for Library {
    async fn describe(&self, _: Grpc<DescribeRequest>) -> Result<Answer<DescribeResponse>, Status> {
        let registrations = self.0.registrations.iter().map(|registration| Described {
            kind: registration.uri.kind.clone(),
            id: registration.uri.id.clone(),
            requires: registration.requires.clone(),
            capabilities: registration.capabilities.clone(),
            platforms: registration.platforms.clone(),
            config: registration.config.to_string(),
        });
        Ok(Answer::new(DescribeResponse {
            registrations: registrations.collect(),
            sdk: note::SDK.to_owned(),
        }))
    }

    async fn init(&self, request: Grpc<InitRequest>) -> Result<Answer<InitResponse>, Status> {
        let request = request.into_inner();
        let uri = PluginUri::new(request.kind, request.id);
        let registration = self
            .0
            .registrations
            .iter()
            .find(|registration| registration.uri == uri)
            .ok_or_else(|| Status::not_found(format!("this library has no plugin {uri}")))?;
        let config = request
            .config
            .parse()
            .map_err(|error| Status::invalid_argument(format!("the configuration of {uri} is no TOML: {error}")))?;
        let context = InitContext {
            uri: uri.clone(),
            root_path: PathBuf::from(request.root),
            state_path: PathBuf::from(request.state),
            config,
            address: request.address,
            ttrpc_address: request.ttrpc_address,
            timeouts: request.timeouts.into_iter().collect(),
            stream_processors: request.stream_processors.into_iter().map(Into::into).collect(),
            host: Host::new(Arc::new(Daemon(self.0.host.clone()))),
        };
        let instance = match registration.init(context).await {
            Ok(instance) => instance,
            Err(InitError::Skip(reason)) => {
                return Ok(Answer::new(InitResponse {
                    skip: Some(reason),
                    ..InitResponse::default()
                }));
            }
            Err(InitError::Failed(error)) => return Err(error.into()),
        };
        let response = InitResponse {
            skip: None,
            contracts: rpc::contract_names(&instance.contracts)
                .into_iter()
                .map(str::to_owned)
                .collect(),
            grpc_services: instance.grpc.names().map(str::to_owned).collect(),
            exports: instance.exports.into_iter().collect(),
            capabilities: instance.capabilities,
        };
        let mut services = rpc::serve_offered(&instance.contracts)?;
        services.merge(instance.grpc);
        self.running().insert(
            uri.to_string(),
            Running {
                services,
                shutdown: instance.shutdown,
            },
        );
        Ok(Answer::new(response))
    }

    async fn reconfigure(&self, _: Grpc<ReconfigureRequest>) -> Result<Answer<ReconfigureResponse>, Status> {
        Err(Status::unimplemented(
            "this library's SDK cannot change a running plugin: restart the daemon",
        ))
    }

    async fn shutdown(&self, request: Grpc<ShutdownRequest>) -> Result<Answer<ShutdownResponse>, Status> {
        let request = request.into_inner();
        let uri = PluginUri::new(request.kind, request.id).to_string();
        let running = self.running().remove(&uri);
        match running {
            Some(Running {
                shutdown: Some(shutdown),
                ..
            }) => shutdown().await,
            Some(_) => {}
            None => {
                return Err(Status::not_found(format!(
                    "plugin {uri} is not running in this library"
                )));
            }
        }
        Ok(Answer::new(ShutdownResponse {}))
    }

    async fn health(&self, _: Grpc<HealthRequest>) -> Result<Answer<HealthResponse>, Status> {
        Ok(Answer::new(HealthResponse {
            running: self.running().keys().cloned().collect(),
        }))
    }

    async fn metrics(&self, _: Grpc<MetricsRequest>) -> Result<Answer<MetricsResponse>, Status> {
        Ok(Answer::new(MetricsResponse { text: String::new() }))
    }
}

impl From<pb::StreamProcessor> for StreamProcessor {
    fn from(processor: pb::StreamProcessor) -> Self {
        Self {
            id: processor.id,
            accepts: processor.accepts,
            returns: processor.returns,
            path: processor.path,
            args: processor.args,
            env: processor.env,
        }
    }
}

impl From<StreamProcessor> for pb::StreamProcessor {
    fn from(processor: StreamProcessor) -> Self {
        Self {
            id: processor.id,
            accepts: processor.accepts,
            returns: processor.returns,
            path: processor.path,
            args: processor.args,
            env: processor.env,
        }
    }
}

/// The daemon, from inside a library.
struct Daemon(Channel);

#[async_trait]
impl HostApi for Daemon {
    fn daemon(&self) -> Reach {
        // The daemon as a whole has snapshotters by name; a single one is some plugin's.
        let names = rpc::CONTRACT_NAMES.iter().filter(|name| **name != "snapshotter");
        Reach::far(self.0.clone(), names.map(|name| (*name).to_owned()).collect(), "")
    }

    async fn plugins(&self, kind: &str) -> Result<Vec<HostPlugin>> {
        let mut client = host::host_client::HostClient::new(self.0.clone());
        let answer = client
            .plugins(host::PluginsRequest { kind: kind.to_owned() })
            .await?
            .into_inner();
        let plugins = answer.plugins.into_iter().map(|plugin| {
            let uri = PluginUri::new(plugin.kind, plugin.id);
            let contracts = Reach::far(self.0.to_plugin(&uri), plugin.contracts, &uri.id);
            HostPlugin {
                uri,
                contracts,
                capabilities: plugin.capabilities,
                exports: plugin.exports.into_iter().collect(),
            }
        });
        Ok(plugins.collect())
    }
}
