//! An image's content from a registry into the daemon's content store, by this client.

use crate::client::Client;
use crate::content::store::{self, Expected, Writer};
use crate::image::model::{Descriptor, gc_labels, reference_key};
use crate::image::platform::Matcher;
use crate::image::{record, walk};
use crate::progress::Teller;
use crate::registry::Registry;
use anyhow::{Context, Result, ensure};
use containerd_client::services::v1::Image as Record;
use containerd_client::tonic::Code;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// Blobs fetched at a time, unless said otherwise.
pub const AT_A_TIME: usize = 3;

/// How deep indexes may stand in indexes.
const MAX_DEPTH: usize = 8;

/// How often a download that broke off is resumed without that it brought anything, and the first pause before.
const RETRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// The longest label, key and value together.
const MAX_LABEL: usize = 4096;

/// What to fetch of an image.
pub struct Wanted {
    /// Platforms of an index whose images are fetched.
    pub platforms: Matcher,
    /// Whether manifests and configurations of the others are, too.
    pub all_metadata: bool,
    /// Whether layers are left out.
    pub metadata_only: bool,
    /// Blobs fetched at a time.
    pub at_a_time: usize,
}

/// Fetches an image's content and makes its record. To be called under a lease.
pub async fn fetch(
    client: &Client,
    registry: &Registry,
    wanted: &Wanted,
    labels: &BTreeMap<String, String>,
    teller: &Teller,
) -> Result<Record> {
    teller.tell(&registry.name, "resolving");
    let target = registry.resolve().await?;
    ensure!(
        target.is_manifest() || target.is_index(),
        "{} is of the type {:?}, which is no image: unsupported media type",
        registry.name,
        target.media_type
    );
    teller.tell(&registry.name, "resolved");
    let fetcher = Fetcher {
        client,
        registry,
        teller,
    };
    let blobs = fetcher.documents(&target, wanted).await?;
    stream::iter(&blobs)
        .map(|(blob, parent)| fetcher.blob(blob, parent))
        .buffer_unordered(wanted.at_a_time.max(1))
        .try_collect::<()>()
        .await?;
    let image = Record {
        name: registry.name.clone(),
        labels: labels.clone().into_iter().collect(),
        target: Some(target.to_api()),
        ..Record::default()
    };
    Ok(record::put(client, image).await?)
}

struct Fetcher<'a> {
    client: &'a Client,
    registry: &'a Registry,
    teller: &'a Teller,
}

