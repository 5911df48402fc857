//! `images list` and `images check`.

use super::model::Descriptor;
use super::platform::{Matcher, Platform};
use super::{resolve, unpack, walk};
use crate::cli::SnapshotterArgs;
use crate::client::{Client, describe};
use crate::content::store;
use crate::human::binary_size;
use crate::labels;
use crate::table::Table;
use anyhow::{Context, Result, ensure};
use clap::Args;
use containerd_client::services::v1::{Image as Record, ListImagesRequest};
use std::collections::BTreeSet;

/// `ctr images list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print only the image refs
    #[arg(long, short = 'q')]
    quiet: bool,
    /// Filters; an image that meets one of them is shown
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// `ctr images check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Print only the ready image refs (fully downloaded and unpacked)
    #[arg(long, short = 'q')]
    quiet: bool,
    #[command(flatten)]
    snapshotter: SnapshotterArgs,
    /// Filters; an image that meets one of them is checked
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// The image records that meet one of the filters.
pub async fn records(client: &Client, filters: Vec<String>) -> Result<Vec<Record>> {
    let request = client.request(ListImagesRequest { filters });
    Ok(client
        .images()
        .list(request)
        .await
        .context("failed to list images")?
        .into_inner()
        .images)
}

/// Prints the images.
pub async fn list(client: &Client, args: ListArgs) -> Result<()> {
    let images = records(client, args.filters).await?;
    if args.quiet {
        for image in &images {
            println!("{}", image.name);
        }
        return Ok(());
    }
    let matcher = Matcher::host();
    let mut table = Table::dense(&["REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS", ""]);
    for image in &images {
        let target = resolve::target(image)?;
        let mut size = 0;
        if let Err(error) = add_size(client, &target, &matcher, &mut size).await {
            eprintln!(
                "ctr: failed calculating size for image {}: {}",
                image.name,
                describe(&error)
            );
        }
        let platforms = match platforms(client, &target).await {
            Ok(found) if !found.is_empty() => found.into_iter().collect::<Vec<_>>().join(","),
            Ok(_) => "-".to_owned(),
            Err(error) => {
                eprintln!(
                    "ctr: failed resolving platform for image {}: {}",
                    image.name,
                    describe(&error)
                );
                "-".to_owned()
            }
        };
        let (size, labels) = (binary_size(size), labels::column(&image.labels));
        table.row([
            &image.name,
            &target.media_type,
            &target.digest,
            &size,
            &platforms,
            &labels,
            "",
        ]);
    }
    table.print();
    Ok(())
}

/// Adds up the bytes of the documents and layers of this machine's image; what could be read counts even when some
/// could not.
async fn add_size(client: &Client, target: &Descriptor, matcher: &Matcher, size: &mut i64) -> Result<()> {
    let mut queue = vec![target.clone()];
    while let Some(descriptor) = queue.pop() {
        ensure!(
            descriptor.size >= 0,
            "invalid size {} in {}",
            descriptor.size,
            descriptor.digest
        );
        *size += descriptor.size;
        queue.extend(walk::best(
            &descriptor,
            walk::children(client, &descriptor).await?,
            matcher,
        )?);
    }
    Ok(())
}

/// The platforms that an image is for: those that its index says, and else those of the configurations.
pub async fn platforms(client: &Client, target: &Descriptor) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut queue = vec![target.clone()];
    let known = |platform: &Platform| platform.os != "unknown" && platform.architecture != "unknown";
    while let Some(descriptor) = queue.pop() {
        if let Some(platform) = &descriptor.platform {
            // Attestations stand in indexes as images for no platform.
            if known(platform) {
                found.insert(platform.to_string());
            }
        } else if descriptor.is_config() {
            let platform = walk::config_platform(client, &descriptor).await?;
            if !platform.os.is_empty() && known(&platform) {
                found.insert(platform.to_string());
            }
        } else {
            queue.extend(walk::children(client, &descriptor).await?);
        }
    }
    Ok(found)
}

/// Which parts of an image are there.
#[derive(Debug, Default)]
struct Presence {
    /// Whether the manifest and everything above it are there, so that all parts are known.
    available: bool,
    required: Vec<Descriptor>,
    present: Vec<Descriptor>,
    missing: usize,
}

async fn presence(client: &Client, target: &Descriptor, matcher: &Matcher) -> Result<Presence> {
    let mut found = Presence::default();
    let manifest = match walk::manifest(client, target, matcher).await {
        Ok((_, manifest)) => manifest,
        Err(error) if walk::is_not_found(&error) => {
            found.required.push(target.clone());
            found.missing = 1;
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    found.available = true;
    found.required.push(manifest.config);
    found.required.extend(manifest.layers);
    for descriptor in &found.required {
        match store::info(client, &descriptor.digest).await {
            Ok(_) => found.present.push(descriptor.clone()),
            Err(status) if status.code() == containerd_client::tonic::Code::NotFound => found.missing += 1,
            Err(status) => return Err(status).with_context(|| format!("failed to check {}", descriptor.digest)),
        }
    }
    Ok(found)
}

/// Prints whether the images' content is there and unpacked.
pub async fn check(client: &Client, args: CheckArgs) -> Result<()> {
    let images = records(client, args.filters).await?;
    if images.is_empty() {
        return Ok(());
    }
    let matcher = Matcher::host();
    let snapshotter = client.snapshotter_name(&args.snapshotter.name).await?;
    let mut first = None;
    let mut table = Table::dense(&["REF", "TYPE", "DIGEST", "STATUS", "SIZE", "UNPACKED", ""]);
    let sum = |list: &[Descriptor]| binary_size(list.iter().map(|descriptor| descriptor.size).sum());
    for image in &images {
        let target = resolve::target(image)?;
        let mut fail = |what: &str, error: anyhow::Error| {
            eprintln!("ctr: unable to check {what}{}: {}", image.name, describe(&error));
            first.get_or_insert(error.context(format!("unable to check {what}{}", image.name)));
        };
        let mut complete = false;
        let (status, size) = match presence(client, &target, &matcher).await {
            Ok(found) if found.available => {
                complete = found.missing == 0;
                let word = if complete { "complete" } else { "incomplete" };
                (
                    format!("{word} ({}/{})", found.present.len(), found.required.len()),
                    format!("{}/{}", sum(&found.present), sum(&found.required)),
                )
            }
            Ok(found) => (
                format!("unavailable ({}/?)", found.present.len()),
                format!("{}/?", sum(&found.present)),
            ),
            Err(error) => {
                fail("", error);
                ("error".to_owned(), "-".to_owned())
            }
        };
        let unpacked = async {
            let resolved = resolve::of_record(client, image, &matcher).await?;
            unpack::is_unpacked(client, &resolved, &snapshotter).await
        };
        let unpacked = unpacked.await.unwrap_or_else(|error| {
            fail("unpack for ", error);
            false
        });
        if !args.quiet {
            table.row([
                &image.name,
                &target.media_type,
                &target.digest,
                &status,
                &size,
                &unpacked.to_string(),
            ]);
        } else if complete && unpacked {
            println!("{}", image.name);
        }
    }
    if !args.quiet {
        table.print();
    }
    first.map_or(Ok(()), Err)
}
