//! `images convert`: an image in other media types or without compression, under another name.
//!
//! Documents are written anew from the leaves up, each only when something in it changed, with the labels of the old one.

use super::model::{self, Descriptor, Index, Manifest};
use super::platform::{Matcher, Platform};
use super::recode::{self, Recoder};
use super::unpack::UNCOMPRESSED;
use super::{record, resolve, walk};
use crate::client::Client;
use crate::content::store;
use anyhow::{Context, Result, ensure};
use clap::Args;
use containerd_client::services::v1::Image as Record;
use containerd_client::tonic::Code;
use serde::Serialize;
use std::collections::HashMap;

/// What labels that keep content start with.
const KEEPS: &str = "containerd.io/gc.ref.content";

/// How deep indexes may stand in indexes.
const MAX_DEPTH: usize = 8;

/// `ctr images convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Convert tar.gz layers to uncompressed tar layers
    #[arg(long)]
    uncompress: bool,
    /// Convert Docker media types to OCI media types
    #[arg(long)]
    oci: bool,
    /// Convert layers to EROFS format, which is not supported
    #[arg(long, value_name = "FORMAT")]
    erofs: Option<String>,
    /// Compressors of EROFS layers, which are not supported
    #[arg(long, value_name = "LIST", requires = "erofs")]
    erofs_compressors: Option<String>,
    /// Options of mkfs.erofs for EROFS layers, which are not supported
    #[arg(long, value_name = "OPTIONS", requires = "erofs")]
    erofs_mkfs_options: Option<String>,
    /// Convert content of a specific platform only
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<String>,
    /// Convert content of all platforms, all of which must be there
    #[arg(long)]
    all_platforms: bool,
    /// Image
    #[arg(value_name = "SOURCE")]
    source: String,
    /// New name
    #[arg(value_name = "TARGET")]
    target: String,
}

/// Converts an image; prints the digest of what became of it.
pub async fn convert(client: &Client, args: &ConvertArgs) -> Result<()> {
    ensure!(
        args.erofs.is_none(),
        "--erofs is not supported: this client does not make EROFS layers; the erofs snapshotter makes its images by itself"
    );
    let lease = client.lease().await?;
    let done = leased(lease.client(), args).await;
    lease.release().await;
    println!("{}", done?);
    Ok(())
}

async fn leased(client: &Client, args: &ConvertArgs) -> Result<String> {
    let wanted = match &args.platform[..] {
        _ if args.all_platforms => Matcher::All,
        [] => Matcher::strict(&Platform::host()),
        platforms => {
            let parse = |text: &String| Platform::parse(text).map(|platform| platform.normal());
            Matcher::AnyOf(platforms.iter().map(parse).collect::<Result<_>>()?)
        }
    };
    let image = resolve::record(client, &args.source).await?;
    let old = resolve::target(&image)?;
    let conversion = Conversion {
        client,
        uncompress: args.uncompress,
        oci: args.oci,
        wanted,
    };
    let target = conversion.document(&old, 0).await?.unwrap_or(old);
    let image = Record {
        name: args.target.clone(),
        target: Some(target.to_api()),
        created_at: None,
        updated_at: None,
        ..image
    };
    match record::create(client, image.clone()).await {
        Err(status) if status.code() == Code::AlreadyExists => {
            record::update(client, image, &["target", "labels"]).await?;
        }
        done => drop(done?),
    }
    Ok(target.digest)
}

struct Conversion<'a> {
    client: &'a Client,
    uncompress: bool,
    oci: bool,
    wanted: Matcher,
}

