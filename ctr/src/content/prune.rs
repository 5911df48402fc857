//! `content prune references`: lets go of layers that are unpacked, by taking away the labels that keep them.

use super::store;
use crate::client::Client;
use anyhow::Result;
use clap::{Args, Subcommand};
use containerd_client::services::v1::DeleteRequest;
use std::collections::HashMap;
use std::time::Duration;

/// What labels that keep content start with.
const CONTENT: &str = "containerd.io/gc.ref.content.";

/// Commands of `ctr content prune`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prunes preference labels from the content store (layers only by default)
    References(ReferencesArgs),
}

/// `ctr content prune references`.
#[derive(Debug, Args)]
pub struct ReferencesArgs {
    /// Allow garbage collection to cleanup asynchronously
    #[arg(long = "async")]
    asynchronous: bool,
    /// Just show updates without applying
    #[arg(long)]
    dry: bool,
}

/// Runs a command.
pub async fn run(client: &Client, command: &Command) -> Result<()> {
    let Command::References(args) = command;
    for blob in store::list(client, Vec::new()).await? {
        let layers: Vec<&String> = blob.labels.keys().filter(|key| keeps_layer(key)).collect();
        for key in &layers {
            if args.dry {
                eprintln!("ctr: would remove label {key} of {}", blob.digest);
            }
        }
        if !args.dry && !layers.is_empty() {
            let cleared = layers.into_iter().map(|key| (key.clone(), String::new()));
            store::set_labels(client, &blob.digest, cleared).await?;
        }
    }
    // The end of a lease is what the collector can be waited for at.
    let lease = client
        .new_lease(String::new(), Duration::from_secs(3600), HashMap::new())
        .await?;
    let id = lease.id().to_owned();
    let request = DeleteRequest {
        id,
        sync: !args.asynchronous,
    };
    client.leases().delete(client.request(request)).await?;
    Ok(())
}

/// Whether a label keeps a layer. Old ones have a number only, of which 0 is the configuration.
fn keeps_layer(key: &str) -> bool {
    key.strip_prefix(CONTENT).is_some_and(|kind| {
        let number = kind.bytes().all(|byte| byte.is_ascii_digit());
        kind.starts_with("l.") || (number && kind != "0")
    })
}

#[cfg(test)]
mod tests {
    use super::keeps_layer;

    #[test]
    fn layers_are_let_go_and_configurations_are_not() {
        for key in ["l.0", "l.12", "1"] {
            assert!(keeps_layer(&format!("containerd.io/gc.ref.content.{key}")), "{key}");
        }
        for key in ["config", "m.0", "0"] {
            assert!(!keeps_layer(&format!("containerd.io/gc.ref.content.{key}")), "{key}");
        }
        assert!(!keeps_layer("containerd.io/gc.root"));
    }
}
