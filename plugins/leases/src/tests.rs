//! The plugin beside a metadata store, and without one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use orlop_plugin::contract::{Code, Contracts, Ctx, Labels, Lease, LeaseResource, Leases, Namespace, async_trait};
use orlop_plugin::registration::{HostApi, HostPlugin, InitError};
use orlop_plugin::{Error, Host, InitContext, Instance, PluginUri, Reach, Result, kind};

use crate::registrations;

/// A daemon with these plugins of type metadata.
struct Daemon(Vec<HostPlugin>);

#[async_trait]
impl HostApi for Daemon {
    fn daemon(&self) -> Reach {
        Contracts::default().into()
    }

    async fn plugins(&self, kind: &str) -> Result<Vec<HostPlugin>> {
        Ok(self
            .0
            .iter()
            .filter(|plugin| plugin.uri.kind == kind)
            .cloned()
            .collect())
    }
}

/// Leases in memory, as far as this test goes.
#[derive(Default)]
struct Store(Mutex<Vec<Lease>>);

#[async_trait]
impl Leases for Store {
    async fn create(&self, _ctx: &Ctx, id: Option<&str>, labels: Labels) -> Result<Lease> {
        let lease = Lease {
            id: id.unwrap_or("chosen").to_owned(),
            created: SystemTime::now(),
            labels,
        };
        self.0.lock().expect("not poisoned").push(lease.clone());
        Ok(lease)
    }

    async fn delete(&self, _ctx: &Ctx, id: &str, _sync: bool) -> Result<()> {
        self.0.lock().expect("not poisoned").retain(|lease| lease.id != id);
        Ok(())
    }

    async fn list(&self, _ctx: &Ctx, _filters: &[String]) -> Result<Vec<Lease>> {
        Ok(self.0.lock().expect("not poisoned").clone())
    }

    async fn add_resource(&self, _ctx: &Ctx, id: &str, _resource: LeaseResource) -> Result<()> {
        Err(Error::not_found(id))
    }

    async fn delete_resource(&self, _ctx: &Ctx, id: &str, _resource: LeaseResource) -> Result<()> {
        Err(Error::not_found(id))
    }

    async fn list_resources(&self, _ctx: &Ctx, id: &str) -> Result<Vec<LeaseResource>> {
        Err(Error::not_found(id))
    }
}

async fn start(plugins: Vec<HostPlugin>) -> Result<Instance, InitError> {
    let registration = registrations().remove(0);
    let context = InitContext {
        uri: registration.uri.clone(),
        root_path: PathBuf::new(),
        state_path: PathBuf::new(),
        config: registration.config.clone(),
        address: String::new(),
        ttrpc_address: String::new(),
        timeouts: BTreeMap::new(),
        stream_processors: Vec::new(),
        host: Host::new(Arc::new(Daemon(plugins))),
    };
    registration.init(context).await
}

#[tokio::test]
async fn the_leases_are_the_metadata_stores() {
    let store = Arc::new(Store::default());
    let bolt = HostPlugin {
        uri: PluginUri::new(kind::METADATA, "bolt"),
        contracts: Contracts::default().with_leases(store.clone()).into(),
        capabilities: Vec::new(),
        exports: BTreeMap::new(),
    };
    let instance = start(vec![bolt]).await.unwrap_or_else(|error| panic!("{error}"));
    let leases = instance.contracts.leases.expect("leases");
    let ctx = Ctx::new(Namespace::new("a").expect("valid"));
    leases.create(&ctx, Some("one"), Labels::new()).await.expect("created");
    assert_eq!(store.0.lock().expect("not poisoned").len(), 1);
    leases.delete(&ctx, "one", true).await.expect("deleted");
    assert!(leases.list(&ctx, &[]).await.expect("listed").is_empty());
}

#[tokio::test]
async fn without_a_metadata_store_it_says_so() {
    match start(Vec::new()).await.err() {
        Some(InitError::Failed(error)) => {
            assert_eq!(error.code, Code::Unavailable);
            assert!(error.message.contains("io.containerd.metadata.v1.bolt"));
        }
        other => panic!("{other:?}"),
    }
}
