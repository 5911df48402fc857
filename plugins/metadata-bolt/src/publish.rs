//! Events of this plugin: published after the commit they tell of.

use std::collections::HashMap;

use containerd_client::events;
// The messages of image events live in the package of the image service.
use containerd_client::services::v1 as images;
use orlop_plugin::contract::{Ctx, Labels, Namespace};
use prost::{Message, Name};

use crate::shared::Shared;

/// An event of this plugin; its type decides the topic.
pub(crate) trait Event: Message + Name {
    /// Where it is published.
    const TOPIC: &'static str;
}

macro_rules! topics {
    ($($event:path => $topic:literal;)*) => {
        $(impl Event for $event { const TOPIC: &'static str = $topic; })*
    };
}

topics! {
    images::ImageCreate => "/images/create";
    images::ImageUpdate => "/images/update";
    images::ImageDelete => "/images/delete";
    events::ContainerCreate => "/containers/create";
    events::ContainerUpdate => "/containers/update";
    events::ContainerDelete => "/containers/delete";
    events::NamespaceCreate => "/namespaces/create";
    events::NamespaceUpdate => "/namespaces/update";
    events::NamespaceDelete => "/namespaces/delete";
    events::ContentCreate => "/content/create";
    events::ContentDelete => "/content/delete";
    events::SnapshotPrepare => "/snapshot/prepare";
    events::SnapshotCommit => "/snapshot/commit";
    events::SnapshotRemove => "/snapshot/remove";
}

/// Labels in the form of events.
pub(crate) fn event_labels(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Shared {
    /// Publishes an event. The change it tells of is committed, so that a missing exchange is worth a line in the log, not an error.
    pub(crate) async fn publish<E: Event>(&self, ns: &Namespace, event: E) {
        let published = match self.host.events() {
            Ok(exchange) => {
                exchange
                    .publish(&Ctx::new(ns.clone()), E::TOPIC, containerd_client::to_any(&event))
                    .await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = published {
            tracing::warn!(topic = E::TOPIC, namespace = %ns, %error, "an event was not published");
        }
    }
}
