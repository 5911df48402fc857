//! What a restored database does not know of, rebuilt from what else is on disk.
//!
//! ```text
//!   what                where it comes from                                  what is not known of it
//!   namespace           names of snapshots, directories of bundles           labels
//!   snapshot            the snapshotter: its names are NAMESPACE/NUMBER/KEY   labels that are not the snapshotter's
//!   blob                the content store; recorded in every namespace       labels, and which namespaces had it
//!   container           STATE/io.containerd.runtime.v2.task/NS/ID/config.json  image, labels, extensions, runtime options
//!   image, lease        nowhere: they are lost                               everything
//! ```
//!
//! What was rebuilt is held by a lease for a day, so that nobody loses it before he knows what happened. What is recorded and not there any more
//! is dropped. A backend that does not run now is looked at later, before it is cleaned for the first time: a record says that the database was
//! restored, one a backend that it was looked at since.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use orlop_plugin::contract::{Any, ContentInfo, Ctx, Labels, Namespace, SnapshotInfo, Snapshotter, collect};
use orlop_plugin::database::Past;
use orlop_plugin::{Error, Result, blocking, kind};

use crate::gc::EXPIRE;
use crate::leases;
use crate::record::{
    self, AdoptionRecord, BlobRecord, ContainerRecord, LeaseRecord, SequenceRecord, SnapshotRecord, nanos,
};
use crate::shared::Shared;
use crate::store::{Draft, Key, Kind, Prefix, Reader, decode};

/// Where bundles are, under the daemon's state directory.
const BUNDLES: &str = "io.containerd.runtime.v2.task";

/// The namespace of blobs when no other is known.
const DEFAULT_NAMESPACE: &str = "default";

/// How long what was rebuilt is held.
const HELD: Duration = Duration::from_secs(24 * 60 * 60);

/// How far the numbers of snapshots jump: nobody knows which were given out.
const JUMP: u64 = 1 << 32;

/// Records in one transaction.
const CHUNK: usize = 256;

/// No specification comes near this size.
const MAX_SPEC: u64 = 16 << 20;

const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const DEFAULT_RUNTIME: &str = "io.containerd.runc.v2";

/// A bundle that is there.
struct Bundle {
    namespace: String,
    id: String,
    record: ContainerRecord,
}

/// Rebuilds what the database lacks, if it was damaged or is new. `state` is the daemon's state directory.
pub(crate) async fn recover(shared: &Arc<Shared>, past: &Past, state: &Path) -> Result<()> {
    if *past == Past::Whole {
        return Ok(());
    }
    if *past != Past::New {
        let restored = record::now();
        shared
            .store
            .write_quietly(move |draft| {
                draft.delete_all(&Prefix::of(Kind::Adoption, &[]))?;
                draft.put(Key::adoption(""), &AdoptionRecord { restored });
                let last = draft.load::<SequenceRecord>(&Key::sequence())?.unwrap_or_default().last;
                draft.put(Key::sequence(), &SequenceRecord { last: last + JUMP });
                Ok(())
            })
            .await?;
    }
    for (name, snapshotter) in shared.snapshotters().await? {
        if let Err(error) = adopt_snapshots(shared, &name, &snapshotter, true).await {
            tracing::error!(snapshotter = name, %error, "its snapshots are looked at again before anything of it is removed");
        }
    }
    let bundles = state.join(BUNDLES);
    let bundles = blocking(move || Ok(find_bundles(&bundles))).await?;
    rebuild_containers(shared, bundles).await?;
    if let Err(error) = adopt_content(shared, true).await {
        tracing::error!(%error, "the content store is looked at again before anything of it is removed");
    }
    shared.store.rebuilt();
    if past.lost_something() {
        tracing::error!(
            "the metadata was rebuilt as far as it can be: images and leases that were made after the copy was taken are gone and have to be \
             pulled or imported again; what was found without a record is held for a day"
        );
    }
    Ok(())
}

/// Whether a backend was not looked at since the database was restored. `backend` is a snapshotter's name, or [`kind::CONTENT`].
async fn pending(shared: &Shared, backend: &str) -> Result<bool> {
    let view = shared.store.view();
    Ok(view.has(&Key::adoption(""))? && !view.has(&Key::adoption(backend))?)
}

