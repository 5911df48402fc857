//! The typed configuration: what every version of the file becomes. Field names are the file's (version 2).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Table;

use crate::error::ConfigError;
use crate::version::{LATEST_VERSION, canonical_uri};
use crate::{GoDuration, PluginSelector, PluginTables};

/// Where containerd keeps its configuration.
pub const DEFAULT_CONFIG_PATH: &str = "/etc/containerd/config.toml";
/// Persistent data.
pub const DEFAULT_ROOT: &str = "/var/lib/containerd";
/// Transient data.
pub const DEFAULT_STATE: &str = "/run/containerd";
/// The gRPC socket; ttrpc's is the same with `.ttrpc`.
pub const DEFAULT_ADDRESS: &str = "/run/containerd/containerd.sock";
/// What containerd 2.3 prints for `imports`.
pub const DEFAULT_IMPORTS: &str = "/etc/containerd/conf.d/*.toml";
/// 16 MiB, each way.
pub const DEFAULT_MAX_MESSAGE_SIZE: i64 = 16 << 20;

/// The whole configuration in its internal form, the same whatever version was written.
///
/// Listeners are always here in `grpc`, `ttrpc`, `debug` and `metrics` (never under `plugins`, where version 4 has
/// them), and plugin tables are keyed by the newest URI of their plugin: use [`Config::plugin`] to look one up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The version the main file declared; [`LATEST_VERSION`] without a file.
    pub version: i64,
    /// Persistent data.
    pub root: PathBuf,
    /// Transient data, gone after a boot.
    pub state: PathBuf,
    /// Temporary files; empty means the system's place.
    pub temp: PathBuf,
    /// The one directory whose `*.so` are loaded; empty means the installation's own.
    pub plugin_dir: PathBuf,
    /// The daemon's OOM score; 0 leaves it.
    pub oom_score: i64,
    /// The files that were merged in after the main one.
    pub imports: Vec<String>,
    /// Plugins that are not initialised.
    pub disabled_plugins: Vec<PluginSelector>,
    /// Plugins without which the daemon does not start.
    pub required_plugins: Vec<PluginSelector>,
    /// The cgroup the daemon joins.
    pub cgroup: CgroupConfig,
    /// Logs and the debug socket.
    pub debug: DebugConfig,
    /// The gRPC listeners.
    pub grpc: GrpcConfig,
    /// The metrics listener.
    pub metrics: MetricsConfig,
    /// Plugin tables as written, by newest URI.
    pub plugins: PluginTables,
    /// Plugins served on a socket, by id.
    pub proxy_plugins: BTreeMap<String, ProxyPlugin>,
    /// Orlop's own: libraries outside `plugin_dir`, or with conditions, by name.
    pub dynamic_plugins: BTreeMap<String, DynamicPlugin>,
    /// Programs that turn one layer media type into another, by id.
    pub stream_processors: BTreeMap<String, StreamProcessor>,
    /// Time limits by name.
    pub timeouts: BTreeMap<String, GoDuration>,
    /// The ttrpc listener.
    pub ttrpc: TtrpcConfig,
}

/// `[cgroup]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CgroupConfig {
    /// Path of the cgroup; empty leaves the daemon where it is.
    pub path: String,
}

/// `[debug]`: the debug socket and the logs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DebugConfig {
    /// Unix socket; empty means none.
    pub address: String,
    /// Owner of the socket.
    pub uid: i64,
    /// Group of the socket.
    pub gid: i64,
    /// `trace`, `debug`, `info`, `warn`, `error`, `fatal`, `panic`; empty is `info`.
    pub level: String,
    /// `text` or `json`; empty is `text`.
    pub format: String,
    /// Put the trace id into log lines (from containerd 2.2 on).
    pub log_trace_id: bool,
}

/// `[grpc]`: the unix socket, and a TCP listener when `tcp_address` is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GrpcConfig {
    /// Path of the unix socket.
    pub address: String,
    /// `host:port`; empty means no TCP listener.
    pub tcp_address: String,
    /// Certificate authority that clients must be signed by.
    pub tcp_tls_ca: String,
    /// Certificate of the listener; with it the listener speaks TLS.
    pub tcp_tls_cert: String,
    /// Its key.
    pub tcp_tls_key: String,
    /// The common name a client's certificate must carry (from containerd 2.2 on).
    pub tcp_tls_common_name: String,
    /// Owner of the socket.
    pub uid: i64,
    /// Group of the socket.
    pub gid: i64,
    /// Largest message taken, in bytes.
    pub max_recv_message_size: i64,
    /// Largest message sent, in bytes.
    pub max_send_message_size: i64,
    /// The TCP listener's own limit; only version 4 can set it apart. `None`: as the socket's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_max_recv_message_size: Option<i64>,
    /// The TCP listener's own limit; only version 4 can set it apart. `None`: as the socket's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_max_send_message_size: Option<i64>,
}

/// `[ttrpc]`: the listener shims report to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TtrpcConfig {
    /// Unix socket; empty is derived: see [`Config::ttrpc_listener`].
    pub address: String,
    /// Owner of the socket.
    pub uid: i64,
    /// Group of the socket.
    pub gid: i64,
}

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricsConfig {
    /// `host:port` of the HTTP listener; empty means none.
    pub address: String,
    /// Time each gRPC call in a histogram.
    pub grpc_histogram: bool,
}

