//! What a plugin says of itself, what it is given to start with, and what it gives back.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;

use crate::contract::{
    Applier, Collector, Comparer, Containers, ContentStore, Contracts, Events, GarbageCollector, Images, Leases,
    Namespaces, Snapshotter, Snapshotters, Streaming, Tasks, Transfer,
};
use crate::rpc::Reach;
use crate::{Error, Result, Services};

/// The plugin types that containerd knows and Orlop has.
pub mod kind {
    /// Stores blobs.
    pub const CONTENT: &str = "io.containerd.content.v1";
    /// Namespaced records.
    pub const METADATA: &str = "io.containerd.metadata.v1";
    /// Layers of file systems.
    pub const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
    /// Applies and makes layers.
    pub const DIFFER: &str = "io.containerd.differ.v1";
    /// The events exchange.
    pub const EVENT: &str = "io.containerd.event.v1";
    /// Leases.
    pub const LEASE: &str = "io.containerd.lease.v1";
    /// Garbage collection.
    pub const GC: &str = "io.containerd.gc.v1";
    /// Services as other plugins see them.
    pub const SERVICE: &str = "io.containerd.service.v1";
    /// Services as clients see them.
    pub const GRPC: &str = "io.containerd.grpc.v1";
    /// Named streams.
    pub const STREAMING: &str = "io.containerd.streaming.v1";
    /// Moves images.
    pub const TRANSFER: &str = "io.containerd.transfer.v1";
    /// Judges images before they are pulled.
    pub const IMAGE_VERIFIER: &str = "io.containerd.image-verifier.v1";
    /// Runs tasks.
    pub const RUNTIME: &str = "io.containerd.runtime.v2";
    /// The Node Resource Interface.
    pub const NRI: &str = "io.containerd.nri.v1";
    /// Parts of the daemon.
    pub const INTERNAL: &str = "io.containerd.internal.v1";
}

/// `type.id`: what a plugin is called, and its key under `[plugins]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginUri {
    /// The type, `io.containerd.snapshotter.v1`.
    pub kind: String,
    /// The id, unique in the type: `overlayfs`.
    pub id: String,
}

impl PluginUri {
    /// The URI of `id` of type `kind`.
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            id: id.into(),
        }
    }
}

impl fmt::Display for PluginUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind, self.id)
    }
}

impl FromStr for PluginUri {
    type Err = Error;

    /// The id is what follows the version: the last component that reads `vN`.
    fn from_str(uri: &str) -> Result<Self> {
        let mut end = 0;
        let mut split = None;
        for part in uri.split('.') {
            end += part.len() + 1;
            let version = part
                .strip_prefix('v')
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
            if version && end < uri.len() {
                split = Some(end);
                break;
            }
        }
        let at = split.ok_or_else(|| {
            Error::invalid_argument(format!(
                "{uri:?} is no plugin URI: it must read TYPE.vN.ID, such as io.containerd.snapshotter.v1.overlayfs"
            ))
        })?;
        Ok(Self::new(&uri[..at - 1], &uri[at..]))
    }
}

type InitFn = Arc<dyn Fn(InitContext) -> BoxFuture<'static, Result<Instance, InitError>> + Send + Sync>;

/// What a plugin says of itself, before anything of it runs.
#[derive(Clone)]
pub struct Registration {
    /// Type and id.
    pub uri: PluginUri,
    /// The types whose plugins must be initialised before; `*` for all others.
    pub requires: Vec<String>,
    /// Feature switches that clients look for.
    pub capabilities: Vec<String>,
    /// Platforms it serves, `linux/amd64`; none where that has no meaning.
    pub platforms: Vec<String>,
    /// The default of its table under `[plugins]`.
    pub config: toml::Table,
    init: InitFn,
}

// === impl Registration ===

impl Registration {
    /// A plugin of type `kind` called `id` that starts with `init`.
    pub fn new<F, R>(kind: &str, id: &str, init: F) -> Self
    where
        F: Fn(InitContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Instance, InitError>> + Send + 'static,
    {
        Self {
            uri: PluginUri::new(kind, id),
            requires: Vec::new(),
            capabilities: Vec::new(),
            platforms: Vec::new(),
            config: toml::Table::new(),
            init: Arc::new(move |context| Box::pin(init(context))),
        }
    }

    /// Plugins of these types come first.
    pub fn requires<'a>(mut self, kinds: impl IntoIterator<Item = &'a str>) -> Self {
        self.requires = kinds.into_iter().map(str::to_owned).collect();
        self
    }

