//! Libraries: from a file to registrations. A file is looked at, then its note is read, then it is opened; the first doubt ends it.
//!
//! ```text
//!   file ─ trusted? ─ sha256? ─ note? ─ dlopen ─ layout? ─ connect ─ describe ─▶ registrations
//!            └───────────┴────────┴───────┴─────────┴─────────┴─────────┴──────▶ an error row with the reason
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abi_stable::library::lib_header_from_path;
use abi_stable::std_types::{RErr, ROk};
use orlop_config::{Config, DynamicPlugin, Isolation};
use orlop_plugin::api::plugin::plugin_client::PluginClient;
use orlop_plugin::api::plugin::{DescribeRequest, Described, InitRequest, ShutdownRequest};
use orlop_plugin::channel::v1::PluginV1_Ref;
use orlop_plugin::channel::{Channel, dylib};
use orlop_plugin::{Error, InitContext, InitError, Instance, PluginUri, Registration, Services, rpc};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::{Found, note, trust};
use crate::host::{Registry, Source};
use crate::lifecycle::Loaded;

/// Loads every library the configuration means: those of `[dynamic_plugins]`, and `*.so` of the plugin directory.
pub async fn load(config: &Config, registry: &Arc<Registry>) -> Found {
    let mut found = Found::default();
    let mut candidates: BTreeMap<PathBuf, Option<DynamicPlugin>> = BTreeMap::new();
    for (name, entry) in &config.dynamic_plugins {
        if matches!(entry.isolation, Isolation::Process) {
            let source = Source::Library {
                path: entry.path.clone(),
                version: String::new(),
            };
            let reason = "isolation = \"process\" is not available in this release: use \"none\", or serve the plugin on a socket and name it in [proxy_plugins]";
            found.refuse(&[], name, &source, reason);
            continue;
        }
        candidates.insert(entry.path.clone(), Some(entry.clone()));
    }
    let directory = directory(config);
    match std::fs::read_dir(&directory) {
        Ok(entries) => {
            let libraries = entries.flatten().map(|entry| entry.path());
            for path in libraries.filter(|path| path.extension().is_some_and(|extension| extension == "so")) {
                candidates.entry(path).or_insert(None);
            }
        }
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "cannot read the plugin directory: no library is loaded from it");
        }
    }
    open_all(candidates, registry, &mut found).await;
    found
}

/// Loads one library, wherever it is.
pub async fn load_one(path: &Path, registry: &Arc<Registry>) -> Found {
    let mut found = Found::default();
    open_all(BTreeMap::from([(path.to_path_buf(), None)]), registry, &mut found).await;
    found
}

async fn open_all(candidates: BTreeMap<PathBuf, Option<DynamicPlugin>>, registry: &Arc<Registry>, found: &mut Found) {
    let mut opening = JoinSet::new();
    for (path, entry) in candidates {
        let registry = registry.clone();
        let runtime = Handle::current();
        opening.spawn_blocking(move || {
            let opened = open(&path, entry.as_ref(), &registry, &runtime);
            (path, entry.is_some(), opened)
        });
    }
    while let Some(opened) = opening.join_next().await {
        let (path, pinned, opened) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(%error, "opening a library panicked");
                continue;
            }
        };
        let name = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default();
        match opened {
            Ok(library) => library.describe(found, &name, pinned).await,
            Err(Refused {
                version,
                plugins,
                reason,
            }) => {
                found.refuse(&plugins, &name, &Source::Library { path, version }, &reason);
            }
        }
    }
    // In the order of their names, whatever order they were opened in.
    found.loaded.sort_by(|a, b| a.registration.uri.cmp(&b.registration.uri));
}

/// `plugin_dir`, or the installation's own directory: `../lib/orlop/plugins` beside the daemon, or, in a build tree, the daemon's.
fn directory(config: &Config) -> PathBuf {
    if !config.plugin_dir.as_os_str().is_empty() {
        return config.plugin_dir.clone();
    }
    let binary = std::env::current_exe().unwrap_or_default();
    let beside = binary.parent().unwrap_or(Path::new("/"));
    let installed = beside.join("../lib/orlop/plugins");
    if installed.is_dir() {
        installed
    } else {
        beside.to_path_buf()
    }
}

struct Refused {
    version: String,
    plugins: Vec<String>,
    reason: String,
}

struct Library {
    path: PathBuf,
    version: String,
    channel: Channel,
}