/// `[proxy_plugins.NAME]`: a plugin somebody serves on a socket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyPlugin {
    /// `snapshot`, `content`, `sandbox`, `diff`; Orlop's own: `image-verifier`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its socket.
    pub address: String,
    /// The platform it serves, as `linux/amd64`; empty is this one.
    pub platform: String,
    /// What introspection says it exports.
    pub exports: BTreeMap<String, String>,
    /// What introspection says it can do.
    pub capabilities: Vec<String>,
}

/// `[dynamic_plugins.NAME]`: Orlop's own, a library with its conditions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DynamicPlugin {
    /// The library. It wins over one in `plugin_dir` that claims the same type and id.
    pub path: PathBuf,
    /// Where it runs.
    pub isolation: Isolation,
    /// Its expected digest, 64 hexadecimal digits; empty means any.
    pub sha256: String,
}

/// Where a dynamic plugin runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// In the daemon.
    #[default]
    None,
    /// In a process of its own.
    Process,
}

/// `[stream_processors.ID]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamProcessor {
    /// Media types it takes.
    pub accepts: Vec<String>,
    /// The media type it makes of them.
    pub returns: String,
    /// The program, or its name on `PATH`.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, `KEY=value`.
    pub env: Vec<String>,
}

// === impl GrpcConfig ===

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            address: DEFAULT_ADDRESS.into(),
            tcp_address: String::new(),
            tcp_tls_ca: String::new(),
            tcp_tls_cert: String::new(),
            tcp_tls_key: String::new(),
            tcp_tls_common_name: String::new(),
            uid: 0,
            gid: 0,
            max_recv_message_size: DEFAULT_MAX_MESSAGE_SIZE,
            max_send_message_size: DEFAULT_MAX_MESSAGE_SIZE,
            tcp_max_recv_message_size: None,
            tcp_max_send_message_size: None,
        }
    }
}

// === impl Config ===

impl Default for Config {
    /// What containerd runs on without a file.
    fn default() -> Self {
        Self {
            version: LATEST_VERSION,
            root: DEFAULT_ROOT.into(),
            state: DEFAULT_STATE.into(),
            temp: PathBuf::new(),
            plugin_dir: PathBuf::new(),
            oom_score: 0,
            imports: Vec::new(),
            disabled_plugins: Vec::new(),
            required_plugins: Vec::new(),
            cgroup: CgroupConfig::default(),
            debug: DebugConfig::default(),
            grpc: GrpcConfig::default(),
            metrics: MetricsConfig::default(),
            plugins: PluginTables::new(),
            proxy_plugins: BTreeMap::new(),
            dynamic_plugins: BTreeMap::new(),
            stream_processors: default_stream_processors(),
            timeouts: default_timeouts(),
            ttrpc: TtrpcConfig::default(),
        }
    }
}

impl Config {
    /// What the file sets for the plugin with this URI, by its old or its new name. Lay it over the plugin's
    /// defaults with [`overlay`](crate::overlay).
    pub fn plugin(&self, uri: &str) -> Option<&Table> {
        self.plugins.get(canonical_uri(uri))
    }

    /// The ttrpc listener with its address worked out: unset, it is the gRPC socket with `.ttrpc`, owned alike.
    pub fn ttrpc_listener(&self) -> TtrpcConfig {
        if !self.ttrpc.address.is_empty() {
            return self.ttrpc.clone();
        }
        let or = |own: i64, grpc: i64| if own == 0 { grpc } else { own };
        TtrpcConfig {
            address: format!("{}.ttrpc", self.grpc.address),
            uid: or(self.ttrpc.uid, self.grpc.uid),
            gid: or(self.ttrpc.gid, self.grpc.gid),
        }
    }

    /// Can a daemon run on it? To be called after command line flags were laid over the file.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (key, path) in [("root", &self.root), ("state", &self.state)] {
            if !path.is_absolute() {
                return Err(ConfigError::Unusable(format!(
                    "{key} must be an absolute path, not {:?}",
                    path.display().to_string()
                )));
            }
        }
        if self.root == self.state {
            return Err(ConfigError::Unusable(format!(
                "root and state must be different directories, both are {}",
                self.root.display()
            )));
        }
        if self.grpc.address.is_empty() {
            return Err(ConfigError::Unusable("grpc.address must not be empty".into()));
        }
        Ok(())
    }
}

/// containerd's time limits with its defaults.
fn default_timeouts() -> BTreeMap<String, GoDuration> {
    const SECOND: i64 = 1_000_000_000;
    [
        ("bolt.open", 0),
        ("metrics.shimstats", 2),
        ("shim.cleanup", 5),
        ("shim.load", 5),
        ("shim.shutdown", 3),
        ("task.state", 2),
    ]
    .into_iter()
    .map(|(name, seconds)| {
        (
            format!("io.containerd.timeout.{name}"),
            GoDuration::from_nanos(seconds * SECOND),
        )
    })
    .collect()
}

/// The two decryption programs containerd ships with.
fn default_stream_processors() -> BTreeMap<String, StreamProcessor> {
    [("tar", "tar"), ("tar.gzip", "tar+gzip")]
        .into_iter()
        .map(|(id, media_type)| {
            let layer = format!("application/vnd.oci.image.layer.v1.{media_type}");
            let processor = StreamProcessor {
                accepts: vec![format!("{layer}+encrypted")],
                returns: layer,
                path: "ctd-decoder".into(),
                args: vec!["--decryption-keys-path".into(), "/etc/containerd/ocicrypt/keys".into()],
                env: vec!["OCICRYPT_KEYPROVIDER_CONFIG=/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf".into()],
            };
            (format!("io.containerd.ocicrypt.decoder.v1.{id}"), processor)
        })
        .collect()
}
