//! `content fetch`, `fetch-object`, `fetch-blob` and `push-object`: content from a registry and to it, by this client as in
//! containerd's.

use super::store;
use crate::client::Client;
use crate::digest;
use crate::image::model::Descriptor;
use crate::image::platform::Matcher;
use crate::image::remote::{fetch, parse, push, wanted};
use crate::progress::Teller;
use crate::registry::{Registry, RegistryFlags, Stream};
use anyhow::{Context, Result, ensure};
use clap::Args;
use sha2::{Digest, Sha256};
use std::io::{Write, stdout};

/// `ctr content fetch`.
#[derive(Debug, Args)]
pub struct FetchArgs {
    #[command(flatten)]
    registry: RegistryFlags,
    /// Labels to attach to the image
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Pull content from a specific platform
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    platform: Vec<String>,
    /// Pull content from all platforms
    #[arg(long)]
    all_platforms: bool,
    /// Pull metadata for all platforms, which is done anyway
    #[arg(long, hide = true)]
    all_metadata: bool,
    /// Skips metadata for unused platforms (Image may be unable to be pushed without metadata)
    #[arg(long)]
    skip_metadata: bool,
    /// Pull all metadata including manifests and configs
    #[arg(long)]
    metadata_only: bool,
    /// Set the max concurrent downloads
    #[arg(long, value_name = "NUMBER", default_value_t = fetch::AT_A_TIME)]
    max_concurrent_downloads: usize,
    /// Image, by its whole name
    #[arg(value_name = "REF")]
    name: String,
}

/// `ctr content fetch-object`.
#[derive(Debug, Args)]
pub struct FetchObjectArgs {
    #[command(flatten)]
    registry: RegistryFlags,
    /// Image, by its whole name
    #[arg(value_name = "REF")]
    name: String,
    /// Ignored, as by containerd's client
    #[arg(value_name = "HINT", hide = true)]
    hints: Vec<String>,
}

/// `ctr content fetch-blob`.
#[derive(Debug, Args)]
pub struct FetchBlobArgs {
    #[command(flatten)]
    registry: RegistryFlags,
    /// Specify target mediatype for request header
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    media_type: String,
    /// Repository, by its whole name
    #[arg(value_name = "REF")]
    name: String,
    /// Digests
    #[arg(value_name = "DIGEST", required = true)]
    digests: Vec<String>,
}

/// `ctr content push-object`.
#[derive(Debug, Args)]
pub struct PushObjectArgs {
    #[command(flatten)]
    registry: RegistryFlags,
    /// Name to push under
    #[arg(value_name = "REF")]
    name: String,
    /// Digest
    #[arg(value_name = "DIGEST")]
    digest: String,
    /// Media type
    #[arg(value_name = "TYPE")]
    media_type: String,
}

/// Fetches an image's content and makes its record, without unpacking it.
pub async fn fetch(client: &Client, args: &FetchArgs) -> Result<()> {
    let platforms = parse(&args.platform)?;
    let wanted = fetch::Wanted {
        platforms: if args.metadata_only {
            Matcher::AnyOf(Vec::new())
        } else {
            wanted(&platforms, args.all_platforms)
        },
        all_metadata: args.metadata_only || !args.skip_metadata,
        metadata_only: args.metadata_only,
        at_a_time: args.max_concurrent_downloads,
    };
    let registry = Registry::open(&args.name, &args.registry, false)?;
    let labels = crate::spec::parse::labels(&args.label);
    let lease = client.lease().await?;
    let done =
        Teller::watched(async |teller| fetch::fetch(lease.client(), &registry, &wanted, &labels, teller).await).await;
    lease.release().await;
    done.map(drop)
}

/// Prints what a name stands for: a manifest or an index.
pub async fn fetch_object(args: &FetchObjectArgs) -> Result<()> {
    let registry = Registry::open(&args.name, &args.registry, false)?;
    let descriptor = registry.resolve().await?;
    print(registry.fetch(&descriptor, 0).await?, &descriptor.digest).await
}

/// Prints blobs.
pub async fn fetch_blob(args: &FetchBlobArgs) -> Result<()> {
    for wanted in &args.digests {
        digest::parse(wanted)?;
    }
    let registry = Registry::open(&args.name, &args.registry, false)?;
    for wanted in &args.digests {
        print(registry.fetch_digest(wanted, &args.media_type).await?, wanted).await?;
    }
    Ok(())
}

/// Pushes one blob or document out of the store.
pub async fn push_object(client: &Client, args: &PushObjectArgs) -> Result<()> {
    let info = store::info(client, digest::parse(&args.digest)?).await?;
    let object = Descriptor {
        media_type: args.media_type.clone(),
        digest: info.digest,
        size: info.size,
        ..Descriptor::default()
    };
    let registry = Registry::open(&args.name, &args.registry, true)?;
    if object.is_manifest() || object.is_index() {
        let bytes = store::read(client, &object.digest).await?;
        registry.push_document(&object, bytes, true).await?;
    } else {
        Teller::watched(async |teller| {
            let push = push::Push {
                client,
                registry: &registry,
                at_a_time: 1,
                non_distributable: true,
                teller,
            };
            push.blob(&object).await
        })
        .await?;
    }
    println!("Pushed {} {}", object.digest, object.media_type);
    Ok(())
}

/// Writes what comes to standard output, and fails in the end when it was not what was asked for.
async fn print(mut content: Stream, wanted: &str) -> Result<()> {
    let mut hash = Sha256::new();
    let mut out = stdout();
    while let Some(piece) = content.next().await? {
        hash.update(&piece);
        out.write_all(&piece).context("cannot write to standard output")?;
    }
    out.flush().context("cannot write to standard output")?;
    let found = format!("sha256:{}", hex::encode(hash.finalize()));
    ensure!(
        found == wanted || !wanted.starts_with("sha256:"),
        "the registry sent {found} in the place of {wanted}"
    );
    Ok(())
}
