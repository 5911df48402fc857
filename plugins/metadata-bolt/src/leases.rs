//! Leases and what they hold.

use std::sync::Arc;

use orlop_plugin::contract::{Ctx, Digest, Labels, Lease, LeaseResource, Leases, async_trait};
use orlop_plugin::filter::{self, Filters};
use orlop_plugin::{Error, Result};

use crate::gc;
use crate::record::{self, LeaseRecord, time};
use crate::shared::{Caller, Shared};
use crate::store::{Draft, Key, Kind, Prefix, Reader, decode, no_nul};

/// The kind of resource that is a blob.
pub(crate) const CONTENT: &str = "content";
/// The kind of resource that is an ingest.
pub(crate) const INGESTS: &str = "ingests";
/// The kind of resource that is an image.
pub(crate) const IMAGES: &str = "images";
/// The kind of resource that is a snapshot, before `/SNAPSHOTTER`.
const SNAPSHOTS: &str = "snapshots/";

/// The kind of resource that is a snapshot of `snapshotter`.
pub(crate) fn snapshots(snapshotter: &str) -> String {
    format!("{SNAPSHOTS}{snapshotter}")
}

/// What a resource of a lease is in the store; `None` for a kind that nothing is of.
pub(crate) fn resource_key(ns: &str, kind: &str, id: &str) -> Option<Key> {
    Some(match kind {
        CONTENT => Key::blob(ns, id),
        INGESTS => Key::ingest(ns, id),
        IMAGES => Key::image(ns, id),
        other => Key::snapshot(ns, other.strip_prefix(SNAPSHOTS)?, id),
    })
}

/// Lets `lease` hold `id`.
pub(crate) fn hold(draft: &mut Draft<'_>, ns: &str, lease: &str, kind: &str, id: &str) -> Result<()> {
    require(draft, ns, lease)?;
    draft.put_empty(Key::lease_resource(ns, lease, kind, id));
    Ok(())
}

/// `NotFound` when there is no such lease.
pub(crate) fn require(reader: &impl Reader, ns: &str, lease: &str) -> Result<()> {
    if reader.has(&Key::lease(ns, lease))? {
        Ok(())
    } else {
        Err(lease_not_found(lease))
    }
}

/// Lets `lease` hold `id` no longer.
pub(crate) fn release(draft: &mut Draft<'_>, ns: &str, lease: &str, kind: &str, id: &str) {
    draft.delete(Key::lease_resource(ns, lease, kind, id));
}

fn lease_not_found(id: &str) -> Error {
    Error::not_found(format!("lease {id:?}: not found"))
}

/// Refuses kinds of resources that do not exist, and ids that cannot.
fn check(resource: &LeaseResource) -> Result<()> {
    let kind = resource.kind.as_str();
    let parts: Vec<&str> = kind.split('/').collect();
    match parts[..] {
        ["content"] => Digest::new(resource.id.as_str())
            .map(|_| ())
            .map_err(|error| Error::invalid_argument(format!("invalid content resource id {}: {error}", resource.id))),
        ["ingests" | "images"] => Ok(()),
        ["snapshots", name] if !name.is_empty() => no_nul("resource type", name),
        ["content" | "ingests" | "images" | "snapshots", ..] => {
            Err(Error::invalid_argument(format!("invalid resource type {kind}")))
        }
        _ => Err(Error::unimplemented(format!(
            "resource type {kind} is not supported: it must be content, ingests, images or snapshots/SNAPSHOTTER"
        ))),
    }
}

/// The leases of a namespace.
pub(crate) struct LeaseStore(pub(crate) Arc<Shared>);