async fn looked_at(shared: &Shared, backend: &str) -> Result<()> {
    let key = Key::adoption(backend);
    shared
        .store
        .write_quietly(move |draft| {
            if let Some(restored) = draft.load::<AdoptionRecord>(&Key::adoption(""))? {
                draft.put(key, &restored);
            }
            Ok(())
        })
        .await
}

/// Adopts what the content store has, if that is still to be done.
pub(crate) async fn before_cleaning_content(shared: &Arc<Shared>) -> Result<()> {
    if pending(shared, kind::CONTENT).await? {
        adopt_content(shared, false).await?;
    }
    Ok(())
}

/// Adopts what a snapshotter has, if that is still to be done.
pub(crate) async fn before_cleaning_snapshots(
    shared: &Arc<Shared>,
    name: &str,
    snapshotter: &Arc<dyn Snapshotter>,
) -> Result<()> {
    if pending(shared, name).await? {
        adopt_snapshots(shared, name, snapshotter, false).await?;
    }
    Ok(())
}

/// The lease for what is rebuilt now, in a namespace.
fn lease(draft: &mut Draft<'_>, ns: &str, now: SystemTime) -> Result<String> {
    draft.ensure_namespace(ns)?;
    let id = format!("recovered-{}", nanos(now));
    if !draft.has(&Key::lease(ns, &id))? {
        let expire = prost_types::Timestamp::from(now + HELD).to_string();
        draft.put(
            Key::lease(ns, &id),
            &LeaseRecord {
                labels: Labels::from([(EXPIRE.to_owned(), expire)]),
                created: nanos(now),
            },
        );
    }
    Ok(id)
}

// === snapshots ===

/// A snapshot by the name its snapshotter knows it by.
struct Adopted {
    namespace: String,
    key: String,
    record: SnapshotRecord,
}

/// Namespace and key in a name of a snapshotter's that is ours.
fn named(backend: &str) -> Option<(&str, &str)> {
    let mut parts = backend.splitn(3, '/');
    let (namespace, number, key) = (parts.next()?, parts.next()?, parts.next()?);
    number.parse::<u64>().ok()?;
    let ours = Namespace::new(namespace).is_ok() && !key.is_empty() && !key.contains('\0');
    ours.then_some((namespace, key))
}

