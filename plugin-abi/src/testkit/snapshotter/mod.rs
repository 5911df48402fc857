//! What every snapshotter owes its callers.

mod files;
mod labels;
mod layers;
mod load;
mod rules;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::tree::{Edit, apply};
use super::{Failure, Outcome, Suite, mounted};
use crate::contract::{Ctx, Labels, Mount, Namespace, SnapshotInfo, Snapshotter, collect};
use crate::{Result, contract::Code};

/// Keeps what a check makes from a collection of garbage, should the snapshotter be a daemon's.
const GC_ROOT: &str = "containerd.io/gc.root";

/// Runs the suite of the snapshotter contract, with real mounts. Leaves nothing behind.
///
/// # Panics
/// When a check fails, with all that failed; and at once without the privilege to mount.
pub async fn snapshotter(snapshotter: Arc<dyn Snapshotter>) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the snapshotter suite mounts what it is given: run it as root"
    );
    let kit = Kit::new(snapshotter);
    let before = kit.names(&[]).await.unwrap_or_default();
    let mut suite = Suite::new("snapshotter");
    rules::run(&kit, &mut suite).await;
    labels::run(&kit, &mut suite).await;
    layers::run(&kit, &mut suite).await;
    files::run(&kit, &mut suite).await;
    load::run(&kit, &mut suite).await;
    suite
        .check("what was removed is gone", kit.nothing_is_left(before))
        .await;
    suite.finish();
}

/// A snapshotter with the words that checks are written in.
struct Kit {
    snapshotter: Arc<dyn Snapshotter>,
    ctx: Ctx,
}

/// A check's own keys: what one leaves behind when it fails is not in the way of the next.
#[derive(Clone, Copy)]
struct Names(&'static str);

// === impl Names ===

impl Names {
    /// `key`, as this check calls it.
    fn of(self, key: &str) -> String {
        format!("testkit/{}/{key}", self.0)
    }
}

// === impl Kit ===

impl Kit {
    fn new(snapshotter: Arc<dyn Snapshotter>) -> Self {
        // A literal that keeps to the grammar.
        let namespace = Namespace::new("testkit").ok();
        let ctx = Ctx {
            namespace,
            ..Ctx::default()
        };
        Self { snapshotter, ctx }
    }

    async fn prepare(&self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        self.snapshotter.prepare(&self.ctx, key, parent, kept()).await
    }

    async fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>> {
        self.snapshotter.view(&self.ctx, key, parent, kept()).await
    }

    async fn commit(&self, name: &str, key: &str) -> Result<()> {
        self.snapshotter.commit(&self.ctx, name, key, kept()).await
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.snapshotter.remove(&self.ctx, key).await
    }

    async fn stat(&self, key: &str) -> Result<SnapshotInfo> {
        self.snapshotter.stat(&self.ctx, key).await
    }

    /// Removes in order, top first.
    async fn remove_all(&self, keys: &[&str]) -> Outcome {
        for key in keys {
            self.remove(key)
                .await
                .map_err(|error| Failure(format!("remove {key}: {error}")))?;
        }
        Ok(())
    }

    /// Prepares `name` on `parent`, makes `edits` in it, and commits it.
    async fn layer(&self, name: &str, parent: &str, edits: &[Edit]) -> Outcome {
        let key = format!("{name}-active");
        let mounts = self.prepare(&key, parent).await?;
        if !edits.is_empty() {
            mounted(&mounts, |root| apply(root, edits))??;
        }
        self.commit(name, &key).await?;
        Ok(())
    }

    /// Looks at `parent` through a view.
    async fn look<T>(&self, parent: &str, look: impl FnOnce(&Path) -> T) -> Result<T, Failure> {
        let key = format!("{parent}-view");
        let mounts = self.view(&key, parent).await?;
        let seen = mounted(&mounts, look)?;
        self.remove(&key).await?;
        Ok(seen)
    }

    /// The names that any of `filters` chooses.
    async fn names(&self, filters: &[&str]) -> Result<Vec<String>> {
        let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
        let list = collect(self.snapshotter.list(&self.ctx, &filters).await?).await?;
        Ok(list.into_iter().map(|info| info.name).collect())
    }

    async fn nothing_is_left(&self, before: Vec<String>) -> Outcome {
        super::same("the list", self.names(&[]).await?, before)?;
        match self.snapshotter.cleanup(&self.ctx).await {
            Err(error) if error.code != Code::Unimplemented => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn kept() -> Labels {
    with(&[])
}

/// Labels beside the one that keeps a snapshot.
fn with(labels: &[(&str, &str)]) -> Labels {
    let mut all = BTreeMap::from([(GC_ROOT.to_owned(), "testkit".to_owned())]);
    all.extend(
        labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    );
    all
}
