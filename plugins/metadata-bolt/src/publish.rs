//! Events of this plugin: published after the commit they tell of.

use std::collections::HashMap;

use containerd_client::events;
use orlop_plugin::contract::{Ctx, Labels, Namespace};
use prost::{Message, Name};

use crate::shared::Shared;

/// An event of this plugin; its type decides the topic.
pub(crate) trait Event: Message + Name {
    /// Where it is published.
    const TOPIC: &'static str;
}

macro_rules! topics {
    ($($event:ident => $topic:literal;)*) => {
        $(impl Event for events::$event { const TOPIC: &'static str = $topic; })*
    };
}

topics! {
    ImageCreate => "/images/create";
    ImageUpdate => "/images/update";
    ImageDelete => "/images/delete";
    ContainerCreate => "/containers/create";
    ContainerUpdate => "/containers/update";
    ContainerDelete => "/containers/delete";
    NamespaceCreate => "/namespaces/create";
    NamespaceUpdate => "/namespaces/update";
    NamespaceDelete => "/namespaces/delete";
    ContentCreate => "/content/create";
    ContentDelete => "/content/delete";
    SnapshotPrepare => "/snapshot/prepare";
    SnapshotCommit => "/snapshot/commit";
    SnapshotRemove => "/snapshot/remove";
}

/// Labels in the form of events.
pub(crate) fn event_labels(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Shared {
    /// Publishes an event. The change it tells of is committed, so that a missing exchange is worth a line in the log, not an error.
    pub(crate) async fn publish<E: Event>(&self, ns: &Namespace, event: E) {
        let published = match self.host.events() {
            Ok(exchange) => exchange.publish(&Ctx::new(ns.clone()), E::TOPIC, containerd_client::to_any(&event)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = published {
            tracing::warn!(topic = E::TOPIC, namespace = %ns, %error, "an event was not published");
        }
    }
}
