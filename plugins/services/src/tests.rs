//! The services as the core starts them, called as clients call them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use orlop_plugin::channel::Channel;
use orlop_plugin::contract::{
    Any, Applier, ApplyOptions, BoxStream, Code, Comparer, Container, Containers, Contracts, CreateTask, Ctx,
    Descriptor, DiffOptions, Digest, ExecProcess, Labels, Mount, Namespace, Runtime, Transfer, async_trait, stream_of,
};
use orlop_plugin::registration::{HostApi, HostPlugin};
use orlop_plugin::{Error, Host, InitContext, Instance, PluginUri, Reach, Registration, Result, kind, rpc};

use crate::registrations;

/// A daemon whose plugins come and go as a test wants.
#[derive(Clone, Default)]
struct Daemon(Arc<Mutex<(Contracts, Vec<HostPlugin>)>>);

#[async_trait]
impl HostApi for Daemon {
    fn daemon(&self) -> Reach {
        self.0.lock().expect("not poisoned").0.clone().into()
    }

    async fn plugins(&self, kind: &str) -> Result<Vec<HostPlugin>> {
        let all = self.0.lock().expect("not poisoned").1.clone();
        Ok(all.into_iter().filter(|plugin| plugin.uri.kind == kind).collect())
    }
}

// === impl Daemon ===

impl Daemon {
    fn offer(&self, change: impl FnOnce(&mut Contracts)) {
        change(&mut self.0.lock().expect("not poisoned").0);
    }

    fn differ(&self, differ: Tells) {
        let plugin = HostPlugin {
            uri: PluginUri::new(kind::DIFFER, differ.0),
            contracts: Contracts::default().with_differ(Arc::new(differ)).into(),
            capabilities: Vec::new(),
            exports: BTreeMap::new(),
        };
        self.0.lock().expect("not poisoned").1.push(plugin);
    }

    async fn start(&self, kind: &str, id: &str, config: Option<&str>) -> Instance {
        let registration = find(kind, id);
        let config = config.map_or(registration.config.clone(), |text| text.parse().expect("TOML"));
        let context = InitContext {
            uri: registration.uri.clone(),
            root_path: PathBuf::new(),
            state_path: PathBuf::new(),
            config,
            address: String::new(),
            ttrpc_address: String::new(),
            timeouts: BTreeMap::new(),
            stream_processors: Vec::new(),
            host: Host::new(Arc::new(self.clone())),
        };
        match registration.init(context).await {
            Ok(instance) => instance,
            Err(error) => panic!("{error}"),
        }
    }

    /// The public socket of a daemon that has this one service.
    async fn socket(&self, id: &str) -> Channel {
        Channel::memory(self.start(kind::GRPC, id, None).await.grpc)
    }
}

fn find(kind: &str, id: &str) -> Registration {
    let uri = PluginUri::new(kind, id);
    registrations()
        .into_iter()
        .find(|registration| registration.uri == uri)
        .unwrap_or_else(|| panic!("{uri} is registered"))
}

fn ctx() -> Ctx {
    Ctx::new(Namespace::new("test").expect("valid"))
}

fn descriptor(media_type: &str) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::from_sha256([7; 32]),
        size: 1,
        annotations: BTreeMap::new(),
    }
}

