//! What every content store owes its callers.

mod blobs;
mod ingests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{Failure, Suite};
use crate::Result;
use crate::contract::{
    Code, CommitOptions, ContentStore, Ctx, Digest, IngestWriter, Labels, Namespace, WriterOptions, collect,
};

/// How often, and with what pauses, an ingest is asked for again whose writer was just dropped.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// Runs the suite of the content store contract. Leaves nothing behind.
///
/// # Panics
/// When a check fails, with all that failed.
pub async fn content_store(store: Arc<dyn ContentStore>) {
    let kit = Kit {
        store,
        ctx: Ctx {
            // A literal that keeps to the grammar.
            namespace: Namespace::new("testkit").ok(),
            ..Ctx::default()
        },
    };
    let mut suite = Suite::new("content store");
    ingests::run(&kit, &mut suite).await;
    blobs::run(&kit, &mut suite).await;
    suite.finish();
}

/// A content store with the words that checks are written in.
struct Kit {
    store: Arc<dyn ContentStore>,
    ctx: Ctx,
}

fn digest_of(data: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(data))
}

/// `length` bytes that belong to `name`.
fn data_of(name: &str, length: usize) -> Bytes {
    name.bytes()
        .chain(*b" of orlop's testkit\n")
        .cycle()
        .take(length)
        .collect::<Vec<u8>>()
        .into()
}

fn kept() -> Labels {
    Labels::from([("containerd.io/gc.root".to_owned(), "testkit".to_owned())])
}

fn commit_of(data: &[u8]) -> CommitOptions {
    CommitOptions {
        size: data.len() as u64,
        expected: Some(digest_of(data)),
        labels: kept(),
    }
}

// === impl Kit ===

impl Kit {
    /// Opens an ingest by its name alone. Waits for a writer that is just going.
    async fn writer(&self, reference: &str) -> Result<Box<dyn IngestWriter>> {
        let options = WriterOptions {
            reference: format!("testkit/{reference}"),
            ..WriterOptions::default()
        };
        let mut tries = 0;
        loop {
            match self.store.writer(&self.ctx, options.clone()).await {
                Err(error) if error.code == Code::Unavailable && tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    }

    /// Gives an ingest up. Waits for a writer that is just going: containerd 1.6 fails to remove what that still writes.
    async fn abort(&self, reference: &str) -> Result<()> {
        let mut tries = 0;
        loop {
            match self.store.abort(&self.ctx, &format!("testkit/{reference}")).await {
                Err(error) if matches!(error.code, Code::Unavailable | Code::Unknown) && tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    }

    /// Stores `data`.
    async fn blob(&self, reference: &str, data: &Bytes) -> Result<Digest> {
        let mut writer = self.writer(reference).await?;
        writer.write(data.clone()).await?;
        writer.commit(commit_of(data)).await
    }

    async fn read(&self, digest: &Digest, offset: u64, size: u64) -> Result<Vec<u8>> {
        let chunks = collect(self.store.read(&self.ctx, digest, offset, size).await?).await?;
        Ok(chunks.concat())
    }

    async fn delete(&self, digest: &Digest) -> Result<(), Failure> {
        Ok(self.store.delete(&self.ctx, digest).await?)
    }
}
