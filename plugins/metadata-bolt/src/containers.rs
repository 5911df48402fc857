//! Containers: what tasks are made from. Each is a root of garbage collection, and holds its snapshot.

use std::sync::Arc;

use containerd_client::events;
use orlop_plugin::contract::{BoxStream, Container, Containers, Ctx, Runtime, async_trait, validate_identifier};
use orlop_plugin::filter::{self, Filters};
use orlop_plugin::{Error, Result};

use crate::labels::{self, unknown_field};
use crate::publish::event_labels;
use crate::record::{self, ContainerRecord, time};
use crate::shared::{Caller, Shared};
use crate::store::{Key, Kind, Prefix, Reader, decode};

/// What an update without a field mask changes.
const MUTABLE: [&str; 5] = ["labels", "spec", "extensions", "image", "snapshotkey"];

/// The containers of a namespace.
pub(crate) struct ContainerStore(pub(crate) Arc<Shared>);

fn container_not_found(ns: &str, id: &str) -> Error {
    Error::not_found(format!("container {id:?} in namespace {ns:?}: not found"))
}

fn from_record(id: &str, record: ContainerRecord) -> Container {
    Container {
        id: id.to_owned(),
        labels: record.labels,
        image: record.image,
        runtime: Runtime {
            name: record.runtime,
            options: record.runtime_options,
        },
        spec: record.spec,
        snapshotter: record.snapshotter,
        snapshot_key: record.snapshot_key,
        created: time(record.created),
        updated: time(record.updated),
        extensions: record.extensions,
        sandbox: record.sandbox,
    }
}

fn to_record(container: Container, created: i64, updated: i64) -> ContainerRecord {
    ContainerRecord {
        labels: labels::kept(container.labels),
        image: container.image,
        runtime: container.runtime.name,
        runtime_options: container.runtime.options,
        spec: container.spec,
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        extensions: container.extensions,
        sandbox: container.sandbox,
        created,
        updated,
    }
}

fn validate(container: &Container) -> Result<()> {
    validate_identifier(&container.id).map_err(|error| Error::from(error).context("container.ID"))?;
    if container.extensions.contains_key("") {
        return Err(Error::invalid_argument(
            "container.Extension keys must not be zero-length",
        ));
    }
    labels::validate("containers.Labels", &container.labels)?;
    if container.runtime.name.is_empty() {
        return Err(Error::invalid_argument("container.Runtime.Name must be set"));
    }
    if container.spec.is_none() {
        return Err(Error::invalid_argument("container.Spec must be set"));
    }
    if !container.snapshot_key.is_empty() && container.snapshotter.is_empty() {
        return Err(Error::invalid_argument(
            "container.Snapshotter must be set if container.SnapshotKey is set",
        ));
    }
    Ok(())
}

/// Applies a field mask; without one all that may change does, and what may not must be the same.
fn apply(old: &mut Container, new: &Container, fields: &[String]) -> Result<()> {
    if fields.is_empty() {
        if old.snapshotter != new.snapshotter {
            return Err(Error::invalid_argument("container.Snapshotter field is immutable"));
        }
        if old.runtime.name != new.runtime.name {
            return Err(Error::invalid_argument("container.Runtime.Name field is immutable"));
        }
        return apply(old, new, &MUTABLE.map(str::to_owned));
    }
    for path in fields {
        match path.as_str() {
            "spec" => old.spec.clone_from(&new.spec),
            "image" => old.image.clone_from(&new.image),
            "snapshotkey" => old.snapshot_key.clone_from(&new.snapshot_key),
            path if labels::apply("labels", path, &mut old.labels, &new.labels) => {}
            path if labels::apply("extensions", path, &mut old.extensions, &new.extensions) => {}
            path => return Err(unknown_field(path, "container", &new.id)),
        }
    }
    Ok(())
}

