//! The plugin `io.containerd.metadata.v1.bolt`: namespaced metadata over redb, and the mark and sweep of garbage collection.
//!
//! It gives the daemon its namespaces, images, containers and leases, and lays namespaces over the content store and the snapshotters
//! underneath. What lives here: records, who may see what, what must stay. What does not: bytes and files (the backends'), when garbage is
//! collected (the scheduler's), and the wire (the services').
//!
//! - [`store`]: the database; one table of [`record`]s, shared commits, views that never wait
//! - [`namespaces`], [`images`], [`containers`], [`leases`]: records and nothing else
//! - [`content`], [`snapshots`]: records of what a backend has; [`in_flight`] is what keeps the two together
//! - [`recovery`]: what a damaged database lost, rebuilt from the backends
//! - [`gc`]: what nobody refers to goes, first from the records, then from the backends

mod containers;
mod content;
mod gc;
mod images;
mod in_flight;
mod labels;
mod leases;
mod namespaces;
mod publish;
mod record;
mod recovery;
mod shared;
mod snapshots;
mod store;

#[cfg(test)]
mod fixture;

use std::path::Path;
use std::sync::Arc;

use orlop_plugin::database::{self, Finding};
use orlop_plugin::{Contracts, Error, InitContext, InitError, Instance, Registration, blocking, kind};
use serde::{Deserialize, Serialize};

use shared::Shared;
use store::Store;

/// The database, in the plugin's root directory.
const DATABASE: &str = "meta.redb";

/// containerd's database, where a directory is one of its.
const CONTAINERDS_DATABASE: &str = "meta.db";

/// `[plugins."io.containerd.metadata.v1.bolt"]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Config {
    /// `shared`: to name a blob that another namespace has is to have it. `isolated`: its bytes must be sent.
    #[serde(default = "shared_policy")]
    content_sharing_policy: String,
}

const SHARED: &str = "shared";
const ISOLATED: &str = "isolated";

fn shared_policy() -> String {
    SHARED.to_owned()
}

/// The registrations of this crate: one plugin.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::METADATA, "bolt", init)
            .requires([kind::CONTENT, kind::EVENT, kind::SNAPSHOTTER])
            .config(&Config {
                content_sharing_policy: shared_policy(),
            }),
    ]
}

async fn init(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    let policy = match config.content_sharing_policy.as_str() {
        "" | SHARED => SHARED,
        ISOLATED => ISOLATED,
        other => {
            return Err(Error::invalid_argument(format!(
                "content_sharing_policy {other:?} is unknown: it must be {SHARED:?} or {ISOLATED:?}"
            ))
            .into());
        }
    };
    let root = context.root()?.to_owned();
    let path = root.join(DATABASE);
    let (store, past) = blocking({
        let path = path.clone();
        move || {
            refuse_containerds(&root)?;
            Store::open(&path)
        }
    })
    .await?;
    let shared = Arc::new(Shared::new(store, context.host, policy == SHARED));
    let state = context.state_path.parent().unwrap_or(Path::new("/"));
    recovery::recover(&shared, &past, state).await?;
    Ok(Instance::new()
        .with_contracts(contracts(&shared))
        .export("policy", policy)
        .export("path", path.display())
        .on_shutdown(move || async move { shut_down(&shared).await }))
}

/// Checks the database in the plugin's directory and its copies without changing anything. Blocks.
pub fn check(root: &Path) -> orlop_plugin::Result<Vec<Finding>> {
    database::check::<store::Contents>(&root.join(DATABASE))
}

/// Mends the database in the plugin's directory and says what it did; the next start rebuilds what it lacks then. Blocks.
pub fn repair(root: &Path) -> orlop_plugin::Result<Vec<String>> {
    database::repair::<store::Contents>(&root.join(DATABASE))
}

/// Refuses a directory that is containerd's and not yet ours: a garbage collection that knows none of containerd's records would take
/// every blob and snapshot of its for garbage.
fn refuse_containerds(root: &Path) -> orlop_plugin::Result<()> {
    let theirs = root.join(CONTAINERDS_DATABASE);
    if theirs.exists() && !root.join(DATABASE).exists() {
        return Err(Error::failed_precondition(format!(
            "{} is containerd's, whose records cannot be read: give Orlop a `root` of its own, or move the file away, which gives \
             up the images and snapshots under this root",
            theirs.display()
        )));
    }
    Ok(())
}

/// Everything this plugin offers.
fn contracts(shared: &Arc<Shared>) -> Contracts {
    let shared = || Arc::clone(shared);
    Contracts::default()
        .with_content(Arc::new(content::NamespacedContent(shared())))
        .with_snapshotters(Arc::new(snapshots::NamespacedSnapshotters(shared())))
        .with_images(Arc::new(images::ImageStore(shared())))
        .with_containers(Arc::new(containers::ContainerStore(shared())))
        .with_leases(Arc::new(leases::LeaseStore(shared())))
        .with_namespaces(Arc::new(namespaces::NamespaceStore(shared())))
        .with_collector(Arc::new(gc::MetadataCollector(shared())))
}

/// Ends the collection under way and what writes wait; later writes are refused, reads go on.
async fn shut_down(shared: &Arc<Shared>) {
    shared.collections.wait().await;
    shared.store.close().await;
}

#[cfg(test)]
mod tests;
