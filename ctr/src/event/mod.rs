//! `ctr events`: the daemon's events as they happen, one a line.

use crate::client::Client;
use crate::clock;
use crate::reflect;
use anyhow::{Context, Result};
use clap::Args;
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::types::Envelope;
use containerd_shim_protos::events::{container, content, image, namespace, snapshot, task};
use containerd_shim_protos::protobuf::reflect::MessageDescriptor;

/// `ctr events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Filters; an event that meets one of them is shown
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// Prints events until the daemon ends.
pub async fn run(args: &EventsArgs, client: &Client) -> Result<()> {
    let request = client.request(SubscribeRequest {
        filters: args.filters.clone(),
    });
    let mut events = client.events().subscribe(request).await?.into_inner();
    while let Some(envelope) = events.message().await? {
        match line(&envelope) {
            Ok(line) => println!("{line}"),
            Err(error) => eprintln!("ctr: {}: {error:#}", envelope.topic),
        }
    }
    Ok(())
}

fn line(envelope: &Envelope) -> Result<String> {
    let event = match &envelope.event {
        None => String::new(),
        Some(event) => {
            let name = event.type_url.rsplit('/').next().unwrap_or_default();
            let kind = message(name).with_context(|| format!("cannot unmarshal an event of type {name}"))?;
            let message = kind
                .parse_from_bytes(&event.value)
                .with_context(|| format!("event of type {name}"))?;
            serde_json::to_string(&reflect::json(&*message)).context("cannot marshal the event into JSON")?
        }
    };
    let time = clock::go_default(&envelope.timestamp.unwrap_or_default());
    Ok(format!("{time} {} {} {event}", envelope.namespace, envelope.topic))
}

/// The event message with a full name.
fn message(name: &str) -> Option<MessageDescriptor> {
    let files = [
        task::file_descriptor(),
        container::file_descriptor(),
        snapshot::file_descriptor(),
        image::file_descriptor(),
        content::file_descriptor(),
        namespace::file_descriptor(),
    ];
    let full_name = format!(".{name}");
    files.into_iter().find_map(|file| file.message_by_full_name(&full_name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_client::events::TaskExit;
    use prost::Message;

    #[test]
    fn an_event_is_its_time_namespace_topic_and_json() {
        let exit = TaskExit {
            container_id: "c".to_owned(),
            exit_status: 3,
            ..TaskExit::default()
        };
        let envelope = Envelope {
            timestamp: Some(prost_types::Timestamp {
                seconds: 0,
                nanos: 5_000_000,
            }),
            namespace: "default".to_owned(),
            topic: "/tasks/exit".to_owned(),
            event: Some(prost_types::Any {
                type_url: "containerd.events.TaskExit".to_owned(),
                value: exit.encode_to_vec(),
            }),
        };
        assert_eq!(
            line(&envelope).unwrap(),
            r#"1970-01-01 00:00:00.005 +0000 UTC default /tasks/exit {"container_id":"c","exit_status":3}"#
        );
    }
}