/// A differ that knows media types of its own name only, and tells its name.
struct Tells(&'static str);

#[async_trait]
impl Applier for Tells {
    async fn apply(
        &self,
        _ctx: &Ctx,
        layer: Descriptor,
        _mounts: Vec<Mount>,
        _options: ApplyOptions,
    ) -> Result<Descriptor> {
        match layer.media_type.as_str() {
            "broken" => Err(Error::data_loss(self.0)),
            known if known == self.0 || known == "any" => Ok(descriptor(self.0)),
            other => Err(Error::unimplemented(format!("{} knows no {other}", self.0))),
        }
    }
}

#[async_trait]
impl Comparer for Tells {
    async fn diff(&self, ctx: &Ctx, _lower: Vec<Mount>, upper: Vec<Mount>, options: DiffOptions) -> Result<Descriptor> {
        self.apply(ctx, descriptor(&options.media_type), upper, ApplyOptions::default())
            .await
    }
}

/// One container.
struct One;

#[async_trait]
impl Containers for One {
    async fn get(&self, _ctx: &Ctx, id: &str) -> Result<Container> {
        if id != "one" {
            return Err(Error::not_found(format!("container {id:?} does not exist")));
        }
        Ok(Container {
            id: id.to_owned(),
            labels: Labels::new(),
            image: String::new(),
            runtime: Runtime::default(),
            spec: None,
            snapshotter: String::new(),
            snapshot_key: String::new(),
            created: UNIX_EPOCH,
            updated: UNIX_EPOCH,
            extensions: BTreeMap::new(),
            sandbox: String::new(),
        })
    }

    async fn list(&self, ctx: &Ctx, _filters: &[String]) -> Result<BoxStream<Container>> {
        Ok(stream_of(vec![self.get(ctx, "one").await?]))
    }

    async fn create(&self, _ctx: &Ctx, container: Container) -> Result<Container> {
        Err(Error::already_exists(container.id))
    }

    async fn update(&self, _ctx: &Ctx, container: Container, _fields: &[String]) -> Result<Container> {
        Ok(container)
    }

    async fn delete(&self, _ctx: &Ctx, id: &str) -> Result<()> {
        Err(Error::failed_precondition(id))
    }
}

/// A transfer that says what it was asked.
struct Refuses;

#[async_trait]
impl Transfer for Refuses {
    async fn transfer(&self, _ctx: &Ctx, source: Any, _destination: Any, _progress: &str) -> Result<()> {
        Err(Error::unimplemented(source.type_url))
    }
}

#[test]
fn the_rows_are_containerds() {
    let rows: BTreeSet<_> = registrations()
        .iter()
        .map(|registration| registration.uri.to_string())
        .collect();
    let services = [
        "containers",
        "content",
        "diff",
        "images",
        "namespaces",
        "snapshots",
        "tasks",
    ];
    let mut wanted: BTreeSet<_> = services
        .iter()
        .map(|id| format!("io.containerd.service.v1.{id}-service"))
        .collect();
    let more = ["events", "leases", "streaming", "transfer"];
    wanted.extend(
        services
            .iter()
            .chain(&more)
            .map(|id| format!("io.containerd.grpc.v1.{id}")),
    );
    assert_eq!(rows, wanted);
    let config = |id| find(kind::SERVICE, id).config.to_string();
    assert_eq!(config("diff-service").trim(), "default = [\"walking\"]");
    assert_eq!(
        config("tasks-service").trim(),
        "blockio_config_file = \"\"\nrdt_config_file = \"\""
    );
}

#[tokio::test]
async fn every_service_starts_and_is_served_without_anything_behind_it() {
    let daemon = Daemon::default();
    for registration in registrations() {
        let instance = daemon.start(&registration.uri.kind, &registration.uri.id, None).await;
        let served: Vec<_> = instance.grpc.names().collect();
        assert_eq!(
            served.len(),
            usize::from(registration.uri.kind == kind::GRPC),
            "{}: {served:?}",
            registration.uri
        );
    }
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let daemon = Daemon::default();
    let containers = rpc::containers::connect(daemon.socket("containers").await);
    let error = containers.get(&ctx(), "one").await.expect_err("no metadata store");
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains("io.containerd.metadata.v1.bolt"), "{error}");

    let tasks = rpc::tasks::connect(daemon.socket("tasks").await);
    let request = |container: &str| CreateTask {
        container_id: container.into(),
        ..CreateTask::default()
    };
    daemon.offer(|contracts| contracts.containers = Some(Arc::new(One)));
    let error = tasks.create(&ctx(), request("one")).await.expect_err("no runtime");
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains("io.containerd.runtime.v2.task"), "{error}");
    let error = tasks.create(&ctx(), request("two")).await.expect_err("no container");
    assert_eq!(error.code, Code::NotFound);
    let unnamed = tasks.exec(&ctx(), ExecProcess::default()).await;
    assert_eq!(unnamed.expect_err("no exec id").code, Code::InvalidArgument);
    assert_eq!(containers.get(&ctx(), "one").await.expect("there by now").id, "one");
}

#[tokio::test]
async fn a_plugin_that_comes_later_is_found_and_one_that_goes_is_missed() {
    let daemon = Daemon::default();
    let transfer = rpc::transfer::connect(daemon.socket("transfer").await);
    let source = Any {
        type_url: "from".into(),
        value: Vec::new(),
    };
    let call = async || {
        let moved = transfer.transfer(&ctx(), source.clone(), source.clone(), "").await;
        moved.expect_err("refused").code
    };
    assert_eq!(call().await, Code::Unavailable);
    daemon.offer(|contracts| contracts.transfer = Some(Arc::new(Refuses)));
    assert_eq!(call().await, Code::Unimplemented);
    daemon.offer(|contracts| contracts.transfer = None);
    assert_eq!(call().await, Code::Unavailable);
}

#[tokio::test]
async fn differs_are_asked_in_the_order_of_the_configuration() {
    let daemon = Daemon::default();
    let service = daemon
        .start(kind::SERVICE, "diff-service", Some(r#"default = ["second", "first"]"#))
        .await;
    daemon.offer(|contracts| contracts.differ = service.contracts.differ);
    let differ = rpc::diff::connect(daemon.socket("diff").await);
    let apply = async |media_type: &str| {
        let (ctx, layer) = (ctx(), descriptor(media_type));
        let applied = differ.apply(&ctx, layer, Vec::new(), ApplyOptions::default()).await;
        applied.map(|descriptor| descriptor.media_type)
    };
    let error = apply("any").await.expect_err("nobody runs");
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains("io.containerd.differ.v1.second"), "{error}");

    daemon.differ(Tells("first"));
    assert_eq!(apply("any").await.expect("applied"), "first");
    let error = apply("other").await.expect_err("nobody knows");
    assert_eq!(error.code, Code::Unavailable, "the one that does not run might");

    daemon.differ(Tells("second"));
    daemon.differ(Tells("unlisted"));
    assert_eq!(apply("any").await.expect("applied"), "second");
    assert_eq!(apply("first").await.expect("applied"), "first");
    assert_eq!(
        apply("unlisted").await.expect_err("nobody knows").code,
        Code::Unimplemented
    );
    assert_eq!(
        apply("broken").await.expect_err("broken").message,
        "second",
        "an error is an answer"
    );
    let options = DiffOptions {
        media_type: "first".into(),
        ..DiffOptions::default()
    };
    let layer = differ
        .diff(&ctx(), Vec::new(), Vec::new(), options)
        .await
        .expect("made");
    assert_eq!(layer.media_type, "first");
}
