//! Blobs on their way from an archive into the content store: one is read at a time, but several may be made durable while the next
//! are read, so that the disk's syncs are not paid one after the other.

use std::collections::BTreeMap;

use orlop_plugin::contract::{Digest, Labels};
use orlop_plugin::{Error, Result};
use tokio::task::JoinSet;

use super::tar::TarReader;
use super::{Compression, Observer, StoredBlob};
use crate::content::Content;

/// Blobs made durable at once, at most.
const COMMITS_AT_ONCE: usize = 8;

/// A blob that may be a document is shown to the observer up to this size.
const MAX_SHOWN: u64 = 1 << 20;

/// The blobs of an archive.
pub(super) struct Intake<'a> {
    content: &'a Content,
    observer: &'a mut dyn Observer,
    commits: JoinSet<Result<Committed>>,
    /// How many were read.
    count: usize,
    /// Which entry a name stands for, and its blob.
    blobs: BTreeMap<String, (usize, StoredBlob)>,
}

struct Committed {
    nth: usize,
    name: String,
    blob: StoredBlob,
    document: Vec<u8>,
}

// === impl Intake ===

impl<'a> Intake<'a> {
    pub(super) fn new(content: &'a Content, observer: &'a mut dyn Observer) -> Self {
        Self {
            content,
            observer,
            commits: JoinSet::new(),
            count: 0,
            blobs: BTreeMap::new(),
        }
    }

    /// Takes the current entry. A name of the form `blobs/ALGORITHM/HEX` says what its digest must be.
    pub(super) async fn take(&mut self, tar: &mut TarReader, name: String, size: u64) -> Result<()> {
        let expected = name
            .strip_prefix("blobs/")
            .and_then(|path| path.split_once('/'))
            .and_then(|(algorithm, hex)| Digest::new(format!("{algorithm}:{hex}")).ok());
        let doing = |error: Error| error.context(format!("import {name:?}"));
        let mut ingest = self.content.create(&name, size, expected).await.map_err(doing)?;
        let mut head = Vec::with_capacity(Compression::MAGIC);
        let mut document = Vec::new();
        let filled: Result<()> = async {
            while let Some(bytes) = tar.data().await? {
                let missing = Compression::MAGIC - head.len();
                head.extend_from_slice(&bytes[..missing.min(bytes.len())]);
                if size <= MAX_SHOWN && head.first() == Some(&b'{') {
                    document.extend_from_slice(&bytes);
                }
                ingest.write(bytes).await?;
            }
            Ok(())
        }
        .await;
        if let Err(error) = filled {
            ingest.abort().await;
            return Err(doing(error));
        }
        let nth = self.count;
        self.count += 1;
        self.commits.spawn(async move {
            let committed = ingest.commit(size, Labels::new()).await;
            let digest = committed.map_err(|error| error.context(format!("import {name:?}")))?;
            let blob = StoredBlob {
                digest,
                size,
                compression: Compression::detect(&head),
            };
            Ok(Committed {
                nth,
                name,
                blob,
                document,
            })
        });
        while self.commits.len() >= COMMITS_AT_ONCE {
            self.settle().await?;
        }
        while let Some(committed) = self.commits.try_join_next() {
            self.record(joined(committed)?);
        }
        Ok(())
    }

    /// Waits until every blob is durable, or has failed; returns them by name.
    pub(super) async fn finish(mut self) -> Result<BTreeMap<String, StoredBlob>> {
        let mut failed = None;
        while !self.commits.is_empty() {
            if let Err(error) = self.settle().await {
                failed.get_or_insert(error);
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(self.blobs.into_iter().map(|(name, (_, blob))| (name, blob)).collect()),
        }
    }

    async fn settle(&mut self) -> Result<()> {
        if let Some(committed) = self.commits.join_next().await {
            self.record(joined(committed)?);
        }
        Ok(())
    }

    fn record(&mut self, committed: Committed) {
        let document = Some(committed.document.as_slice()).filter(|document| !document.is_empty());
        self.observer.stored(&committed.blob.digest, document);
        // Of two entries with one name, the later counts, as in any tar archive.
        let entry = (committed.nth, committed.blob);
        let known = self.blobs.entry(committed.name).or_insert_with(|| entry.clone());
        if known.0 < entry.0 {
            *known = entry;
        }
    }
}

fn joined(committed: Result<Result<Committed>, tokio::task::JoinError>) -> Result<Committed> {
    committed.unwrap_or_else(|error| Err(Error::internal(format!("storing a blob ended early: {error}"))))
}