impl Fetcher<'_> {
    /// Fetches the documents; answers the blobs that are wanted, each once, with the name of what refers to it.
    async fn documents(&self, target: &Descriptor, wanted: &Wanted) -> Result<Vec<(Descriptor, String)>> {
        let mut level = vec![(target.clone(), self.registry.name.clone(), !wanted.metadata_only)];
        let (mut blobs, mut seen) = (Vec::new(), BTreeSet::new());
        for _ in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for (document, parent, whole) in std::mem::take(&mut level) {
                ensure!(
                    document.size <= store::MAX_DOCUMENT,
                    "{} is too large to be a document: {} bytes",
                    document.digest,
                    document.size
                );
                let name = reference_key(&document);
                self.blob(&document, &parent).await?;
                let children = walk::children(self.client, &document).await?;
                let labels = gc_labels(&children, false);
                if !labels.is_empty() {
                    store::set_labels(self.client, &document.digest, labels).await?;
                }
                for child in children {
                    let matches = child
                        .platform
                        .as_ref()
                        .is_none_or(|found| wanted.platforms.rank(found).is_some());
                    if document.is_index() {
                        if matches || wanted.all_metadata {
                            let whole = whole && matches;
                            // What an index refers to need not be a manifest.
                            if child.is_manifest() || child.is_index() {
                                next.push((child, name.clone(), whole));
                            } else if whole && seen.insert(child.digest.clone()) {
                                blobs.push((child, name.clone()));
                            }
                        }
                    } else if (whole || !child.is_layer()) && seen.insert(child.digest.clone()) {
                        blobs.push((child, name.clone()));
                    }
                }
            }
            level = next;
            if level.is_empty() {
                return Ok(blobs);
            }
        }
        anyhow::bail!(
            "indexes stand in indexes more than {MAX_DEPTH} deep in {}",
            target.digest
        )
    }

    /// Fetches a blob or document unless it is there.
    async fn blob(&self, blob: &Descriptor, parent: &str) -> Result<()> {
        let name = reference_key(blob);
        self.teller.part(&name, parent, "waiting", 0, blob.size);
        let expected = Expected {
            size: blob.size,
            digest: blob.digest.clone(),
        };
        let there = store::info(self.client, &blob.digest).await.is_ok();
        let opened = if there {
            None
        } else {
            Writer::open(self.client, &name, expected).await?
        };
        let Some(mut writer) = opened else {
            self.teller.part(&name, parent, "exists", blob.size, blob.size);
            return self.mark(blob).await;
        };
        let (mut fruitless, mut pause) = (0, PAUSE);
        while writer.offset() < blob.size {
            let before = writer.offset();
            let Err(error) = self.download(blob, &name, parent, &mut writer).await? else {
                continue;
            };
            if writer.offset() > before {
                (fruitless, pause) = (0, PAUSE);
            }
            // What is said with a class, was said by a registry that is well.
            let final_word = error.downcast_ref::<containerd_client::tonic::Status>().is_some();
            if fruitless == RETRIES || final_word {
                return Err(error.context(format!("failed to fetch {}", self.registry.name)));
            }
            self.client
                .debug(|| format!("{name} is resumed at {}: {error:#}", writer.offset()));
            tokio::time::sleep(pause).await;
            (fruitless, pause) = (fruitless + 1, pause * 2);
        }
        writer.commit(HashMap::new()).await?;
        self.teller.part(&name, parent, "done", blob.size, blob.size);
        self.mark(blob).await
    }

    /// Appends what is missing of a blob. What the registry did wrong is the inner error, after which another try may help.
    async fn download(&self, blob: &Descriptor, name: &str, parent: &str, writer: &mut Writer) -> Result<Result<()>> {
        let mut pieces = match self.registry.fetch(blob, writer.offset()).await {
            Ok(pieces) => pieces,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            match pieces.next().await {
                Ok(Some(piece)) => {
                    let offset = writer.offset() + piece.len() as i64;
                    ensure!(
                        offset <= blob.size,
                        "the registry sends more than the {} bytes that {name} has",
                        blob.size
                    );
                    writer.write(piece.to_vec()).await?;
                    self.teller.part(name, parent, "downloading", offset, blob.size);
                }
                Ok(None) if writer.offset() == blob.size => return Ok(Ok(())),
                Ok(None) => {
                    let error = anyhow::anyhow!("the registry sent {} of {} bytes", writer.offset(), blob.size);
                    return Ok(Err(error));
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Notes where a blob is from, so that a push mounts it there.
    async fn mark(&self, blob: &Descriptor) -> Result<()> {
        let (key, repository) = self.registry.source();
        let info = store::info(self.client, &blob.digest).await;
        let info = info.with_context(|| format!("{} was stored and is gone", blob.digest))?;
        let present = info.labels.get(&key).map_or("", String::as_str);
        let mut sources: BTreeSet<&str> = present.split(',').filter(|name| !name.is_empty()).collect();
        let value = if sources.insert(repository) {
            sources.into_iter().collect::<Vec<_>>().join(",")
        } else {
            return Ok(());
        };
        if key.len() + value.len() <= MAX_LABEL {
            let set = store::set_labels(self.client, &blob.digest, [(key, value)]).await;
            // A blob that was just collected is fetched again by whoever needs it.
            if let Err(status) = set
                && status.code() != Code::NotFound
            {
                return Err(status.into());
            }
        }
        Ok(())
    }
}
