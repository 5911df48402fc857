//! A plugin that does nothing but remember what it was asked, and answer what it was told to.

use std::any::Any as Anything;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use orlop_plugin::contract::*;
use orlop_plugin::{Contracts, Error};

/// Everything at once.
#[derive(Default)]
pub struct Probe {
    asked: Mutex<Option<Box<dyn Anything + Send>>>,
    answers: Mutex<VecDeque<Box<dyn Anything + Send>>>,
}

// === impl Probe ===

impl Probe {
    /// What it offers: all there is, as far as it can tell what it was asked.
    pub fn contracts(self: &Arc<Self>) -> Contracts {
        Contracts::default()
            .with_content(self.clone())
            .with_snapshotter(self.clone())
            .with_differ(self.clone())
            .with_images(self.clone())
            .with_containers(self.clone())
            .with_leases(self.clone())
            .with_namespaces(self.clone())
            .with_events(self.clone())
            .with_tasks(self.clone())
            .with_transfer(self.clone())
            .with_gc(self.clone())
            .with_collector(self.clone())
            .with_image_verifier(self.clone())
    }

    /// Answers the next call with this. A stream is a list of what it yields.
    pub fn answer<O: Send + 'static>(&self, answer: Result<O>) {
        self.then([answer]);
    }

    /// Answers the next calls with these.
    pub fn then<O: Send + 'static>(&self, answers: impl IntoIterator<Item = Result<O>>) {
        let answers = answers
            .into_iter()
            .map(|answer| Box::new(answer) as Box<dyn Anything + Send>);
        *self.answers.lock().expect("unpoisoned") = answers.collect();
    }

    /// What the last call had in it, its context first.
    #[track_caller]
    pub fn asked<I: PartialEq + Debug + 'static>(&self, expected: &I) {
        let asked = self
            .asked
            .lock()
            .expect("unpoisoned")
            .take()
            .expect("it was not called");
        let asked = asked.downcast::<I>().expect("another method was called");
        assert_eq!(*asked, *expected);
    }

    /// The same, to look at.
    #[track_caller]
    pub fn take<I: 'static>(&self) -> I {
        let asked = self
            .asked
            .lock()
            .expect("unpoisoned")
            .take()
            .expect("it was not called");
        *asked.downcast::<I>().expect("another method was called")
    }

    fn swap<I: Send + 'static, O: 'static>(&self, input: I) -> Result<O> {
        *self.asked.lock().expect("unpoisoned") = Some(Box::new(input));
        let answer = self.answers.lock().expect("unpoisoned").pop_front();
        match answer.and_then(|answer| answer.downcast::<Result<O>>().ok()) {
            Some(answer) => *answer,
            None => Err(Error::internal("the test told no answer of this type")),
        }
    }

    fn stream<I: Send + 'static, O: Send + 'static>(&self, input: I) -> Result<BoxStream<O>> {
        let items: Vec<Result<O>> = self.swap(input)?;
        Ok(Box::pin(futures_util::stream::iter(items)))
    }
}

#[async_trait]
impl Snapshotter for Probe {
    async fn stat(&self, ctx: &Ctx, key: &str) -> Result<SnapshotInfo> {
        self.swap((ctx.clone(), key.to_owned()))
    }
    async fn update(&self, ctx: &Ctx, info: SnapshotInfo, fields: &[String]) -> Result<SnapshotInfo> {
        self.swap((ctx.clone(), info, fields.to_vec()))
    }
    async fn usage(&self, ctx: &Ctx, key: &str) -> Result<Usage> {
        self.swap((ctx.clone(), key.to_owned()))
    }
    async fn mounts(&self, ctx: &Ctx, key: &str) -> Result<Vec<Mount>> {
        self.swap((ctx.clone(), key.to_owned()))
    }
    async fn prepare(&self, ctx: &Ctx, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.swap((ctx.clone(), key.to_owned(), parent.to_owned(), labels))
    }
    async fn view(&self, ctx: &Ctx, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.swap((ctx.clone(), key.to_owned(), parent.to_owned(), labels))
    }
    async fn commit(&self, ctx: &Ctx, name: &str, key: &str, labels: Labels) -> Result<()> {
        self.swap((ctx.clone(), name.to_owned(), key.to_owned(), labels))
    }
    async fn commit_onto(&self, ctx: &Ctx, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        self.swap((ctx.clone(), name.to_owned(), key.to_owned(), parent.to_owned(), labels))
    }
    async fn remove(&self, ctx: &Ctx, key: &str) -> Result<()> {
        self.swap((ctx.clone(), key.to_owned()))
    }
    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<SnapshotInfo>> {
        self.stream((ctx.clone(), filters.to_vec()))
    }
    async fn cleanup(&self, ctx: &Ctx) -> Result<()> {
        self.swap((ctx.clone(),))
    }
}