    /// Clients may look for these.
    pub fn capabilities<'a>(mut self, capabilities: impl IntoIterator<Item = &'a str>) -> Self {
        self.capabilities = capabilities.into_iter().map(str::to_owned).collect();
        self
    }

    /// It serves the platform the daemon runs on.
    pub fn host_platform(mut self) -> Self {
        self.platforms = vec![host_platform()];
        self
    }

    /// The defaults of its configuration: whatever serialises to a TOML table.
    ///
    /// # Panics
    /// When `defaults` does not serialise to a table: a mistake of the plugin's author that its first test shows.
    pub fn config<C: serde::Serialize>(mut self, defaults: &C) -> Self {
        match toml::Table::try_from(defaults) {
            Ok(table) => self.config = table,
            Err(error) => panic!("the default configuration of {} is no TOML table: {error}", self.uri),
        }
        self
    }

    /// Starts it.
    pub async fn init(&self, context: InitContext) -> Result<Instance, InitError> {
        (self.init)(context).await
    }
}

/// The platform of this machine in containerd's form: `linux/amd64`, `linux/arm64`.
pub fn host_platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    };
    format!("linux/{arch}")
}

/// Why a plugin did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitError {
    /// It cannot work on this machine, or is switched off: no fault.
    Skip(String),
    /// It should work and does not.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for InitError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // containerd's words: its older clients tell a skip from an error by them.
            Self::Skip(reason) => write!(f, "{reason}: skip plugin"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// An entry of `[stream_processors]`: a program that makes another media type of a layer's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamProcessor {
    /// Its id; a client's payload for it (such as keys) goes by this name.
    pub id: String,
    /// The media types it takes.
    pub accepts: Vec<String>,
    /// The media type it makes of them.
    pub returns: String,
    /// The program, or its name on `PATH`.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment beside the daemon's, `KEY=value`.
    pub env: Vec<String>,
}

/// What a plugin starts with.
#[derive(Clone)]
pub struct InitContext {
    /// Its own URI.
    pub uri: PluginUri,
    /// `ROOT/TYPE.ID`: what survives a reboot. Made by [`InitContext::root`].
    pub root_path: PathBuf,
    /// `STATE/TYPE.ID`: what does not. Made by [`InitContext::state`].
    pub state_path: PathBuf,
    /// Its defaults with the user's table laid over them.
    pub config: toml::Table,
    /// The daemon's gRPC socket.
    pub address: String,
    /// The daemon's ttrpc socket.
    pub ttrpc_address: String,
    /// `[timeouts]` by name, in Go's notation (`5s`).
    pub timeouts: BTreeMap<String, String>,
    /// `[stream_processors]`, by id.
    pub stream_processors: Vec<StreamProcessor>,
    /// The way to the rest of the daemon.
    pub host: Host,
}

// === impl InitContext ===

impl InitContext {
    /// Its directory for what survives a reboot, made now if it is not there.
    pub fn root(&self) -> Result<&Path> {
        private_dir(&self.root_path)
    }

    /// Its directory for what does not survive a reboot, made now if it is not there.
    pub fn state(&self) -> Result<&Path> {
        private_dir(&self.state_path)
    }

    /// Its configuration, typed. Unknown keys are the business of `config check`, wrong types are an error here.
    pub fn config<C: DeserializeOwned>(&self) -> Result<C> {
        self.config.clone().try_into().map_err(|error| {
            Error::invalid_argument(format!(
                "[plugins.{:?}]: {}",
                self.uri.to_string(),
                error.to_string().trim()
            ))
        })
    }
}

/// Makes a directory that others may pass through but not list (CVE-2021-41103).
fn private_dir(path: &Path) -> Result<&Path> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|error| Error::io(format!("make the plugin's directory {}", path.display()), &error))?;
    Ok(path)
}

/// What a plugin gives back once it runs.
#[derive(Default)]
pub struct Instance {
    /// What it can do for others.
    pub contracts: Contracts,
    /// Services it adds to the daemon's public socket.
    pub grpc: Services,
    /// Facts for `ctr plugins ls -d`: `root`, …
    pub exports: BTreeMap<String, String>,
    /// Capabilities found at start, beside those of the registration.
    pub capabilities: Vec<String>,
    /// Called once, before the daemon ends or the plugin is replaced.
    pub shutdown: Option<Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>>,
}

// === impl Instance ===

impl Instance {
    /// An instance that offers nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers these contracts.
    pub fn with_contracts(mut self, contracts: Contracts) -> Self {
        self.contracts = contracts;
        self
    }

    /// Serves these on the public socket.
    pub fn with_grpc(mut self, services: Services) -> Self {
        self.grpc.merge(services);
        self
    }

    /// Shows a fact.
    pub fn export(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.exports.insert(key.to_owned(), value.to_string());
        self
    }

    /// Does this before the end.
    pub fn on_shutdown<F, R>(mut self, f: F) -> Self
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.shutdown = Some(Box::new(move || Box::pin(f())));
        self
    }
}

