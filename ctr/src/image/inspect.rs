//! `images inspect`: an image as the tree of its documents and layers.

use super::model::{Descriptor, Index, Manifest};
use super::{resolve, walk};
use crate::client::Client;
use crate::clock;
use crate::content::store;
use crate::reflect::Json;
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use std::io::{Write, stdout};

/// How deep indexes may stand in indexes.
const MAX_DEPTH: usize = 8;

/// In front of a child that is not the last.
const MIDDLE: &str = "├── ";
/// In front of the last child.
const LAST: &str = "└── ";
/// Beside what belongs to a child that is not the last.
const BESIDE: &str = "│   ";
/// Beside what belongs to the last child.
const BELOW: &str = "    ";

/// `ctr images inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Show JSON content
    #[arg(long)]
    content: bool,
    /// Image
    #[arg(value_name = "REF")]
    name: String,
}

/// Prints an image's tree.
pub async fn inspect(client: &Client, args: &InspectArgs) -> Result<()> {
    let record = resolve::record(client, &args.name).await?;
    let time = |time: &Option<prost_types::Timestamp>| clock::go_default(&time.unwrap_or_default());
    let mut tree = Tree {
        client,
        content: args.content,
        text: String::new(),
    };
    tree.line("", &record.name);
    tree.line(BESIDE, &format!(" Created: {}", time(&record.created_at)));
    tree.line(BESIDE, &format!(" Updated: {}", time(&record.updated_at)));
    let mut labels: Vec<_> = record.labels.iter().collect();
    labels.sort();
    for (key, value) in labels {
        tree.line(BESIDE, &format!(" Label {key:?}: {value:?}"));
    }
    let drawn = tree.add(&resolve::target(&record)?, LAST, BELOW, 0).await;
    // What is known of a damaged image is shown before what is wrong with it.
    let mut out = stdout().lock();
    out.write_all(tree.text.as_bytes())
        .and_then(|()| out.flush())
        .context("cannot write to standard output")?;
    drawn
}

/// A tree being drawn.
struct Tree<'a> {
    client: &'a Client,
    content: bool,
    text: String,
}

impl Tree<'_> {
    fn line(&mut self, prefix: &str, text: &str) {
        self.text.push_str(prefix);
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn name(&mut self, prefix: &str, descriptor: &Descriptor) {
        let Descriptor {
            media_type,
            digest,
            size,
            ..
        } = descriptor;
        self.line(prefix, &format!("{media_type} @{digest} ({size} bytes)"));
    }

    /// Adds a descriptor behind `prefix`, and what it refers to behind `child`.
    async fn add(&mut self, descriptor: &Descriptor, prefix: &str, child: &str, depth: usize) -> Result<()> {
        ensure!(depth < MAX_DEPTH, "indexes stand in indexes more than {MAX_DEPTH} deep");
        let beside = format!("{child}{BESIDE}");
        self.name(prefix, descriptor);
        if let Some(platform) = descriptor
            .platform
            .as_ref()
            .filter(|found| !found.architecture.is_empty())
        {
            self.line(&beside, &format!(" Platform: {platform}"));
        }
        let bytes = match store::read(self.client, &descriptor.digest).await {
            Ok(bytes) => bytes,
            Err(error) if walk::is_not_found(&error) => {
                self.line(child, &format!("{LAST} Content does not exist locally, skipping"));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.show(descriptor, &beside).await?;
        if descriptor.is_manifest() {
            let manifest = Manifest::from_json(&bytes, descriptor)?;
            let alone = manifest.layers.is_empty();
            let (drop, below) = if alone { (LAST, BELOW) } else { (MIDDLE, BESIDE) };
            self.name(&format!("{child}{drop}"), &manifest.config);
            self.show(&manifest.config, &format!("{child}{below}")).await?;
            for (position, layer) in manifest.layers.iter().enumerate() {
                let drop = if position + 1 == manifest.layers.len() {
                    LAST
                } else {
                    MIDDLE
                };
                self.name(&format!("{child}{drop}"), layer);
            }
        } else if descriptor.is_index() {
            let manifests = Index::from_json(&bytes, descriptor)?.manifests;
            for (position, manifest) in manifests.iter().enumerate() {
                let last = position + 1 == manifests.len();
                let (drop, below) = if last { (LAST, BELOW) } else { (MIDDLE, BESIDE) };
                let (drop, below) = (format!("{child}{drop}"), format!("{child}{below}"));
                Box::pin(self.add(manifest, &drop, &below, depth + 1)).await?;
            }
        }
        Ok(())
    }

    /// Adds the labels of a blob, and its content when that is JSON.
    async fn show(&mut self, descriptor: &Descriptor, prefix: &str) -> Result<()> {
        if !self.content {
            return Ok(());
        }
        let info = match store::info(self.client, &descriptor.digest).await {
            Ok(info) => info,
            Err(status) if status.code() == containerd_client::tonic::Code::NotFound => {
                self.line(prefix, " Content does not exist locally, skipping");
                return Ok(());
            }
            Err(status) => return Err(status.into()),
        };
        if !info.labels.is_empty() {
            let mut labels: Vec<_> = info.labels.iter().collect();
            labels.sort();
            self.line(prefix, "┌────────Labels─────────");
            for (key, value) in labels {
                self.line(prefix, &format!("│{key:?}: {value:?}"));
            }
            self.line(prefix, "└───────────────────────");
        }
        if descriptor.media_type.ends_with("json") {
            let bytes = store::read(self.client, &descriptor.digest).await?;
            self.line(prefix, "┌────────Content────────");
            for line in indented(&bytes)?.lines() {
                self.line(prefix, &format!("│{line}"));
            }
            self.line(prefix, "└───────────────────────");
        }
        Ok(())
    }
}

/// JSON with an indentation of three spaces, its fields in the order in which they stand.
fn indented(bytes: &[u8]) -> Result<String> {
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    let mut text = Vec::with_capacity(bytes.len() * 2);
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    let json: Json = serde_json::from_slice(bytes).context("the content is not the JSON that its media type says")?;
    json.serialize(&mut serializer).context("cannot write JSON")?;
    String::from_utf8(text).context("JSON is not UTF-8")
}