#[async_trait]
impl ContentStore for Probe {
    async fn info(&self, ctx: &Ctx, digest: &Digest) -> Result<ContentInfo> {
        self.swap((ctx.clone(), digest.clone()))
    }
    async fn update(&self, ctx: &Ctx, info: ContentInfo, fields: &[String]) -> Result<ContentInfo> {
        self.swap((ctx.clone(), info, fields.to_vec()))
    }
    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<ContentInfo>> {
        self.stream((ctx.clone(), filters.to_vec()))
    }
    async fn delete(&self, ctx: &Ctx, digest: &Digest) -> Result<()> {
        self.swap((ctx.clone(), digest.clone()))
    }
    async fn read(&self, ctx: &Ctx, digest: &Digest, offset: u64, size: u64) -> Result<BoxStream<Bytes>> {
        self.stream((ctx.clone(), digest.clone(), offset, size))
    }
    async fn status(&self, ctx: &Ctx, reference: &str) -> Result<IngestStatus> {
        self.swap((ctx.clone(), reference.to_owned()))
    }
    async fn statuses(&self, ctx: &Ctx, filters: &[String]) -> Result<Vec<IngestStatus>> {
        self.swap((ctx.clone(), filters.to_vec()))
    }
    async fn abort(&self, ctx: &Ctx, reference: &str) -> Result<()> {
        self.swap((ctx.clone(), reference.to_owned()))
    }
    async fn writer(&self, ctx: &Ctx, options: WriterOptions) -> Result<Box<dyn IngestWriter>> {
        self.swap((ctx.clone(), options))
    }
}

#[async_trait]
impl Applier for Probe {
    async fn apply(
        &self,
        ctx: &Ctx,
        layer: Descriptor,
        mounts: Vec<Mount>,
        options: ApplyOptions,
    ) -> Result<Descriptor> {
        self.swap((ctx.clone(), layer, mounts, options))
    }
}

#[async_trait]
impl Comparer for Probe {
    async fn diff(&self, ctx: &Ctx, lower: Vec<Mount>, upper: Vec<Mount>, options: DiffOptions) -> Result<Descriptor> {
        self.swap((ctx.clone(), lower, upper, options))
    }
}

#[async_trait]
impl Images for Probe {
    async fn get(&self, ctx: &Ctx, name: &str) -> Result<Image> {
        self.swap((ctx.clone(), name.to_owned()))
    }
    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<Image>> {
        self.stream((ctx.clone(), filters.to_vec()))
    }
    async fn create(&self, ctx: &Ctx, image: Image) -> Result<Image> {
        self.swap((ctx.clone(), image))
    }
    async fn update(&self, ctx: &Ctx, image: Image, fields: &[String]) -> Result<Image> {
        self.swap((ctx.clone(), image, fields.to_vec()))
    }
    async fn delete(&self, ctx: &Ctx, name: &str, sync: bool, target: Option<Descriptor>) -> Result<()> {
        self.swap((ctx.clone(), name.to_owned(), sync, target))
    }
}

#[async_trait]
impl Containers for Probe {
    async fn get(&self, ctx: &Ctx, id: &str) -> Result<Container> {
        self.swap((ctx.clone(), id.to_owned()))
    }
    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<Container>> {
        self.stream((ctx.clone(), filters.to_vec()))
    }
    async fn create(&self, ctx: &Ctx, container: Container) -> Result<Container> {
        self.swap((ctx.clone(), container))
    }
    async fn update(&self, ctx: &Ctx, container: Container, fields: &[String]) -> Result<Container> {
        self.swap((ctx.clone(), container, fields.to_vec()))
    }
    async fn delete(&self, ctx: &Ctx, id: &str) -> Result<()> {
        self.swap((ctx.clone(), id.to_owned()))
    }
}

#[async_trait]
impl Leases for Probe {
    async fn create(&self, ctx: &Ctx, id: Option<&str>, labels: Labels) -> Result<Lease> {
        self.swap((ctx.clone(), id.map(str::to_owned), labels))
    }
    async fn delete(&self, ctx: &Ctx, id: &str, sync: bool) -> Result<()> {
        self.swap((ctx.clone(), id.to_owned(), sync))
    }
    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<Vec<Lease>> {
        self.swap((ctx.clone(), filters.to_vec()))
    }
    async fn add_resource(&self, ctx: &Ctx, id: &str, resource: LeaseResource) -> Result<()> {
        self.swap((ctx.clone(), id.to_owned(), resource))
    }
    async fn delete_resource(&self, ctx: &Ctx, id: &str, resource: LeaseResource) -> Result<()> {
        self.swap((ctx.clone(), id.to_owned(), resource))
    }
    async fn list_resources(&self, ctx: &Ctx, id: &str) -> Result<Vec<LeaseResource>> {
        self.swap((ctx.clone(), id.to_owned()))
    }
}

