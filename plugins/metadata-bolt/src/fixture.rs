//! What the tests stand on: a daemon's host with simple backends in memory, which survive a "crash" of the plugin over them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use orlop_plugin::contract::*;
use orlop_plugin::filter::Filters;
use orlop_plugin::registration::{HostApi, HostPlugin};
use orlop_plugin::{Contracts, Host, PluginUri, Result, kind};
use sha2::{Digest as _, Sha256};

use crate::shared::Shared;
use crate::store::Store;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The digest of some bytes.
pub(crate) fn digest(bytes: impl AsRef<[u8]>) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes))
}

/// A call in the namespace `ns`.
pub(crate) fn ctx(ns: &str) -> Ctx {
    Ctx::new(Namespace::new(ns).expect("a namespace"))
}

/// Labels of pairs.
pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

// === content ===

/// A content store in memory.
#[derive(Clone, Default)]
pub(crate) struct MemoryContent(pub(crate) Arc<Mutex<Blobs>>);

#[derive(Default)]
pub(crate) struct Blobs {
    pub(crate) blobs: BTreeMap<Digest, Bytes>,
    /// The bytes, and whether a writer has it open.
    pub(crate) ingests: BTreeMap<String, (Vec<u8>, bool)>,
}

struct MemoryWriter {
    store: MemoryContent,
    reference: String,
}

impl MemoryContent {
    fn blob(&self, digest: &Digest) -> Result<Bytes> {
        lock(&self.0)
            .blobs
            .get(digest)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("no blob {digest}")))
    }

    fn info_of(digest: &Digest, bytes: &Bytes) -> ContentInfo {
        ContentInfo {
            digest: digest.clone(),
            size: bytes.len() as u64,
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            labels: Labels::new(),
        }
    }

    fn status_of(reference: &str, bytes: &[u8]) -> IngestStatus {
        IngestStatus {
            reference: reference.to_owned(),
            started: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            offset: bytes.len() as u64,
            total: 0,
            expected: None,
        }
    }
}

#[async_trait]
impl ContentStore for MemoryContent {
    async fn info(&self, _: &Ctx, digest: &Digest) -> Result<ContentInfo> {
        Ok(Self::info_of(digest, &self.blob(digest)?))
    }
    async fn update(&self, _: &Ctx, _: ContentInfo, _: &[String]) -> Result<ContentInfo> {
        Err(Error::unimplemented("labels are the metadata's"))
    }
    async fn list(&self, _: &Ctx, _: &[String]) -> Result<BoxStream<ContentInfo>> {
        Ok(stream_of(
            lock(&self.0)
                .blobs
                .iter()
                .map(|(digest, bytes)| Self::info_of(digest, bytes))
                .collect(),
        ))
    }
    async fn delete(&self, _: &Ctx, digest: &Digest) -> Result<()> {
        self.blob(digest)?;
        lock(&self.0).blobs.remove(digest);
        Ok(())
    }
    async fn read(&self, _: &Ctx, digest: &Digest, offset: u64, size: u64) -> Result<BoxStream<Bytes>> {
        let bytes = self.blob(digest)?;
        let rest = bytes.slice(offset as usize..);
        Ok(stream_of(vec![if size == 0 {
            rest
        } else {
            rest.slice(..size as usize)
        }]))
    }
    async fn status(&self, _: &Ctx, reference: &str) -> Result<IngestStatus> {
        let blobs = lock(&self.0);
        let (bytes, _) = blobs
            .ingests
            .get(reference)
            .ok_or_else(|| Error::not_found("no such ingest"))?;
        Ok(Self::status_of(reference, bytes))
    }
    async fn statuses(&self, _: &Ctx, _: &[String]) -> Result<Vec<IngestStatus>> {
        Ok(lock(&self.0)
            .ingests
            .iter()
            .map(|(reference, (bytes, _))| Self::status_of(reference, bytes))
            .collect())
    }
    async fn abort(&self, _: &Ctx, reference: &str) -> Result<()> {
        let removed = lock(&self.0).ingests.remove(reference);
        removed.map(|_| ()).ok_or_else(|| Error::not_found("no such ingest"))
    }
    async fn writer(&self, _: &Ctx, options: WriterOptions) -> Result<Box<dyn IngestWriter>> {
        assert_eq!(options.expected, None, "the digest is not the backend's business");
        let mut blobs = lock(&self.0);
        let (_, open) = blobs.ingests.entry(options.reference.clone()).or_default();
        if std::mem::replace(open, true) {
            return Err(Error::unavailable(format!("{} is locked", options.reference)));
        }
        Ok(Box::new(MemoryWriter {
            store: self.clone(),
            reference: options.reference,
        }))
    }
}

