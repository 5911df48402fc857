//! Contracts that are looked up when they are called.
//!
//! A service must be there before, and without, what it serves: whose plugin is missing or failed is `Unavailable` then, with a message
//! that names it, and a plugin that was replaced is found again with the next call.

use std::collections::BTreeMap;
use std::sync::Arc;

use orlop_plugin::contract::{
    Any, Applier, ApplyOptions, BoxStream, Comparer, Container, Containers, ContentInfo, ContentStore, CreateTask, Ctx,
    Descriptor, DiffOptions, Digest, Envelope, Events, ExecProcess, Exit, Image, Images, IngestStatus, IngestWriter,
    Labels, Lease, LeaseResource, Leases, Mount, Namespace, NamespaceInfo, Namespaces, Process, ProcessInfo,
    Snapshotter, Snapshotters, Streaming, TaskMetric, Tasks, Transfer, WriterOptions, async_trait,
};
use orlop_plugin::{Host, Result};

/// Whatever the daemon offers at the time of the call.
#[derive(Clone)]
pub(crate) struct Late(pub(crate) Host);

/// Forwards each operation of a contract to what `Host` answers then.
macro_rules! late {
    ($($contract:ident from $accessor:ident {
        $($method:ident($($argument:ident: $type:ty),*) -> $result:ty;)*
    })*) => {$(
        #[async_trait]
        impl $contract for Late {
            $(async fn $method(&self, ctx: &Ctx, $($argument: $type),*) -> Result<$result> {
                self.0.$accessor()?.$method(ctx, $($argument),*).await
            })*
        }
    )*};
}

late! {
    Containers from containers {
        get(id: &str) -> Container;
        list(filters: &[String]) -> BoxStream<Container>;
        create(container: Container) -> Container;
        update(container: Container, fields: &[String]) -> Container;
        delete(id: &str) -> ();
    }
    ContentStore from content {
        info(digest: &Digest) -> ContentInfo;
        update(info: ContentInfo, fields: &[String]) -> ContentInfo;
        list(filters: &[String]) -> BoxStream<ContentInfo>;
        delete(digest: &Digest) -> ();
        read(digest: &Digest, offset: u64, size: u64) -> BoxStream<bytes::Bytes>;
        status(reference: &str) -> IngestStatus;
        statuses(filters: &[String]) -> Vec<IngestStatus>;
        abort(reference: &str) -> ();
        writer(options: WriterOptions) -> Box<dyn IngestWriter>;
    }
    Images from images {
        get(name: &str) -> Image;
        list(filters: &[String]) -> BoxStream<Image>;
        create(image: Image) -> Image;
        update(image: Image, fields: &[String]) -> Image;
        delete(name: &str, sync: bool, target: Option<Descriptor>) -> ();
    }
    Leases from leases {
        create(id: Option<&str>, labels: Labels) -> Lease;
        delete(id: &str, sync: bool) -> ();
        list(filters: &[String]) -> Vec<Lease>;
        add_resource(id: &str, resource: LeaseResource) -> ();
        delete_resource(id: &str, resource: LeaseResource) -> ();
        list_resources(id: &str) -> Vec<LeaseResource>;
    }
    Namespaces from namespaces {
        get(name: &Namespace) -> NamespaceInfo;
        list() -> Vec<NamespaceInfo>;
        create(namespace: NamespaceInfo) -> NamespaceInfo;
        update(namespace: NamespaceInfo, fields: &[String]) -> NamespaceInfo;
        delete(name: &Namespace) -> ();
    }
    Events from events {
        publish(topic: &str, event: Any) -> ();
        forward(envelope: Envelope) -> ();
        subscribe(filters: &[String]) -> BoxStream<Envelope>;
    }
    Streaming from streaming {
        open(id: &str, outgoing: BoxStream<Any>) -> BoxStream<Any>;
        attach(id: &str, outgoing: BoxStream<Any>) -> BoxStream<Any>;
    }
    Transfer from transfer {
        transfer(source: Any, destination: Any, progress: &str) -> ();
    }
    Applier from applier {
        apply(layer: Descriptor, mounts: Vec<Mount>, options: ApplyOptions) -> Descriptor;
    }
    Comparer from comparer {
        diff(lower: Vec<Mount>, upper: Vec<Mount>, options: DiffOptions) -> Descriptor;
    }
    Tasks from tasks {
        create(request: CreateTask) -> u32;
        start(container_id: &str, exec_id: &str) -> u32;
        delete(container_id: &str, exec_id: &str) -> Exit;
        get(container_id: &str, exec_id: &str) -> Process;
        list() -> Vec<Process>;
        kill(container_id: &str, exec_id: &str, signal: u32, all: bool) -> ();
        exec(request: ExecProcess) -> ();
        resize_pty(container_id: &str, exec_id: &str, width: u32, height: u32) -> ();
        close_io(container_id: &str, exec_id: &str, stdin: bool) -> ();
        pause(container_id: &str) -> ();
        resume(container_id: &str) -> ();
        pids(container_id: &str) -> Vec<ProcessInfo>;
        checkpoint(container_id: &str, parent: &str, options: Option<Any>) -> Vec<Descriptor>;
        update(container_id: &str, resources: Option<Any>, annotations: BTreeMap<String, String>) -> ();
        metrics(filters: &[String]) -> Vec<TaskMetric>;
        wait(container_id: &str, exec_id: &str) -> Exit;
    }
}

impl Snapshotters for Late {
    fn snapshotter(&self, name: &str) -> Result<Arc<dyn Snapshotter>> {
        self.0.snapshotter(name)
    }
}
