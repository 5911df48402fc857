//! Namespaces. One comes to be when it is created or when the first object is made in it, and stays until it is deleted.

use std::sync::Arc;

use containerd_client::events;
use orlop_plugin::contract::{Ctx, Namespace, NamespaceInfo, Namespaces, async_trait};
use orlop_plugin::{Error, Result};

use crate::labels;
use crate::publish::event_labels;
use crate::record::NamespaceRecord;
use crate::shared::Shared;
use crate::store::{Draft, Key, Kind, Prefix, Reader, View, decode};

/// The namespaces of the daemon.
pub(crate) struct NamespaceStore(pub(crate) Arc<Shared>);

/// The names of all namespaces.
pub(crate) fn names(view: &View) -> Result<Vec<String>> {
    Ok(view
        .keys(&Prefix::of(Kind::Namespace, &[]))?
        .iter()
        .map(|key| key.parts::<1>()[0].to_owned())
        .collect())
}

#[async_trait]
impl Namespaces for NamespaceStore {
    /// One that does not exist has no labels, as in containerd: clients look for defaults in the labels of the namespace they are about
    /// to use for the first time.
    async fn get(&self, _ctx: &Ctx, name: &Namespace) -> Result<NamespaceInfo> {
        let record = self
            .0
            .store
            .view()
            .load::<NamespaceRecord>(&Key::namespace_record(name.as_str()))?;
        Ok(NamespaceInfo {
            name: name.clone(),
            labels: record.unwrap_or_default().labels,
        })
    }

    async fn list(&self, _ctx: &Ctx) -> Result<Vec<NamespaceInfo>> {
        self.0
            .store
            .read(|view| {
                let mut namespaces = Vec::new();
                view.scan(&Prefix::of(Kind::Namespace, &[]), &mut |key, value| {
                    let [name] = key.parts();
                    let record: NamespaceRecord = decode(&key, value)?;
                    namespaces.push(NamespaceInfo {
                        name: Namespace::new(name)?,
                        labels: record.labels,
                    });
                    Ok(())
                })?;
                Ok(namespaces)
            })
            .await
    }

    async fn create(&self, _ctx: &Ctx, namespace: NamespaceInfo) -> Result<NamespaceInfo> {
        labels::validate("namespace.Labels", &namespace.labels)?;
        let created = NamespaceInfo {
            name: namespace.name,
            labels: labels::kept(namespace.labels),
        };
        let NamespaceInfo { name, labels } = created.clone();
        self.0
            .store
            .write(move |draft| {
                let key = Key::namespace_record(name.as_str());
                if draft.has(&key)? {
                    return Err(Error::already_exists(format!("namespace \"{name}\": already exists")));
                }
                draft.put(key, &NamespaceRecord { labels });
                Ok(())
            })
            .await?;
        let event = events::NamespaceCreate {
            name: created.name.to_string(),
            labels: event_labels(&created.labels),
        };
        self.0.publish(&created.name, event).await;
        Ok(created)
    }

    async fn update(&self, _ctx: &Ctx, namespace: NamespaceInfo, fields: &[String]) -> Result<NamespaceInfo> {
        let fields = fields.to_vec();
        let updated = self
            .0
            .store
            .write(move |draft| {
                let key = Key::namespace_record(namespace.name.as_str());
                let mut record: NamespaceRecord = draft.load(&key)?.unwrap_or_default();
                labels::update(
                    &mut record.labels,
                    &namespace.labels,
                    &fields,
                    "namespace",
                    namespace.name.as_str(),
                )?;
                labels::validate("namespace.Labels", &record.labels)?;
                record.labels = labels::kept(record.labels);
                draft.put(key, &record);
                Ok(NamespaceInfo {
                    name: namespace.name,
                    labels: record.labels,
                })
            })
            .await?;
        let event = events::NamespaceUpdate {
            name: updated.name.to_string(),
            labels: event_labels(&updated.labels),
        };
        self.0.publish(&updated.name, event).await;
        Ok(updated)
    }

    async fn delete(&self, _ctx: &Ctx, name: &Namespace) -> Result<()> {
        let ns = name.clone();
        self.0
            .store
            .write(move |draft| {
                let key = Key::namespace_record(ns.as_str());
                if !draft.has(&key)? {
                    return Err(Error::not_found(format!("namespace \"{ns}\": not found")));
                }
                let left = what_is_left(draft, &ns)?;
                if !left.is_empty() {
                    return Err(Error::failed_precondition(format!(
                        "namespace \"{ns}\" must be empty, but it still has {}",
                        left.join(", ")
                    )));
                }
                // Leases and ingests do not keep a namespace; what they held is garbage now.
                for kind in [Kind::Lease, Kind::LeaseResource, Kind::Ingest] {
                    draft.delete_all(&Prefix::in_namespace(kind, &ns))?;
                }
                draft.delete(key);
                draft.leaves_garbage();
                Ok(())
            })
            .await?;
        self.0.dirty.content();
        self.0
            .publish(name, events::NamespaceDelete { name: name.to_string() })
            .await;
        Ok(())
    }
}

/// The kinds of objects that are still in a namespace.
fn what_is_left(draft: &Draft<'_>, ns: &Namespace) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for (kind, name) in [
        (Kind::Image, "images"),
        (Kind::Blob, "blobs"),
        (Kind::Container, "containers"),
    ] {
        if draft.first(&Prefix::in_namespace(kind, ns))?.is_some() {
            left.push(name.to_owned());
        }
    }
    let mut snapshotters = std::collections::BTreeSet::new();
    for key in draft.keys(&Prefix::in_namespace(Kind::Snapshot, ns))? {
        let [_, snapshotter, _] = key.parts();
        snapshotters.insert(snapshotter.to_owned());
    }
    left.extend(
        snapshotters
            .iter()
            .map(|name| format!("snapshots on {name:?} snapshotter")),
    );
    Ok(left)
}

#[cfg(test)]
mod tests;