#[async_trait]
impl IngestWriter for MemoryWriter {
    async fn status(&mut self) -> Result<IngestStatus> {
        self.store.status(&Ctx::daemon(), &self.reference).await
    }
    async fn digest(&mut self) -> Result<Digest> {
        Ok(digest(&lock(&self.store.0).ingests[&self.reference].0))
    }
    async fn write(&mut self, data: Bytes) -> Result<()> {
        if let Some((bytes, _)) = lock(&self.store.0).ingests.get_mut(&self.reference) {
            bytes.extend_from_slice(&data);
        }
        Ok(())
    }
    async fn truncate(&mut self, size: u64) -> Result<()> {
        if let Some((bytes, _)) = lock(&self.store.0).ingests.get_mut(&self.reference) {
            bytes.truncate(size as usize);
        }
        Ok(())
    }
    async fn commit(&mut self, options: CommitOptions) -> Result<Digest> {
        let mut blobs = lock(&self.store.0);
        let bytes = blobs.ingests.get(&self.reference).map(|(bytes, _)| bytes.clone());
        let bytes = bytes.ok_or_else(|| Error::not_found("no such ingest"))?;
        let actual = digest(&bytes);
        if options.expected.is_some_and(|expected| expected != actual) || options.size != bytes.len() as u64 {
            return Err(Error::failed_precondition("another size or digest"));
        }
        blobs.ingests.remove(&self.reference);
        match blobs.blobs.insert(actual.clone(), bytes.into()) {
            Some(_) => Err(Error::already_exists("the blob is there")),
            None => Ok(actual),
        }
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        if let Some((_, open)) = lock(&self.store.0).ingests.get_mut(&self.reference) {
            *open = false;
        }
    }
}

// === snapshots ===

/// A snapshotter in memory. It can be told to lose its answer to the next commit, before or after the deed, and to be out of reach.
#[derive(Clone, Default)]
pub(crate) struct MemorySnapshotter(pub(crate) Arc<Snapshots>);

#[derive(Default)]
pub(crate) struct Snapshots {
    pub(crate) infos: Mutex<BTreeMap<String, SnapshotInfo>>,
    /// The label `containerd.io/snapshot.ref` of what is there already: what a remote snapshotter knows.
    pub(crate) remote: Mutex<BTreeMap<String, String>>,
    pub(crate) lose_commit: Mutex<Option<Lose>>,
    pub(crate) out_of_reach: AtomicBool,
    pub(crate) cleaned: AtomicBool,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Lose {
    Before,
    After,
}

impl MemorySnapshotter {
    fn reach(&self) -> Result<()> {
        if self.0.out_of_reach.load(Ordering::SeqCst) {
            return Err(Error::unavailable("the snapshotter is out of reach"));
        }
        Ok(())
    }

    /// The names of all snapshots.
    pub(crate) fn names(&self) -> Vec<String> {
        lock(&self.0.infos).keys().cloned().collect()
    }