impl Conversion<'_> {
    /// The new descriptor of an index or manifest; `None` when it stays as it is.
    async fn document(&self, old: &Descriptor, depth: usize) -> Result<Option<Descriptor>> {
        ensure!(depth < MAX_DEPTH, "indexes stand in indexes more than {MAX_DEPTH} deep");
        let new = if old.is_index() {
            self.index(old, depth).await?
        } else if old.is_manifest() {
            self.manifest(old).await?
        } else {
            None
        };
        Ok(self.renamed(old, new))
    }

    async fn index(&self, old: &Descriptor, depth: usize) -> Result<Option<Descriptor>> {
        let bytes = store::read(self.client, &old.digest).await?;
        let mut index = Index::from_json(&bytes, old)?;
        let mut labels = store::info(self.client, &old.digest).await?.labels;
        let mut changed = self.rename(&mut index.media_type);
        let mut manifests = Vec::with_capacity(index.manifests.len());
        for (position, manifest) in std::mem::take(&mut index.manifests).into_iter().enumerate() {
            let platform = manifest.platform.as_ref();
            if platform.is_some_and(|platform| self.wanted.rank(platform).is_none()) {
                clear(&mut labels, &manifest.digest);
                changed = true;
                continue;
            }
            match Box::pin(self.document(&manifest, depth + 1)).await? {
                Some(new) => {
                    clear(&mut labels, &manifest.digest);
                    labels.insert(format!("{KEEPS}.m.{position}"), new.digest.clone());
                    manifests.push(new);
                    changed = true;
                }
                None => manifests.push(manifest),
            }
        }
        ensure!(
            !manifests.is_empty(),
            "no manifest of {} is for the platform that is wanted",
            old.digest
        );
        index.manifests = manifests;
        if changed {
            return self.write(&index, old, labels).await.map(Some);
        }
        Ok(None)
    }

    async fn manifest(&self, old: &Descriptor) -> Result<Option<Descriptor>> {
        let bytes = store::read(self.client, &old.digest).await?;
        let mut manifest = Manifest::from_json(&bytes, old)?;
        let mut labels = store::info(self.client, &old.digest).await?.labels;
        let mut changed = self.rename(&mut manifest.media_type);
        let diff_ids = match (self.uncompress, manifest.config.is_config()) {
            (true, true) => walk::config(self.client, &manifest.config).await?.rootfs.diff_ids,
            _ => Vec::new(),
        };
        for (position, layer) in manifest.layers.iter_mut().enumerate() {
            let new = if self.uncompress && layer.is_layer() {
                self.uncompressed(layer).await?
            } else {
                None
            };
            if let (Some(new), Some(diff_id)) = (&new, diff_ids.get(position)) {
                ensure!(
                    new.digest == *diff_id,
                    "layer {} decompresses to {}, and the image's configuration says {diff_id}",
                    layer.digest,
                    new.digest
                );
            }
            if let Some(new) = self.renamed(layer, new) {
                clear(&mut labels, &layer.digest);
                labels.insert(format!("{KEEPS}.l.{position}"), new.digest.clone());
                *layer = new;
                changed = true;
            }
        }
        if let Some(new) = self.renamed(&manifest.config, None) {
            manifest.config = new;
            changed = true;
        }
        if changed {
            return self.write(&manifest, old, labels).await.map(Some);
        }
        Ok(None)
    }

    async fn uncompressed(&self, layer: &Descriptor) -> Result<Option<Descriptor>> {
        let media_type = model::uncompressed(&layer.media_type);
        if media_type == layer.media_type {
            return Ok(None);
        }
        let recoder = Recoder::to_plain(self.client, &layer.digest).await?;
        let recoder = recoder.with_context(|| format!("layer {} is not compressed as it says", layer.digest))?;
        let mut labels = store::info(self.client, &layer.digest).await?.labels;
        labels.remove(UNCOMPRESSED);
        let name = format!("convert-uncompress-from-{}", layer.digest);
        let new = recode::copy(self.client, layer, &name, recoder, labels, media_type).await?;
        Ok(Some(new))
    }

    /// A descriptor with the media type that was asked for; Docker's have no annotations.
    fn renamed(&self, old: &Descriptor, new: Option<Descriptor>) -> Option<Descriptor> {
        let mut descriptor = new.clone().unwrap_or_else(|| old.clone());
        if !model::is_docker(&old.media_type) {
            return new;
        }
        let changed = if self.oci {
            self.rename(&mut descriptor.media_type)
        } else {
            !std::mem::take(&mut descriptor.annotations).is_empty()
        };
        if changed { Some(descriptor) } else { new }
    }

    fn rename(&self, media_type: &mut String) -> bool {
        let oci = model::docker_to_oci(media_type);
        if !self.oci || oci == media_type {
            return false;
        }
        *media_type = oci.to_owned();
        true
    }

    async fn write(
        &self,
        document: &impl Serialize,
        old: &Descriptor,
        labels: HashMap<String, String>,
    ) -> Result<Descriptor> {
        let bytes = serde_json::to_vec(document).context("cannot write JSON")?;
        let digest = store::sha256(&bytes);
        let size = bytes.len() as i64;
        let name = format!("converter-write-json-{digest}");
        store::write_document(self.client, &name, &digest, bytes, labels).await?;
        Ok(Descriptor {
            digest,
            size,
            data: String::new(),
            ..old.clone()
        })
    }
}

/// Takes away what kept `digest`.
fn clear(labels: &mut HashMap<String, String>, digest: &str) {
    labels.retain(|key, value| value != digest || !key.starts_with(KEEPS));
}
