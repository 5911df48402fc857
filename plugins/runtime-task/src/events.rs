//! The events a shim can no longer send: those of its own death.

use containerd_client::events::{TaskDelete, TaskExit};
use orlop_plugin::contract::{Any, Ctx, Exit, Namespace};
use orlop_plugin::{Host, Result};
use prost::{Message, Name};
use prost_types::Timestamp;

/// Publishes that a task has ended and is gone.
pub async fn publish_end(host: &Host, namespace: &str, exit: &Exit) {
    if let Err(error) = try_publish_end(host, namespace, exit).await {
        tracing::warn!(namespace, id = exit.id, %error, "cannot publish that a task has ended");
    }
}

async fn try_publish_end(host: &Host, namespace: &str, exit: &Exit) -> Result<()> {
    let ctx = Ctx::new(Namespace::new(namespace)?);
    let events = host.events()?;
    let exited_at = exit.exited_at.map(Timestamp::from);
    let ended = TaskExit {
        container_id: exit.id.clone(),
        id: exit.id.clone(),
        pid: exit.pid,
        exit_status: exit.status,
        exited_at,
    };
    events.publish(&ctx, "/tasks/exit", any(&ended)).await?;
    let deleted = TaskDelete {
        container_id: exit.id.clone(),
        pid: exit.pid,
        exit_status: exit.status,
        exited_at,
        id: String::new(),
    };
    events.publish(&ctx, "/tasks/delete", any(&deleted)).await
}

fn any<T: Message + Name>(event: &T) -> Any {
    Any {
        type_url: T::full_name(),
        value: event.encode_to_vec(),
    }
}