#[async_trait]
impl Leases for LeaseStore {
    async fn create(&self, ctx: &Ctx, id: Option<&str>, labels: Labels) -> Result<Lease> {
        let caller = Caller::of(ctx)?;
        let created = record::now();
        let id = match id.filter(|id| !id.is_empty()) {
            Some(id) => id.to_owned(),
            None => format!("{created}-{:x}", self.0.store.next_id().await?),
        };
        no_nul("lease id", &id)?;
        self.0
            .store
            .write(move |draft| {
                let key = Key::lease(caller.ns(), &id);
                if draft.has(&key)? {
                    return Err(Error::already_exists(format!("lease {id:?}: already exists")));
                }
                let record = LeaseRecord {
                    labels: crate::labels::kept(labels),
                    created,
                };
                draft.put(key, &record);
                draft.ensure_namespace(caller.ns())?;
                Ok(Lease {
                    id,
                    created: time(created),
                    labels: record.labels,
                })
            })
            .await
    }

    async fn delete(&self, ctx: &Ctx, id: &str, sync: bool) -> Result<()> {
        let (caller, lease) = (Caller::of(ctx)?, id.to_owned());
        self.0
            .store
            .write(move |draft| {
                remove(draft, caller.ns(), &lease)?;
                draft.leaves_garbage();
                Ok(())
            })
            .await?;
        if sync {
            gc::collect_now(&self.0, ctx).await?;
        }
        Ok(())
    }

    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<Vec<Lease>> {
        let (caller, filters) = (Caller::of(ctx)?, Filters::parse(filters)?);
        self.0
            .store
            .read(move |view| {
                let mut leases = Vec::new();
                view.scan(&Prefix::in_namespace(Kind::Lease, &caller.ns), &mut |key, value| {
                    let record: LeaseRecord = decode(&key, value)?;
                    let [_, id] = key.parts();
                    let wanted = filters.matches(|path| match path {
                        ["id"] => filter::non_empty(id),
                        ["labels", key @ ..] => filter::label(&record.labels, key),
                        _ => None,
                    });
                    if wanted {
                        leases.push(Lease {
                            id: id.to_owned(),
                            created: time(record.created),
                            labels: record.labels,
                        });
                    }
                    Ok(())
                })?;
                Ok(leases)
            })
            .await
    }

    async fn add_resource(&self, ctx: &Ctx, id: &str, resource: LeaseResource) -> Result<()> {
        let (caller, lease) = (Caller::of(ctx)?, id.to_owned());
        check(&resource)?;
        self.0
            .store
            .write(move |draft| hold(draft, caller.ns(), &lease, &resource.kind, &resource.id))
            .await
    }

    async fn delete_resource(&self, ctx: &Ctx, id: &str, resource: LeaseResource) -> Result<()> {
        let (caller, lease) = (Caller::of(ctx)?, id.to_owned());
        check(&resource)?;
        self.0
            .store
            .write(move |draft| {
                require(draft, caller.ns(), &lease)?;
                release(draft, caller.ns(), &lease, &resource.kind, &resource.id);
                draft.leaves_garbage();
                Ok(())
            })
            .await
    }

    async fn list_resources(&self, ctx: &Ctx, id: &str) -> Result<Vec<LeaseResource>> {
        let (caller, lease) = (Caller::of(ctx)?, id.to_owned());
        self.0
            .store
            .read(move |view| {
                require(view, caller.ns(), &lease)?;
                let keys = view.keys(&Prefix::of(Kind::LeaseResource, &[caller.ns(), &lease]))?;
                Ok(keys
                    .iter()
                    .map(|key| {
                        let [_, _, kind, id] = key.parts();
                        LeaseResource {
                            id: id.to_owned(),
                            kind: kind.to_owned(),
                        }
                    })
                    .collect())
            })
            .await
    }
}

/// Removes a lease with its resources. `NotFound` when there is none.
pub(crate) fn remove(draft: &mut Draft<'_>, ns: &str, id: &str) -> Result<()> {
    let key = Key::lease(ns, id);
    if !draft.has(&key)? {
        return Err(lease_not_found(id));
    }
    draft.delete(key);
    draft.delete_all(&Prefix::of(Kind::LeaseResource, &[ns, id]))
}

#[cfg(test)]
mod tests;
