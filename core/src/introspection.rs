//! What the daemon says of itself: the `Introspection` and `Version` services.

use std::path::Path;
use std::sync::Arc;

use containerd_client::google::rpc;
use containerd_client::services::v1::{
    Plugin, PluginInfoRequest, PluginInfoResponse, PluginsRequest, PluginsResponse, ServerResponse, VersionResponse,
};
use containerd_client::types::Platform;
use orlop_plugin::api::introspection_server::Introspection;
use orlop_plugin::api::version_server::Version;
use orlop_plugin::filter::Filters;
use orlop_plugin::{Error, PluginUri};
use tonic::{Code, Request, Response, Status};

use crate::host::{Registry, Row, State};

/// Lists plugins, and tells who the daemon is.
pub struct Introspect {
    registry: Arc<Registry>,
    uuid: String,
}

// === impl Introspect ===

impl Introspect {
    /// Introspection of `registry` by a daemon that is called `uuid`.
    pub fn new(registry: Arc<Registry>, uuid: String) -> Self {
        Self { registry, uuid }
    }
}

#[tonic::async_trait]
impl Introspection for Introspect {
    async fn plugins(&self, request: Request<PluginsRequest>) -> Result<Response<PluginsResponse>, Status> {
        let filters = Filters::parse(&request.into_inner().filters)?;
        let plugins = self
            .registry
            .rows()
            .into_iter()
            .filter(|row| filters.matches(|path| field(row, path)))
            .map(to_plugin)
            .collect();
        Ok(Response::new(PluginsResponse { plugins }))
    }

    async fn server(&self, _: Request<()>) -> Result<Response<ServerResponse>, Status> {
        Ok(Response::new(ServerResponse {
            uuid: self.uuid.clone(),
            pid: u64::from(std::process::id()),
            pidns: pid_namespace(),
            deprecations: Vec::new(),
        }))
    }

    async fn plugin_info(&self, request: Request<PluginInfoRequest>) -> Result<Response<PluginInfoResponse>, Status> {
        let request = request.into_inner();
        let uri = PluginUri::new(request.r#type, request.id);
        let row = self
            .registry
            .row(&uri)
            .ok_or_else(|| Status::not_found(format!("plugin {uri} is not registered: see `ctr plugins ls`")))?;
        if request.options.is_some() {
            return Err(Status::unimplemented(format!("plugin {uri} takes no info options")));
        }
        Ok(Response::new(PluginInfoResponse {
            plugin: Some(to_plugin(row)),
            extra: None,
        }))
    }
}

/// The fields that containerd's filters know of a plugin.
fn field(row: &Row, path: &[&str]) -> Option<String> {
    match path {
        ["type"] => Some(row.uri.kind.clone()),
        ["id"] => Some(row.uri.id.clone()),
        // containerd leaves platforms to be asked for as a list, and never answers.
        ["capabilities", ..] => Some(row.capabilities.join(",")).filter(|all| !all.is_empty()),
        _ => None,
    }
}

fn to_plugin(row: Row) -> Plugin {
    let init_err = match row.status {
        State::Ok => None,
        State::Waiting => Some((Code::Unavailable, "the plugin is still starting".to_owned())),
        State::Skip(reason) => Some((Code::Unimplemented, reason)),
        State::Error(reason) => Some((Code::Unknown, reason)),
    };
    Plugin {
        r#type: row.uri.kind,
        id: row.uri.id,
        requires: row.requires,
        platforms: row.platforms.iter().map(|platform| to_platform(platform)).collect(),
        exports: row.exports.into_iter().collect(),
        capabilities: row.capabilities,
        init_err: init_err.map(|(code, message)| rpc::Status {
            code: code as i32,
            message,
            details: Vec::new(),
        }),
    }
}

fn to_platform(platform: &str) -> Platform {
    let mut parts = platform.splitn(3, '/').map(str::to_owned);
    Platform {
        os: parts.next().unwrap_or_default(),
        architecture: parts.next().unwrap_or_default(),
        variant: parts.next().unwrap_or_default(),
        ..Platform::default()
    }
}

/// The inode of the PID namespace, as `/proc/self/ns/pid` names it: `pid:[4026531836]`.
fn pid_namespace() -> u64 {
    std::fs::read_link("/proc/self/ns/pid")
        .ok()
        .and_then(|link| link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok())
        .unwrap_or_default()
}

/// The uuid of the daemon that owns `root`, made when it starts there for the first time.
pub fn persistent_uuid(root: &Path) -> Result<String, Error> {
    use std::io::Write;
    let directory = root.join("io.containerd.grpc.v1.introspection");
    let path = directory.join("uuid");
    let failed = |doing: &str, error: &std::io::Error| Error::io(format!("{doing} {}", path.display()), error);
    match std::fs::read_to_string(&path) {
        Ok(uuid) if uuid::Uuid::parse_str(uuid.trim()).is_ok() => return Ok(uuid.trim().to_owned()),
        Ok(_) => tracing::warn!(path = %path.display(), "the daemon's uuid was unreadable: a new one is made"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read the daemon's uuid", &error)),
    }
    let uuid = uuid::Uuid::new_v4().to_string();
    std::fs::create_dir_all(&directory).map_err(|error| failed("make the directory of", &error))?;
    // Written beside and renamed: a crash leaves none or a whole one.
    let beside = directory.join(".uuid");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(uuid.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)?;
        std::fs::File::open(&directory)?.sync_all()
    };
    write().map_err(|error| failed("write the daemon's uuid to", &error))?;
    Ok(uuid)
}

/// The `Version` service.
pub struct Versions;

#[tonic::async_trait]
impl Version for Versions {
    async fn version(&self, _: Request<()>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: crate::daemon::VERSION.to_owned(),
            revision: crate::daemon::REVISION.to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_survives_and_a_damaged_one_is_replaced() {
        let root = tempfile::tempdir().expect("a directory");
        let first = persistent_uuid(root.path()).expect("a uuid");
        assert_eq!(persistent_uuid(root.path()).expect("a uuid"), first);
        std::fs::write(root.path().join("io.containerd.grpc.v1.introspection/uuid"), "damaged").expect("written");
        let second = persistent_uuid(root.path()).expect("a uuid");
        assert_ne!(first, second);
        assert_eq!(persistent_uuid(root.path()).expect("a uuid"), second);
    }

    #[test]
    fn the_pid_namespace_is_read() {
        assert!(pid_namespace() > 0);
    }
}