    fn make(&self, kind: SnapshotKind, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.reach()?;
        let mut infos = lock(&self.0.infos);
        if infos.contains_key(key) {
            return Err(Error::already_exists("the key is taken"));
        }
        if !parent.is_empty()
            && infos
                .get(parent)
                .is_none_or(|parent| parent.kind != SnapshotKind::Committed)
        {
            return Err(Error::not_found(format!("no committed parent {parent}")));
        }
        let mut made = |name: &str, kind| {
            let now = SystemTime::now();
            let info = SnapshotInfo {
                kind,
                name: name.to_owned(),
                parent: parent.to_owned(),
                labels: labels.clone(),
                created: now,
                updated: now,
            };
            infos.insert(name.to_owned(), info);
        };
        let wanted = labels.get("containerd.io/snapshot.ref");
        if let Some(name) = wanted.and_then(|wanted| lock(&self.0.remote).get(wanted).cloned()) {
            made(&name, SnapshotKind::Committed);
            return Err(Error::already_exists("the layer is there"));
        }
        made(key, kind);
        Ok(vec![Mount {
            kind: "bind".into(),
            source: format!("/snapshots/{key}"),
            ..Mount::default()
        }])
    }
}

#[async_trait]
impl Snapshotter for MemorySnapshotter {
    async fn stat(&self, _: &Ctx, key: &str) -> Result<SnapshotInfo> {
        self.reach()?;
        lock(&self.0.infos)
            .get(key)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("no snapshot {key}")))
    }
    async fn update(&self, ctx: &Ctx, info: SnapshotInfo, _: &[String]) -> Result<SnapshotInfo> {
        self.stat(ctx, &info.name).await?;
        if let Some(old) = lock(&self.0.infos).get_mut(&info.name) {
            old.labels = info.labels;
        }
        self.stat(ctx, &info.name).await
    }
    async fn usage(&self, ctx: &Ctx, key: &str) -> Result<Usage> {
        self.stat(ctx, key).await.map(|_| Usage {
            inodes: 1,
            size: key.len() as u64,
        })
    }
    async fn mounts(&self, ctx: &Ctx, key: &str) -> Result<Vec<Mount>> {
        self.stat(ctx, key).await.map(|_| {
            vec![Mount {
                source: key.to_owned(),
                ..Mount::default()
            }]
        })
    }
    async fn prepare(&self, _: &Ctx, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.make(SnapshotKind::Active, key, parent, labels)
    }
    async fn view(&self, _: &Ctx, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.make(SnapshotKind::View, key, parent, labels)
    }
    async fn commit(&self, _: &Ctx, name: &str, key: &str, labels: Labels) -> Result<()> {
        self.reach()?;
        let lose = lock(&self.0.lose_commit).take();
        if lose == Some(Lose::Before) {
            self.0.out_of_reach.store(true, Ordering::SeqCst);
            return Err(Error::unavailable("gone before the commit"));
        }
        let mut infos = lock(&self.0.infos);
        if infos.contains_key(name) {
            return Err(Error::already_exists("the name is taken"));
        }
        if infos.get(key).is_none_or(|info| info.kind != SnapshotKind::Active) {
            return Err(Error::failed_precondition(format!("{key} is not active")));
        }
        let old = infos
            .remove(key)
            .ok_or_else(|| Error::not_found(format!("no snapshot {key}")))?;
        let info = SnapshotInfo {
            kind: SnapshotKind::Committed,
            name: name.to_owned(),
            labels,
            ..old
        };
        infos.insert(name.to_owned(), info);
        if lose == Some(Lose::After) {
            self.0.out_of_reach.store(true, Ordering::SeqCst);
            return Err(Error::unavailable("gone after the commit"));
        }
        Ok(())
    }
    async fn remove(&self, ctx: &Ctx, key: &str) -> Result<()> {
        self.stat(ctx, key).await?;
        let mut infos = lock(&self.0.infos);
        if infos.values().any(|info| info.parent == key) {
            return Err(Error::failed_precondition(format!("{key} has children")));
        }
        infos.remove(key);
        Ok(())
    }
    async fn list(&self, _: &Ctx, filters: &[String]) -> Result<BoxStream<SnapshotInfo>> {
        self.reach()?;
        let filters = Filters::parse(filters)?;
        let infos = lock(&self.0.infos).values().cloned().collect::<Vec<_>>();
        let wanted = infos.into_iter().filter(|info| {
            filters.matches(|path| match path {
                ["parent"] => Some(info.parent.as_str()),
                ["labels", key @ ..] => orlop_plugin::filter::label(&info.labels, key),
                _ => None,
            })
        });
        Ok(stream_of(wanted.collect()))
    }
    async fn cleanup(&self, _: &Ctx) -> Result<()> {
        self.0.cleaned.store(true, Ordering::SeqCst);
        Ok(())
    }
}

// === events and the host ===

/// Keeps what is published, as `namespace topic`, with the event.
#[derive(Clone, Default)]
pub(crate) struct Published(pub(crate) Arc<Mutex<Vec<(String, Any)>>>);

#[async_trait]
impl Events for Published {
    async fn publish(&self, ctx: &Ctx, topic: &str, event: Any) -> Result<()> {
        lock(&self.0).push((format!("{} {topic}", ctx.namespace()?), event));
        Ok(())
    }
    async fn forward(&self, _: &Ctx, _: Envelope) -> Result<()> {
        Err(Error::unimplemented("nobody forwards here"))
    }
    async fn subscribe(&self, _: &Ctx, _: &[String]) -> Result<BoxStream<Envelope>> {
        Err(Error::unimplemented("nobody subscribes here"))
    }
}

/// The backends of a daemon: they live longer than the plugin under test.
#[derive(Clone, Default)]
pub(crate) struct Backends {
    pub(crate) content: MemoryContent,
    pub(crate) snapshotter: MemorySnapshotter,
    pub(crate) events: Published,
}

