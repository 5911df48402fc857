//! What all stores of this plugin stand on: the database, the way to the backends, and who calls.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use orlop_plugin::contract::{ContentStore, Ctx, Namespace, Snapshotter};
use orlop_plugin::{Error, Host, Result, kind, panic_message};

use crate::gc::Collections;
use crate::in_flight::InFlight;
use crate::leases;
use crate::snapshots::Settled;
use crate::store::{Draft, Store};

/// What a backend calls `key` of a namespace: unique for ever, and readable for whoever looks into the backend.
pub(crate) fn backend_key(ns: &str, id: u64, key: &str) -> String {
    format!("{ns}/{id}/{key}")
}

/// Runs `work` to its end, even when the caller goes away: for what must not stop between a backend and its record.
pub(crate) async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => Err(Error::cancelled("the daemon is shutting down")),
        Err(error) => Err(Error::internal(format!(
            "a metadata operation panicked: {}",
            panic_message(&*error.into_panic())
        ))),
    }
}

/// Everything the stores share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) host: Host,
    pub(crate) in_flight: InFlight,
    pub(crate) dirty: Dirty,
    pub(crate) settled: Settled,
    /// Whether naming a blob of another namespace is enough to have it (`content_sharing_policy = "shared"`).
    pub(crate) share_content: bool,
    pub(crate) collections: Collections,
}

/// Which backends may have something to clean. All may after a start: nobody knows what a crash left.
pub(crate) struct Dirty(Mutex<DirtyBackends>);

/// See [`Dirty`].
#[derive(Default)]
pub(crate) struct DirtyBackends {
    pub(crate) content: bool,
    pub(crate) snapshotters: BTreeSet<String>,
    pub(crate) all_snapshotters: bool,
}

/// Who calls: the namespace, and the lease that shall hold what is made.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) ns: Namespace,
    pub(crate) lease: Option<String>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(store: Store, host: Host, share_content: bool) -> Self {
        Self {
            store,
            host,
            in_flight: InFlight::default(),
            dirty: Dirty::after_start(),
            settled: Settled::default(),
            share_content,
            collections: Collections::default(),
        }
    }

    /// The content store underneath.
    pub(crate) async fn content(&self) -> Result<Arc<dyn ContentStore>> {
        let plugins = self.host.plugins(kind::CONTENT).await?;
        plugins
            .into_iter()
            .find_map(|plugin| plugin.contracts.content())
            .ok_or_else(|| {
                Error::unavailable(format!(
                    "no content store: the plugin {}.content is not running; `ctr plugins ls` tells why",
                    kind::CONTENT
                ))
            })
    }

    /// The snapshotters underneath, by name.
    pub(crate) async fn snapshotters(&self) -> Result<Vec<(String, Arc<dyn Snapshotter>)>> {
        let plugins = self.host.plugins(kind::SNAPSHOTTER).await?;
        Ok(plugins
            .into_iter()
            .filter_map(|plugin| Some((plugin.uri.id, plugin.contracts.snapshotter()?)))
            .collect())
    }

    /// The snapshotter `name` underneath; `NotFound`, naming the plugin, when it does not run.
    pub(crate) async fn snapshotter(&self, name: &str) -> Result<Arc<dyn Snapshotter>> {
        let mut running = self.snapshotters().await?;
        if let Some(at) = running.iter().position(|(id, _)| id == name) {
            return Ok(running.swap_remove(at).1);
        }
        let names: Vec<_> = running.iter().map(|(id, _)| id.as_str()).collect();
        let choice = if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        };
        Err(Error::not_found(format!(
            "snapshotter {name:?}: the plugin {}.{name} is not running (running: {choice}): `ctr plugins ls` tells why; put its library into \
             the plugin directory, name its socket in [proxy_plugins], or choose another with --snapshotter",
            kind::SNAPSHOTTER
        )))
    }
}

// === impl Dirty ===

impl Dirty {
    pub(crate) fn after_start() -> Self {
        Self(Mutex::new(DirtyBackends {
            content: true,
            all_snapshotters: true,
            ..DirtyBackends::default()
        }))
    }

    pub(crate) fn content(&self) {
        self.with(|dirty| dirty.content = true);
    }

    pub(crate) fn snapshotter(&self, name: &str) {
        self.with(|dirty| dirty.snapshotters.insert(name.to_owned()));
    }

    pub(crate) fn all_snapshotters(&self) {
        self.with(|dirty| dirty.all_snapshotters = true);
    }

    /// What is dirty; nothing is, afterwards.
    pub(crate) fn take(&self) -> DirtyBackends {
        self.with(std::mem::take)
    }

    fn with<T>(&self, f: impl FnOnce(&mut DirtyBackends) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Caller ===

impl Caller {
    pub(crate) fn of(ctx: &Ctx) -> Result<Self> {
        Ok(Self {
            ns: ctx.namespace()?.clone(),
            lease: ctx.lease.clone().filter(|lease| !lease.is_empty()),
        })
    }

    pub(crate) fn ns(&self) -> &str {
        self.ns.as_str()
    }

    /// Lets the caller's lease, if it has one, hold `id`; whether it has one. `NotFound` when there is no such lease.
    pub(crate) fn hold(&self, draft: &mut Draft<'_>, kind: &str, id: &str) -> Result<bool> {
        match &self.lease {
            Some(lease) => leases::hold(draft, self.ns(), lease, kind, id).map(|()| true),
            None => Ok(false),
        }
    }

    /// Like [`Caller::hold`], but a lease that is gone is no error: for what has happened already.
    pub(crate) fn hold_if_there(&self, draft: &mut Draft<'_>, kind: &str, id: &str) -> Result<()> {
        match self.hold(draft, kind, id) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// `NotFound` when the caller names a lease that does not exist.
    pub(crate) fn require_lease(&self, draft: &Draft<'_>) -> Result<()> {
        match &self.lease {
            Some(lease) => leases::require(draft, self.ns(), lease),
            None => Ok(()),
        }
    }

    /// Lets the caller's lease, if it has one, hold `id` no longer.
    pub(crate) fn release(&self, draft: &mut Draft<'_>, kind: &str, id: &str) {
        if let Some(lease) = &self.lease {
            leases::release(draft, self.ns(), lease, kind, id);
        }
    }
}