/// Another plugin, as a plugin sees it.
#[derive(Clone)]
pub struct HostPlugin {
    /// Its URI.
    pub uri: PluginUri,
    /// What it offers.
    pub contracts: Reach,
    /// What it can do beyond that, as `ctr plugins ls -d` shows it.
    pub capabilities: Vec<String>,
    /// Its exports.
    pub exports: BTreeMap<String, String>,
}

/// How a [`Host`] answers: directly inside the daemon, over a channel in a library or another process.
#[async_trait]
pub trait HostApi: Send + Sync + 'static {
    /// What the daemon as a whole offers: content, images, containers, leases and snapshotters are the metadata store's (namespaced),
    /// the differ is the diff service's, events the exchange's.
    fn daemon(&self) -> Reach;
    /// The running plugins of one type, by id.
    async fn plugins(&self, kind: &str) -> Result<Vec<HostPlugin>>;
}

/// A plugin's way to the rest of the daemon.
#[derive(Clone)]
pub struct Host(Arc<dyn HostApi>);

macro_rules! daemon_contracts {
    ($($(#[$doc:meta])* $name:ident: $contract:ident, $what:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> Result<Arc<dyn $contract>> {
            self.0.daemon().$name().ok_or_else(|| missing($what))
        }
    )*};
}

fn missing(what: &str) -> Error {
    Error::unavailable(format!(
        "no running plugin offers {what}: see `ctr plugins ls` for the one that failed or is missing"
    ))
}

// === impl Host ===

impl Host {
    /// A host that answers through `api`.
    pub fn new(api: Arc<dyn HostApi>) -> Self {
        Self(api)
    }

    /// The running plugins of one type, by id.
    pub async fn plugins(&self, kind: &str) -> Result<Vec<HostPlugin>> {
        self.0.plugins(kind).await
    }

    daemon_contracts! {
        /// The namespaced content store.
        content: ContentStore, "content (io.containerd.metadata.v1.bolt)";
        /// The image store.
        images: Images, "images (io.containerd.metadata.v1.bolt)";
        /// The container store.
        containers: Containers, "containers (io.containerd.metadata.v1.bolt)";
        /// Leases.
        leases: Leases, "leases (io.containerd.lease.v1.manager)";
        /// Namespaces.
        namespaces: Namespaces, "namespaces (io.containerd.metadata.v1.bolt)";
        /// The namespaced snapshotters, by name.
        snapshotters: Snapshotters, "snapshotters (io.containerd.metadata.v1.bolt)";
        /// Events.
        events: Events, "events (io.containerd.event.v1.exchange)";
        /// Tasks.
        tasks: Tasks, "tasks (io.containerd.runtime.v2.task)";
        /// Transfers.
        transfer: Transfer, "transfers (io.containerd.transfer.v1.local)";
        /// Named streams.
        streaming: Streaming, "streams (io.containerd.streaming.v1.manager)";
        /// The garbage collection scheduler.
        gc: GarbageCollector, "a garbage collection scheduler (io.containerd.gc.v1.scheduler)";
        /// What collects garbage.
        collector: Collector, "garbage collection (io.containerd.metadata.v1.bolt)";
    }

    /// Applies layers.
    pub fn applier(&self) -> Result<Arc<dyn Applier>> {
        match self.0.daemon().differ() {
            Some(differ) => Ok(differ),
            None => Err(missing("a differ (io.containerd.service.v1.diff-service)")),
        }
    }

    /// Makes layers.
    pub fn comparer(&self) -> Result<Arc<dyn Comparer>> {
        match self.0.daemon().differ() {
            Some(differ) => Ok(differ),
            None => Err(missing("a differ (io.containerd.service.v1.diff-service)")),
        }
    }

    /// The namespaced snapshotter called `name`.
    pub fn snapshotter(&self, name: &str) -> Result<Arc<dyn Snapshotter>> {
        self.snapshotters()?.snapshotter(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_split_after_the_version() {
        let uri: PluginUri = "io.containerd.snapshotter.v1.overlayfs".parse().expect("valid");
        assert_eq!((uri.kind.as_str(), uri.id.as_str()), (kind::SNAPSHOTTER, "overlayfs"));
        let dotted: PluginUri = "io.containerd.snapshotter.v1.a.v2.b".parse().expect("valid");
        assert_eq!(dotted.id, "a.v2.b");
        for bad in [
            "overlayfs",
            "io.containerd.snapshotter.v1",
            "io.containerd.snapshotter.v1.",
            "",
        ] {
            assert!(bad.parse::<PluginUri>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_skip_reads_as_containerds_clients_expect() {
        assert!(InitError::Skip("no zfs".into()).to_string().ends_with("skip plugin"));
    }
}