#[async_trait]
impl Namespaces for Probe {
    async fn get(&self, ctx: &Ctx, name: &Namespace) -> Result<NamespaceInfo> {
        self.swap((ctx.clone(), name.clone()))
    }
    async fn list(&self, ctx: &Ctx) -> Result<Vec<NamespaceInfo>> {
        self.swap((ctx.clone(),))
    }
    async fn create(&self, ctx: &Ctx, namespace: NamespaceInfo) -> Result<NamespaceInfo> {
        self.swap((ctx.clone(), namespace))
    }
    async fn update(&self, ctx: &Ctx, namespace: NamespaceInfo, fields: &[String]) -> Result<NamespaceInfo> {
        self.swap((ctx.clone(), namespace, fields.to_vec()))
    }
    async fn delete(&self, ctx: &Ctx, name: &Namespace) -> Result<()> {
        self.swap((ctx.clone(), name.clone()))
    }
}

#[async_trait]
impl Events for Probe {
    async fn publish(&self, ctx: &Ctx, topic: &str, event: Any) -> Result<()> {
        self.swap((ctx.clone(), topic.to_owned(), event))
    }
    async fn forward(&self, ctx: &Ctx, envelope: Envelope) -> Result<()> {
        self.swap((ctx.clone(), envelope))
    }
    async fn subscribe(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<Envelope>> {
        self.stream((ctx.clone(), filters.to_vec()))
    }
}

#[async_trait]
impl Tasks for Probe {
    async fn create(&self, ctx: &Ctx, request: CreateTask) -> Result<u32> {
        self.swap((ctx.clone(), request))
    }
    async fn start(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<u32> {
        self.swap((ctx.clone(), container_id.to_owned(), exec_id.to_owned()))
    }
    async fn delete(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Exit> {
        self.swap((ctx.clone(), container_id.to_owned(), exec_id.to_owned()))
    }
    async fn get(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Process> {
        self.swap((ctx.clone(), container_id.to_owned(), exec_id.to_owned()))
    }
    async fn list(&self, ctx: &Ctx) -> Result<Vec<Process>> {
        self.swap((ctx.clone(),))
    }
    async fn kill(&self, ctx: &Ctx, container_id: &str, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        self.swap((ctx.clone(), container_id.to_owned(), exec_id.to_owned(), signal, all))
    }
    async fn exec(&self, ctx: &Ctx, request: ExecProcess) -> Result<()> {
        self.swap((ctx.clone(), request))
    }
    async fn resize_pty(&self, ctx: &Ctx, container_id: &str, exec_id: &str, width: u32, height: u32) -> Result<()> {
        self.swap((ctx.clone(), container_id.to_owned(), exec_id.to_owned(), width, height))
    }
    async fn close_io(&self, ctx: &Ctx, container_id: &str, exec_id: &str, stdin: bool) -> Result<()> {
        self.swap((ctx.clone(), container_id.to_owned(), exec_id.to_owned(), stdin))
    }
    async fn pause(&self, ctx: &Ctx, container_id: &str) -> Result<()> {
        self.swap((ctx.clone(), container_id.to_owned()))
    }
    async fn resume(&self, ctx: &Ctx, container_id: &str) -> Result<()> {
        self.swap((ctx.clone(), container_id.to_owned()))
    }
    async fn pids(&self, ctx: &Ctx, container_id: &str) -> Result<Vec<ProcessInfo>> {
        self.swap((ctx.clone(), container_id.to_owned()))
    }
    async fn checkpoint(
        &self,
        ctx: &Ctx,
        container_id: &str,
        parent: &str,
        options: Option<Any>,
    ) -> Result<Vec<Descriptor>> {
        self.swap((ctx.clone(), container_id.to_owned(), parent.to_owned(), options))
    }
    async fn update(
        &self,
        ctx: &Ctx,
        container_id: &str,
        resources: Option<Any>,
        annotations: BTreeMap<String, String>,
    ) -> Result<()> {
        self.swap((ctx.clone(), container_id.to_owned(), resources, annotations))
    }
    async fn metrics(&self, ctx: &Ctx, filters: &[String]) -> Result<Vec<TaskMetric>> {
        self.swap((ctx.clone(), filters.to_vec()))
    }
    async fn wait(&self, ctx: &Ctx, container_id: &str, exec_id: &str) -> Result<Exit> {
        self.swap((ctx.clone(), container_id.to_owned(), exec_id.to_owned()))
    }
}

#[async_trait]
impl Transfer for Probe {
    async fn transfer(&self, ctx: &Ctx, source: Any, destination: Any, progress: &str) -> Result<()> {
        self.swap((ctx.clone(), source, destination, progress.to_owned()))
    }
}

#[async_trait]
impl ImageVerifier for Probe {
    async fn verify(&self, ctx: &Ctx, name: &str, target: Descriptor) -> Result<Judgement> {
        self.swap((ctx.clone(), name.to_owned(), target))
    }
}

#[async_trait]
impl GarbageCollector for Probe {
    async fn schedule_and_wait(&self, ctx: &Ctx) -> Result<GcStats> {
        self.swap((ctx.clone(),))
    }
}

#[async_trait]
impl Collector for Probe {
    async fn collect(&self, ctx: &Ctx) -> Result<GcStats> {
        self.swap((ctx.clone(),))
    }
    async fn mutations(&self, ctx: &Ctx) -> Result<BoxStream<Mutation>> {
        self.stream((ctx.clone(),))
    }
}