fn open(
    path: &Path,
    entry: Option<&DynamicPlugin>,
    registry: &Arc<Registry>,
    runtime: &Handle,
) -> Result<Library, Refused> {
    let unknown = |reason: String| Refused {
        version: String::new(),
        plugins: Vec::new(),
        reason,
    };
    let mut file = File::open(path).map_err(|error| unknown(format!("it cannot be opened: {error}")))?;
    let metadata = file.metadata().map_err(|error| unknown(error.to_string()))?;
    trust::check(path, &metadata).map_err(unknown)?;
    if let Some(pin) = entry.map(|entry| entry.sha256.as_str()).filter(|pin| !pin.is_empty()) {
        let mut hasher = Sha256::new();
        std::io::copy(&mut file, &mut hasher).map_err(|error| unknown(format!("it cannot be read: {error}")))?;
        let actual = orlop_plugin::contract::Digest::from_sha256(hasher.finalize());
        if actual.hex() != pin.trim_start_matches("sha256:") {
            return Err(unknown(format!(
                "its sha256 is {}, [dynamic_plugins] wants {pin}",
                actual.hex()
            )));
        }
    }
    let note = note::read(&file).map_err(unknown)?;
    let refused = |reason: String| Refused {
        version: note.sdk.clone(),
        plugins: note.plugins.clone(),
        reason,
    };
    let header = lib_header_from_path(path).map_err(|error| refused(format!("it cannot be loaded: {error}")))?;
    let root = header
        .init_root_module::<PluginV1_Ref>()
        .map_err(|error| refused(format!("its plugin ABI does not fit this daemon's: {error}")))?;
    let host = registry.host_channel(crate::host::host_services(registry));
    let name: Arc<str> = path.display().to_string().into();
    match root.connect()(dylib::serve(host, runtime.clone())) {
        ROk(far) => {
            let channel = Channel::new(dylib::Dylib::new(far, runtime.clone(), name));
            Ok(Library {
                path: path.to_path_buf(),
                version: note.sdk,
                channel,
            })
        }
        RErr(reason) => Err(refused(format!("it does not connect: {reason}"))),
    }
}

// === impl Library ===

impl Library {
    async fn describe(self, found: &mut Found, name: &str, pinned: bool) {
        let source = Source::Library {
            path: self.path,
            version: self.version,
        };
        match PluginClient::new(self.channel.clone())
            .describe(DescribeRequest {})
            .await
        {
            Ok(answer) => {
                for described in answer.into_inner().registrations {
                    match register(described, &self.channel) {
                        Ok(registration) => {
                            found.loaded.push(Loaded {
                                registration,
                                source: source.clone(),
                                pinned,
                            });
                        }
                        Err(reason) => found.refuse(&[], name, &source, &reason),
                    }
                }
            }
            Err(status) => found.refuse(
                &[],
                name,
                &source,
                &format!("it does not describe itself: {}", status.message()),
            ),
        }
    }
}

fn register(described: Described, channel: &Channel) -> Result<Registration, String> {
    let uri = PluginUri::new(described.kind, described.id);
    let config = described
        .config
        .parse()
        .map_err(|error| format!("the default configuration of {uri} is no TOML: {error}"))?;
    let channel = channel.clone();
    let mut registration = Registration::new(&uri.kind, &uri.id, move |context| init(channel.clone(), context));
    registration.requires = described.requires;
    registration.capabilities = described.capabilities;
    registration.platforms = described.platforms;
    registration.config = config;
    Ok(registration)
}

async fn init(channel: Channel, context: InitContext) -> Result<Instance, InitError> {
    let uri = context.uri;
    let path_text = |path: PathBuf| path.display().to_string();
    let answer = PluginClient::new(channel.clone())
        .init(InitRequest {
            kind: uri.kind.clone(),
            id: uri.id.clone(),
            root: path_text(context.root_path),
            state: path_text(context.state_path),
            config: context.config.to_string(),
            address: context.address,
            ttrpc_address: context.ttrpc_address,
            timeouts: context.timeouts.into_iter().collect(),
            stream_processors: context.stream_processors.into_iter().map(Into::into).collect(),
        })
        .await
        .map_err(Error::from)?
        .into_inner();
    if let Some(reason) = answer.skip {
        return Err(InitError::Skip(reason));
    }
    let offered: Vec<&str> = answer.contracts.iter().map(String::as_str).collect();
    let to_plugin = channel.to_plugin(&uri);
    let mut grpc = Services::new();
    for service in answer.grpc_services {
        grpc = grpc.with_named(service, Forward(to_plugin.clone()));
    }
    let mut instance = Instance::new()
        .with_contracts(rpc::connect_all(to_plugin, &offered, &uri.id))
        .with_grpc(grpc)
        .on_shutdown(move || async move {
            let request = ShutdownRequest {
                kind: uri.kind.clone(),
                id: uri.id.clone(),
            };
            if let Err(status) = PluginClient::new(channel).shutdown(request).await {
                tracing::warn!(plugin = %uri, reason = status.message(), "a plugin did not end well");
            }
        });
    instance.exports.extend(answer.exports);
    instance.capabilities = answer.capabilities;
    Ok(instance)
}

/// A service of a library on the daemon's public socket.
#[derive(Clone)]
struct Forward(Channel);

impl tower::Service<orlop_plugin::channel::Request> for Forward {
    type Response = orlop_plugin::channel::Response;
    type Error = std::convert::Infallible;
    type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: orlop_plugin::channel::Request) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            Ok(answer
                .await
                .unwrap_or_else(|status| orlop_plugin::services::status_response(&status)))
        })
    }
}