/// The number in such a name.
fn number(backend: &str) -> u64 {
    backend
        .split('/')
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn adopted(info: SnapshotInfo) -> Option<Adopted> {
    let (namespace, key) = named(&info.name)?;
    let parent = match info.parent.as_str() {
        "" => "",
        parent => named(parent)?.1,
    };
    Some(Adopted {
        namespace: namespace.to_owned(),
        key: key.to_owned(),
        record: SnapshotRecord {
            labels: info.labels,
            parent: parent.to_owned(),
            created: nanos(info.created),
            updated: nanos(info.updated),
            committing: None,
            backend: info.name,
        },
    })
}

/// Records every snapshot that has no record; `at_start`, when nobody makes any, also drops the records of those that are gone.
async fn adopt_snapshots(
    shared: &Arc<Shared>,
    name: &str,
    snapshotter: &Arc<dyn Snapshotter>,
    at_start: bool,
) -> Result<()> {
    let all = collect(snapshotter.list(&Ctx::daemon(), &[]).await?).await?;
    let there: HashSet<String> = all.iter().map(|info| info.name.clone()).collect();
    let (snapshotter, now) = (name.to_owned(), SystemTime::now());
    let (adopted, dropped) = shared
        .store
        .write(move |draft| {
            let mut known = HashSet::new();
            let mut gone = Vec::new();
            draft.scan(&Prefix::of(Kind::Snapshot, &[]), &mut |key, value| {
                let [_, of, _] = key.parts();
                if of == snapshotter {
                    let record: SnapshotRecord = decode(&key, value)?;
                    let committed = record.committing.as_ref().map(|intent| &intent.backend);
                    if there.contains(&record.backend) || committed.is_some_and(|backend| there.contains(backend)) {
                        known.insert(record.backend.clone());
                        known.extend(committed.cloned());
                    } else {
                        gone.push((key, record.parent));
                    }
                }
                Ok(())
            })?;
            let mut dropped = 0;
            for (key, parent) in gone.into_iter().filter(|_| at_start) {
                let [ns, _, own] = key.parts();
                if !parent.is_empty() {
                    draft.delete(Key::child(ns, &snapshotter, &parent, own));
                }
                draft.delete(key);
                dropped += 1;
            }
            let mut count = 0;
            let mut last = draft.load::<SequenceRecord>(&Key::sequence())?.unwrap_or_default().last;
            for Adopted { namespace, key, record } in all
                .into_iter()
                .filter(|info| !known.contains(&info.name))
                .filter_map(adopted)
            {
                let stored = Key::snapshot(&namespace, &snapshotter, &key);
                if draft.has(&stored)? {
                    continue;
                }
                let lease = lease(draft, &namespace, now)?;
                leases::hold(draft, &namespace, &lease, &leases::snapshots(&snapshotter), &key)?;
                if !record.parent.is_empty() {
                    draft.put_empty(Key::child(&namespace, &snapshotter, &record.parent, &key));
                }
                last = last.max(number(&record.backend));
                draft.put(stored, &record);
                count += 1;
            }
            if count > 0 {
                // A name is never given out twice.
                draft.put(Key::sequence(), &SequenceRecord { last });
            }
            Ok((count, dropped))
        })
        .await?;
    if adopted + dropped > 0 {
        tracing::error!(
            snapshotter = name,
            adopted,
            dropped,
            "snapshots without a record were recorded, records without a snapshot dropped"
        );
    }
    looked_at(shared, name).await
}

// === content ===

/// Records every blob that has no record, in every namespace; `at_start` also drops the records of blobs that are gone.
async fn adopt_content(shared: &Arc<Shared>, at_start: bool) -> Result<()> {
    let content = shared.content().await?;
    let mut blobs: BTreeMap<String, ContentInfo> = BTreeMap::new();
    let mut list = content.list(&Ctx::daemon(), &[]).await?;
    while let Some(info) = list.next().await {
        let info = info?;
        blobs.insert(info.digest.as_str().to_owned(), info);
    }
    let (blobs, namespaces, gone) = shared
        .store
        .read(move |view| {
            let mut known = HashSet::new();
            let mut gone = Vec::new();
            view.scan(&Prefix::of(Kind::Blob, &[]), &mut |key, _| {
                let [_, digest] = key.parts();
                if blobs.contains_key(digest) {
                    known.insert(digest.to_owned());
                } else {
                    gone.push(key);
                }
                Ok(())
            })?;
            blobs.retain(|digest, _| !known.contains(digest));
            let namespaces: Vec<String> = view
                .keys(&Prefix::of(Kind::Namespace, &[]))?
                .iter()
                .map(|key| key.namespace().to_owned())
                .collect();
            Ok((blobs, namespaces, gone))
        })
        .await?;
    let dropped = if at_start { gone.len() } else { 0 };
    if dropped > 0 {
        shared
            .store
            .write(move |draft| {
                for key in gone {
                    draft.delete(key);
                }
                Ok(())
            })
            .await?;
    }
    let namespaces = match namespaces {
        none if none.is_empty() => vec![DEFAULT_NAMESPACE.to_owned()],
        some => some,
    };
    let (adopted, now) = (blobs.len(), SystemTime::now());
    let mut rest = blobs.into_values();
    loop {
        let chunk: Vec<ContentInfo> = rest.by_ref().take(CHUNK).collect();
        if chunk.is_empty() {
            break;
        }
        let namespaces = namespaces.clone();
        shared
            .store
            .write(move |draft| {
                for ns in &namespaces {
                    let lease = lease(draft, ns, now)?;
                    for info in &chunk {
                        let digest = info.digest.as_str();
                        let record = BlobRecord {
                            labels: Labels::new(),
                            size: info.size,
                            created: nanos(info.created),
                            updated: nanos(info.updated),
                        };
                        draft.put(Key::blob(ns, digest), &record);
                        leases::hold(draft, ns, &lease, leases::CONTENT, digest)?;
                    }
                }
                Ok(())
            })
            .await?;
    }
    if adopted + dropped > 0 {
        tracing::error!(
            adopted,
            dropped,
            ?namespaces,
            "blobs without a record were recorded in these namespaces, records without a blob dropped"
        );
    }
    looked_at(shared, kind::CONTENT).await
}

// === containers ===

/// Every bundle that can be read. One that cannot is told of.
fn find_bundles(directory: &Path) -> Vec<Bundle> {
    let mut bundles = Vec::new();
    for (namespace, path) in entries(directory) {
        for (id, path) in entries(&path) {
            match read_bundle(&path) {
                Ok(record) => bundles.push(Bundle {
                    namespace: namespace.clone(),
                    id,
                    record,
                }),
                Err(error) => {
                    tracing::error!(bundle = %path.display(), %error, "the container of this bundle cannot be rebuilt");
                }
            }
        }
    }
    bundles
}

/// The directories in a directory whose names are identifiers.
fn entries(directory: &Path) -> BTreeSet<(String, PathBuf)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .filter(|(name, path)| orlop_plugin::contract::validate_identifier(name).is_ok() && path.is_dir())
        .collect()
}