#[async_trait]
impl HostApi for Backends {
    fn daemon(&self) -> Contracts {
        Contracts {
            events: Some(Arc::new(self.events.clone())),
            ..Contracts::default()
        }
    }
    async fn plugins(&self, kind: &str) -> Result<Vec<HostPlugin>> {
        let (id, contracts) = match kind {
            kind::CONTENT => (
                "content",
                Contracts {
                    content: Some(Arc::new(self.content.clone())),
                    ..Contracts::default()
                },
            ),
            kind::SNAPSHOTTER => (
                "native",
                Contracts {
                    snapshotter: Some(Arc::new(self.snapshotter.clone())),
                    ..Contracts::default()
                },
            ),
            _ => return Ok(Vec::new()),
        };
        Ok(vec![HostPlugin {
            uri: PluginUri::new(kind, id),
            contracts,
            exports: BTreeMap::default(),
        }])
    }
}

/// The plugin over a database in a directory of its own.
pub(crate) struct Metadata {
    pub(crate) shared: Arc<Shared>,
    pub(crate) contracts: Contracts,
    pub(crate) backends: Backends,
    directory: Arc<tempfile::TempDir>,
    share_content: bool,
}

impl Metadata {
    /// With the policy `shared`.
    pub(crate) fn new() -> Self {
        Self::with_policy(true)
    }

    pub(crate) fn with_policy(share_content: bool) -> Self {
        Self::open(
            Arc::new(tempfile::tempdir().expect("a directory")),
            Backends::default(),
            share_content,
        )
    }

    fn open(directory: Arc<tempfile::TempDir>, backends: Backends, share_content: bool) -> Self {
        let store = Store::open(&directory.path().join("meta.redb")).expect("a database");
        let shared = Arc::new(Shared::new(store, Host::new(Arc::new(backends.clone())), share_content));
        let contracts = crate::contracts(&shared);
        Self {
            shared,
            contracts,
            backends,
            directory,
            share_content,
        }
    }

    /// As after a crash: what is in memory is gone, the database and the backends are as they were.
    pub(crate) async fn crash(self) -> Self {
        // Only the file's lock needs it: whatever was acknowledged is on the disk already.
        self.shared.store.close().await;
        let Self {
            shared,
            contracts,
            backends,
            directory,
            share_content,
        } = self;
        drop(contracts);
        assert_eq!(Arc::strong_count(&shared), 1, "something still runs");
        drop(shared);
        Self::open(directory, backends, share_content)
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    pub(crate) fn content(&self) -> Arc<dyn ContentStore> {
        self.contracts.content.clone().expect("offered")
    }

    pub(crate) fn images(&self) -> Arc<dyn Images> {
        self.contracts.images.clone().expect("offered")
    }

    pub(crate) fn containers(&self) -> Arc<dyn Containers> {
        self.contracts.containers.clone().expect("offered")
    }

    pub(crate) fn leases(&self) -> Arc<dyn Leases> {
        self.contracts.leases.clone().expect("offered")
    }

    pub(crate) fn namespaces(&self) -> Arc<dyn Namespaces> {
        self.contracts.namespaces.clone().expect("offered")
    }

    pub(crate) fn collector(&self) -> Arc<dyn Collector> {
        self.contracts.collector.clone().expect("offered")
    }

    pub(crate) fn snapshotter(&self) -> Arc<dyn Snapshotter> {
        self.contracts
            .snapshotters
            .clone()
            .expect("offered")
            .snapshotter("native")
            .expect("running")
    }

    /// Collects garbage.
    pub(crate) async fn collect(&self) -> GcStats {
        self.collector().collect(&Ctx::daemon()).await.expect("a collection")
    }

    /// Stores a blob the ordinary way.
    pub(crate) async fn blob(&self, ctx: &Ctx, bytes: &'static str, labels: Labels) -> Digest {
        let options = WriterOptions {
            reference: format!("upload {bytes}"),
            ..WriterOptions::default()
        };
        let mut writer = self.content().writer(ctx, options).await.expect("a writer");
        writer.write(bytes.into()).await.expect("written");
        let options = CommitOptions {
            labels,
            expected: Some(digest(bytes)),
            ..CommitOptions::default()
        };
        writer.commit(options).await.expect("committed")
    }

    /// An image of `target`.
    pub(crate) fn image(name: &str, target: &Digest, labels: Labels) -> Image {
        Image {
            name: name.to_owned(),
            labels,
            target: Descriptor {
                media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                digest: target.clone(),
                size: 7,
                annotations: BTreeMap::new(),
            },
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
        }
    }

    /// The topics published so far.
    pub(crate) fn topics(&self) -> Vec<String> {
        lock(&self.backends.events.0)
            .iter()
            .map(|(topic, _)| topic.clone())
            .collect()
    }
}
