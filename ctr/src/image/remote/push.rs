//! An image from the daemon's content store to a registry, by this client.

use crate::client::Client;
use crate::content::store;
use crate::image::model::{Descriptor, reference_key};
use crate::image::walk;
use crate::progress::Teller;
use crate::registry::{Body, Registry};
use anyhow::{Result, bail};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::collections::BTreeSet;

/// Blobs pushed at a time, unless said otherwise.
pub const AT_A_TIME: usize = 3;

/// How deep indexes may stand in indexes.
const MAX_DEPTH: usize = 8;

/// What to push.
pub struct Push<'a> {
    /// From where.
    pub client: &'a Client,
    /// Where.
    pub registry: &'a Registry,
    /// Blobs pushed at a time.
    pub at_a_time: usize,
    /// Whether layers that may not be handed on are.
    pub non_distributable: bool,
    /// Who is told.
    pub teller: &'a Teller,
}

impl Push<'_> {
    /// Pushes a manifest or an index with all that is in it: what is referred to before what refers to it.
    pub async fn run(&self, root: &Descriptor) -> Result<()> {
        let (documents, blobs) = self.content(root).await?;
        for document in documents.iter().rev() {
            self.teller.tell(&reference_key(document), "waiting");
        }
        stream::iter(&blobs)
            .map(|blob| self.blob(blob))
            .buffer_unordered(self.at_a_time.max(1))
            .try_collect::<()>()
            .await?;
        for document in documents.iter().rev() {
            let bytes = store::read(self.client, &document.digest).await?;
            let root = document.digest == root.digest;
            self.registry.push_document(document, bytes, root).await?;
            self.teller
                .part(&reference_key(document), "", "done", document.size, document.size);
        }
        Ok(())
    }

    /// The documents, each before what it refers to, and the blobs.
    async fn content(&self, root: &Descriptor) -> Result<(Vec<Descriptor>, Vec<Descriptor>)> {
        let (mut documents, mut blobs) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        let mut level = vec![root.clone()];
        for _ in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for document in std::mem::take(&mut level) {
                for child in walk::children(self.client, &document).await? {
                    let skipped = child.is_non_distributable() && !self.non_distributable;
                    if child.is_manifest() || child.is_index() {
                        next.push(child);
                    } else if !skipped && seen.insert(child.digest.clone()) {
                        blobs.push(child);
                    }
                }
                // Of one that stands twice, the deeper place counts.
                documents.retain(|known: &Descriptor| known.digest != document.digest);
                documents.push(document);
            }
            level = next;
            if level.is_empty() {
                return Ok((documents, blobs));
            }
        }
        bail!("indexes stand in indexes more than {MAX_DEPTH} deep in {}", root.digest)
    }

    /// Pushes a blob unless it is there.
    pub async fn blob(&self, blob: &Descriptor) -> Result<()> {
        let name = reference_key(blob);
        self.teller.tell(&name, "waiting");
        let new = self
            .registry
            .push_blob(blob, async || self.body(blob, &name).await)
            .await?;
        let event = if new { "done" } else { "exists" };
        self.teller.part(&name, "", event, blob.size, blob.size);
        Ok(())
    }

    async fn body(&self, blob: &Descriptor, name: &str) -> Result<Body> {
        let pieces = store::pieces(self.client, &blob.digest, 0, 0).await?;
        let (teller, name, total) = (self.teller.clone(), name.to_owned(), blob.size);
        let mut sent = 0;
        let frames = pieces.map(move |piece| {
            let data = Bytes::from(piece?.data);
            sent += data.len() as i64;
            teller.part(&name, "", "uploading", sent, total);
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Frame::data(data))
        });
        Ok(StreamBody::new(frames).boxed_unsync())
    }
}