fn matches(filters: &Filters, id: &str, record: &ContainerRecord) -> bool {
    filters.matches(|path| match path {
        ["id", ..] => filter::non_empty(id),
        ["runtime", "name", ..] => filter::non_empty(&record.runtime),
        ["image", ..] => filter::non_empty(&record.image),
        ["labels", key @ ..] => filter::label(&record.labels, key),
        _ => None,
    })
}

#[async_trait]
impl Containers for ContainerStore {
    async fn get(&self, ctx: &Ctx, id: &str) -> Result<Container> {
        let caller = Caller::of(ctx)?;
        let record = self.0.store.view().load(&Key::container(caller.ns(), id))?;
        Ok(from_record(
            id,
            record.ok_or_else(|| container_not_found(caller.ns(), id))?,
        ))
    }

    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<Container>> {
        let (caller, filters) = (Caller::of(ctx)?, Filters::parse(filters)?);
        Ok(self
            .0
            .store
            .stream(Prefix::in_namespace(Kind::Container, &caller.ns), move |key, value| {
                let record: ContainerRecord = decode(key, value)?;
                let [_, id] = key.parts();
                Ok(matches(&filters, id, &record).then(|| from_record(id, record)))
            }))
    }

    async fn create(&self, ctx: &Ctx, container: Container) -> Result<Container> {
        let caller = Caller::of(ctx)?;
        validate(&container).map_err(|error| error.context("create container failed validation"))?;
        let ns = caller.ns.clone();
        let created = self
            .0
            .store
            .write(move |draft| {
                let id = container.id.clone();
                let key = Key::container(caller.ns(), &id);
                if draft.has(&key)? {
                    return Err(Error::already_exists(format!("container {id:?}: already exists")));
                }
                let now = record::now();
                let record = to_record(container, now, now);
                draft.put(key, &record);
                draft.ensure_namespace(caller.ns())?;
                Ok(from_record(&id, record))
            })
            .await?;
        let event = events::ContainerCreate {
            id: created.id.clone(),
            image: created.image.clone(),
            runtime: Some(events::container_create::Runtime {
                name: created.runtime.name.clone(),
                options: created.runtime.options.clone(),
            }),
        };
        self.0.publish(&ns, event).await;
        Ok(created)
    }

    async fn update(&self, ctx: &Ctx, container: Container, fields: &[String]) -> Result<Container> {
        let (caller, fields) = (Caller::of(ctx)?, fields.to_vec());
        if container.id.is_empty() {
            return Err(Error::invalid_argument("must specify a container id"));
        }
        let ns = caller.ns.clone();
        let updated = self
            .0
            .store
            .write(move |draft| {
                let key = Key::container(caller.ns(), &container.id);
                let old: ContainerRecord = draft
                    .load(&key)?
                    .ok_or_else(|| container_not_found(caller.ns(), &container.id))?;
                let (created, snapshot_key) = (old.created, old.snapshot_key.clone());
                let mut updated = from_record(&container.id, old);
                apply(&mut updated, &container, &fields)?;
                validate(&updated).map_err(|error| error.context("update failed validation"))?;
                if updated.snapshot_key != snapshot_key {
                    draft.leaves_garbage();
                }
                let record = to_record(updated, created, record::now());
                draft.put(key, &record);
                Ok(from_record(&container.id, record))
            })
            .await?;
        let event = events::ContainerUpdate {
            id: updated.id.clone(),
            image: updated.image.clone(),
            labels: event_labels(&updated.labels),
            snapshot_key: updated.snapshot_key.clone(),
        };
        self.0.publish(&ns, event).await;
        Ok(updated)
    }

    async fn delete(&self, ctx: &Ctx, id: &str) -> Result<()> {
        let (caller, container) = (Caller::of(ctx)?, id.to_owned());
        let ns = caller.ns.clone();
        self.0
            .store
            .write(move |draft| {
                let key = Key::container(caller.ns(), &container);
                if !draft.has(&key)? {
                    return Err(container_not_found(caller.ns(), &container));
                }
                draft.delete(key);
                draft.leaves_garbage();
                Ok(())
            })
            .await?;
        self.0.publish(&ns, events::ContainerDelete { id: id.to_owned() }).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
