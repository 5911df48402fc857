//! What filters see inside an event: `event.container_id==abc`.
//!
//! The events of `containerd.events` have the fields of their messages that are strings, and their labels; an empty string counts as
//! absent. Other types have none. As in containerd's `api/events/*_fieldpath.pb.go`; numbers and times cannot be filtered by there
//! either.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};

use containerd_client::{events, services::v1 as images};
use orlop_plugin::contract::{Any, Envelope};
use prost::Message;

type Values = BTreeMap<String, String>;

/// What all events of sandboxes begin with; `containerd-client` has no types for them.
#[derive(Clone, PartialEq, Message)]
struct SandboxEvent {
    #[prost(string, tag = "1")]
    sandbox_id: String,
}

/// The fields of one event, decoded when the first filter asks.
pub(crate) struct Fields<'a> {
    event: Option<&'a Any>,
    values: OnceCell<Values>,
}

// === impl Fields ===

impl<'a> Fields<'a> {
    pub(crate) fn of(envelope: &'a Envelope) -> Self {
        Self {
            event: envelope.event.as_ref(),
            values: OnceCell::new(),
        }
    }

    /// The field at `path`, which starts below `event`.
    pub(crate) fn get(&self, path: &[&str]) -> Option<&str> {
        let values = self.values.get_or_init(|| self.event.map(decode).unwrap_or_default());
        values.get(&path.join(".")).map(String::as_str)
    }
}

/// The values of an event by their path.
fn decode(event: &Any) -> Values {
    let mut found = Found::default();
    let name = event.type_url.rsplit('/').next().unwrap_or_default();
    // A message that is not what it says it is has no fields, as in containerd.
    let _ = found.message(name, &event.value);
    found.0
}

#[derive(Default)]
struct Found(Values);

// === impl Found ===

impl Found {
    fn text(&mut self, path: &str, value: String) {
        if !value.is_empty() {
            self.0.insert(path.to_owned(), value);
        }
    }

    fn labels(&mut self, labels: HashMap<String, String>) {
        // A label may be empty and is there nevertheless.
        self.0
            .extend(labels.into_iter().map(|(key, value)| (format!("labels.{key}"), value)));
    }

    fn message(&mut self, name: &str, bytes: &[u8]) -> Result<(), prost::DecodeError> {
        /// Decodes one type and takes the fields named.
        macro_rules! fields {
            ($event:path: $($field:ident),* $(; $labels:ident)?) => {{
                let event = <$event>::decode(bytes)?;
                $(self.text(stringify!($field), event.$field);)*
                $(self.$labels(event.$labels);)?
            }};
        }
        match name {
            "containerd.events.ContainerCreate" => {
                let event = events::ContainerCreate::decode(bytes)?;
                self.text("id", event.id);
                self.text("image", event.image);
                self.text("runtime.name", event.runtime.unwrap_or_default().name);
            }
            "containerd.events.ContainerUpdate" => fields!(events::ContainerUpdate: id, image, snapshot_key; labels),
            "containerd.events.ContainerDelete" => fields!(events::ContainerDelete: id),
            "containerd.events.ContentCreate" => fields!(events::ContentCreate: digest),
            "containerd.events.ContentDelete" => fields!(events::ContentDelete: digest),
            "containerd.services.images.v1.ImageCreate" | "containerd.events.ImageCreate" => {
                fields!(images::ImageCreate: name; labels);
            }
            "containerd.services.images.v1.ImageUpdate" | "containerd.events.ImageUpdate" => {
                fields!(images::ImageUpdate: name; labels);
            }
            "containerd.services.images.v1.ImageDelete" | "containerd.events.ImageDelete" => {
                fields!(images::ImageDelete: name);
            }
            "containerd.events.NamespaceCreate" => fields!(events::NamespaceCreate: name; labels),
            "containerd.events.NamespaceUpdate" => fields!(events::NamespaceUpdate: name; labels),
            "containerd.events.NamespaceDelete" => fields!(events::NamespaceDelete: name),
            "containerd.events.SandboxCreate" | "containerd.events.SandboxStart" | "containerd.events.SandboxExit" => {
                fields!(SandboxEvent: sandbox_id);
            }
            "containerd.events.SnapshotPrepare" => fields!(events::SnapshotPrepare: key, parent, snapshotter),
            "containerd.events.SnapshotCommit" => fields!(events::SnapshotCommit: key, name, snapshotter),
            "containerd.events.SnapshotRemove" => fields!(events::SnapshotRemove: key, snapshotter),
            "containerd.events.TaskCreate" => self.task_create(events::TaskCreate::decode(bytes)?),
            "containerd.events.TaskStart" => fields!(events::TaskStart: container_id),
            "containerd.events.TaskDelete" => fields!(events::TaskDelete: container_id, id),
            "containerd.events.TaskExit" => fields!(events::TaskExit: container_id, id),
            "containerd.events.TaskOOM" => fields!(events::TaskOom: container_id),
            "containerd.events.TaskExecAdded" => fields!(events::TaskExecAdded: container_id, exec_id),
            "containerd.events.TaskExecStarted" => fields!(events::TaskExecStarted: container_id, exec_id),
            "containerd.events.TaskPaused" => fields!(events::TaskPaused: container_id),
            "containerd.events.TaskResumed" => fields!(events::TaskResumed: container_id),
            "containerd.events.TaskCheckpointed" => fields!(events::TaskCheckpointed: container_id, checkpoint),
            _ => {}
        }
        Ok(())
    }

    fn task_create(&mut self, event: events::TaskCreate) {
        self.text("container_id", event.container_id);
        self.text("bundle", event.bundle);
        self.text("checkpoint", event.checkpoint);
        if let Some(io) = event.io {
            self.text("io.stdin", io.stdin);
            self.text("io.stdout", io.stdout);
            self.text("io.stderr", io.stderr);
            self.text("io.terminal", io.terminal.to_string());
        }
    }
}