fn read_bundle(bundle: &Path) -> Result<ContainerRecord> {
    use std::io::Read;
    let path = bundle.join("config.json");
    let doing = |error: &std::io::Error| Error::io(format!("read {}", path.display()), error);
    let file = std::fs::File::open(&path).map_err(|error| doing(&error))?;
    let created = file
        .metadata()
        .and_then(|metadata| metadata.modified())
        .map_err(|error| doing(&error))?;
    let mut spec = Vec::new();
    file.take(MAX_SPEC)
        .read_to_end(&mut spec)
        .map_err(|error| doing(&error))?;
    let shim = std::fs::read_to_string(bundle.join("shim-binary-path")).unwrap_or_default();
    Ok(ContainerRecord {
        runtime: runtime_of(&shim),
        spec: Some(Any {
            type_url: SPEC_TYPE.to_owned(),
            value: spec,
        }),
        created: nanos(created),
        updated: nanos(created),
        ..ContainerRecord::default()
    })
}

/// `io.containerd.NAME.VERSION` for `…/containerd-shim-NAME-VERSION`.
fn runtime_of(shim: &str) -> String {
    let name = shim.trim().rsplit('/').next().unwrap_or_default();
    name.strip_prefix("containerd-shim-")
        .and_then(|name| name.rsplit_once('-'))
        .map_or_else(
            || DEFAULT_RUNTIME.to_owned(),
            |(name, version)| format!("io.containerd.{name}.{version}"),
        )
}

/// Records the containers of bundles that have no record. A container's snapshot is the one that bears its id, as clients do it.
async fn rebuild_containers(shared: &Arc<Shared>, bundles: Vec<Bundle>) -> Result<()> {
    if bundles.is_empty() {
        return Ok(());
    }
    let rebuilt = shared
        .store
        .write(move |draft| {
            let mut rebuilt = Vec::new();
            for Bundle {
                namespace,
                id,
                mut record,
            } in bundles
            {
                let key = Key::container(&namespace, &id);
                if draft.has(&key)? {
                    continue;
                }
                draft.ensure_namespace(&namespace)?;
                draft.scan(&Prefix::of(Kind::Snapshot, &[&namespace]), &mut |snapshot, _| {
                    let [_, snapshotter, key] = snapshot.parts();
                    if key == id {
                        (record.snapshotter, record.snapshot_key) = (snapshotter.to_owned(), key.to_owned());
                    }
                    Ok(())
                })?;
                draft.put(key, &record);
                rebuilt.push(format!("{namespace}/{id}"));
            }
            Ok(rebuilt)
        })
        .await?;
    if !rebuilt.is_empty() {
        tracing::error!(
            containers = ?rebuilt,
            "containers without a record were rebuilt from their bundles; their images, labels and extensions are not known"
        );
    }
    Ok(())
}
