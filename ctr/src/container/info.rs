//! `containers info`: a container's record as JSON, in the form of containerd's own structure.

use crate::client::Client;
use crate::reflect::Json;
use crate::task::load;
use anyhow::{Context, Result};
use clap::Args;
use containerd_client::services::v1::Container;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `ctr containers info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Only display the spec
    #[arg(long)]
    pub spec: bool,
    /// Container id
    #[arg(value_name = "CONTAINER")]
    pub id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Record {
    #[serde(rename = "ID")]
    id: String,
    labels: Option<BTreeMap<String, String>>,
    image: String,
    runtime: Value,
    snapshot_key: String,
    snapshotter: String,
    created_at: String,
    updated_at: String,
    extensions: Option<BTreeMap<String, Value>>,
    #[serde(rename = "SandboxID")]
    sandbox_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<Json>,
}

/// Prints the record, or its specification alone.
pub async fn info(client: &Client, args: &InfoArgs) -> Result<()> {
    let container = load(client, &args.id).await?;
    let spec = container.spec.as_ref().filter(|spec| !spec.value.is_empty());
    let spec = spec.map(|spec| serde_json::from_slice::<Json>(&spec.value)).transpose();
    let spec = spec.with_context(|| format!("the spec of container {} is not JSON", args.id))?;
    if args.spec {
        return print_json(&spec.unwrap_or(Json::Leaf(Value::Null)));
    }
    print_json(&record(container, spec))
}

fn record(container: Container, spec: Option<Json>) -> Record {
    let any = |any: prost_types::Any| {
        if any.value.is_empty() {
            return json!({"type_url": any.type_url});
        }
        json!({"type_url": any.type_url, "value": base64(&any.value)})
    };
    let runtime = container.runtime.unwrap_or_default();
    Record {
        id: container.id,
        labels: (!container.labels.is_empty()).then(|| container.labels.into_iter().collect()),
        image: container.image,
        runtime: json!({"Name": runtime.name, "Options": runtime.options.map(any)}),
        snapshot_key: container.snapshot_key,
        snapshotter: container.snapshotter,
        created_at: crate::clock::rfc3339(&container.created_at.unwrap_or_default()),
        updated_at: crate::clock::rfc3339(&container.updated_at.unwrap_or_default()),
        extensions: (!container.extensions.is_empty()).then(|| {
            container
                .extensions
                .into_iter()
                .map(|(key, value)| (key, any(value)))
                .collect()
        }),
        sandbox_id: container.sandbox,
        spec,
    }
}

/// Standard base64 with padding, the form of bytes in JSON.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let index = (group >> (18 - 6 * position)) & 63;
            text.push(if position <= chunk.len() {
                char::from(ALPHABET[index as usize])
            } else {
                '='
            });
        }
    }
    text
}

/// Prints a value as containerd's client does: four spaces a level.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
        .context("cannot write JSON")?;
    println!("{}", String::from_utf8_lossy(&out));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_pads_like_everyone() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ];
        for (plain, coded) in cases {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
