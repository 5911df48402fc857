//! Starting the differ, and mounts to give it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use orlop_plugin::contract::{Contracts, Ctx, Descriptor, Differ, Digest, Mount, Namespace, async_trait};
use orlop_plugin::registration::StreamProcessor;
use orlop_plugin::{Host, HostApi, HostPlugin, InitContext, Reach, Result};

use crate::store::Store;

struct Daemon(Store);

#[async_trait]
impl HostApi for Daemon {
    fn daemon(&self) -> Reach {
        Contracts::default().with_content(Arc::new(self.0.clone())).into()
    }

    async fn plugins(&self, _: &str) -> Result<Vec<HostPlugin>> {
        Ok(Vec::new())
    }
}

/// The differ over `store`, started as the daemon starts it.
pub(crate) async fn differ(store: &Store) -> Arc<dyn Differ> {
    differ_with(store, Vec::new()).await
}

/// The same with stream processors.
pub(crate) async fn differ_with(store: &Store, stream_processors: Vec<StreamProcessor>) -> Arc<dyn Differ> {
    let registration = orlop_differ_walking::registrations().remove(0);
    assert_eq!(registration.uri.to_string(), "io.containerd.differ.v1.walking");
    assert_eq!(registration.requires, ["io.containerd.metadata.v1"]);
    let context = InitContext {
        uri: registration.uri.clone(),
        root_path: "/nonexistent".into(),
        state_path: "/nonexistent".into(),
        config: registration.config.clone(),
        address: String::new(),
        ttrpc_address: String::new(),
        timeouts: BTreeMap::new(),
        stream_processors,
        host: Host::new(Arc::new(Daemon(store.clone()))),
    };
    let instance = registration.init(context).await.expect("it starts");
    instance.contracts.differ.expect("a differ")
}

pub(crate) fn ctx() -> Ctx {
    Ctx::new(Namespace::new("default").expect("valid"))
}

pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

pub(crate) fn bind(path: &Path, options: &str) -> Vec<Mount> {
    vec![Mount {
        kind: "bind".into(),
        source: path.display().to_string(),
        target: String::new(),
        options: options.split(',').map(str::to_owned).collect(),
    }]
}

/// `work` and `upper` of `root` over `lower`.
pub(crate) fn overlay(root: &Path, lower: &Path) -> Vec<Mount> {
    for name in ["upper", "work"] {
        std::fs::create_dir_all(root.join(name)).expect("made");
    }
    vec![Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            "index=off".into(),
            format!("workdir={}", root.join("work").display()),
            format!("upperdir={}", root.join("upper").display()),
            format!("lowerdir={}", lower.display()),
        ],
    }]
}

/// `tar` of all in `root`, compressed by `program` when one is named.
pub(crate) fn packed(root: &Path, program: Option<&str>) -> Vec<u8> {
    let mut tar = Command::new("tar");
    if let Some(program) = program {
        tar.args(["-I", program]);
    }
    let output = tar
        .arg("-C")
        .arg(root)
        .args(["-cf", "-", "."])
        .output()
        .expect("tar starts");
    assert!(output.status.success());
    output.stdout
}

pub(crate) fn descriptor(media_type: &str, digest: Digest, size: usize) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size: size as u64,
        annotations: BTreeMap::new(),
    }
}
