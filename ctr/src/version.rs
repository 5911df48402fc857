//! `ctr version` and `ctr info`.

use crate::client::{Client, Settings};
use crate::container::info::print_json;
use anyhow::Result;
use serde_json::{Map, Value, json};

/// Revision of the source, when the build knew it.
const REVISION: &str = match option_env!("ORLOP_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// Prints the versions of this client and of the daemon; this client's even when there is no daemon.
pub async fn version(settings: &Settings) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    println!("Client:");
    println!("  Version:  {own}");
    println!("  Revision: {REVISION}");
    println!();
    let client = Client::connect(settings).await?;
    let version = client.version().version(client.request(())).await?.into_inner();
    println!("Server:");
    println!("  Version:  {}", version.version);
    println!("  Revision: {}", version.revision);
    let server = client.introspection().server(client.request(())).await?.into_inner();
    println!("  UUID: {}", server.uuid);
    if version.version != own {
        eprintln!("WARNING: version mismatch");
    }
    if version.revision != REVISION {
        eprintln!("WARNING: revision mismatch");
    }
    Ok(())
}

/// Prints what the daemon says about itself.
pub async fn info(client: &Client) -> Result<()> {
    let server = client.introspection().server(client.request(())).await?.into_inner();
    let mut members = Map::new();
    members.insert("uuid".to_owned(), json!(server.uuid));
    // As in Go's JSON of the message, zero and empty fields are left out.
    for (name, value) in [("pid", server.pid), ("pidns", server.pidns)] {
        if value != 0 {
            members.insert(name.to_owned(), json!(value));
        }
    }
    if !server.deprecations.is_empty() {
        let warnings = server.deprecations.iter().map(|warning| {
            let last = warning.last_occurrence.as_ref().map(crate::clock::rfc3339);
            json!({"id": warning.id, "message": warning.message, "last_occurrence": last})
        });
        members.insert("deprecations".to_owned(), warnings.collect());
    }
    print_json(&json!({"server": Value::Object(members)}))
}
