//! `ctr version` and `ctr info`.

use crate::client::{Client, Settings};
use crate::container::info::print_json;
use crate::reflect::Json;
use anyhow::Result;
use containerd_client::services::v1::DeprecationWarning;
use serde_json::json;

/// This client's version, in the form of the daemon's.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"), "+orlop");

/// Revision of the source, when the build knew it.
const REVISION: &str = match option_env!("ORLOP_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// Prints the versions of this client and of the daemon; this client's even when there is no daemon.
pub async fn version(settings: &Settings) -> Result<()> {
    println!("Client:");
    println!("  Version:  {VERSION}");
    println!("  Revision: {REVISION}");
    println!();
    let client = Client::connect(settings).await?;
    let version = client.version().version(client.request(())).await?.into_inner();
    println!("Server:");
    println!("  Version:  {}", version.version);
    println!("  Revision: {}", version.revision);
    let server = client.introspection().server(client.request(())).await?.into_inner();
    println!("  UUID: {}", server.uuid);
    if version.version != VERSION {
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
    let mut members = vec![("uuid".to_owned(), Json::Leaf(server.uuid.into()))];
    // As in Go's JSON of the message, zero and empty fields are left out.
    for (name, value) in [("pid", server.pid), ("pidns", server.pidns)] {
        if value != 0 {
            members.push((name.to_owned(), Json::Leaf(value.into())));
        }
    }
    if !server.deprecations.is_empty() {
        let warning = |warning: &DeprecationWarning| {
            let last = warning.last_occurrence.as_ref().map(crate::clock::rfc3339);
            Json::Leaf(json!({"id": warning.id, "message": warning.message, "last_occurrence": last}))
        };
        let warnings = server.deprecations.iter().map(warning).collect();
        members.push(("deprecations".to_owned(), Json::List(warnings)));
    }
    print_json(&Json::Object(vec![("server".to_owned(), Json::Object(members))]))
}
