//! The content store contract over the directory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures_util::stream;
use orlop_plugin::contract::{
    BoxStream, ContentInfo, ContentStore, Ctx, Digest, IngestStatus, IngestWriter, Labels, WriterOptions, async_trait,
};
use orlop_plugin::filter::Filters;
use orlop_plugin::{Error, Result, blocking};
use tokio::task::JoinHandle;

use crate::durable::BlobDirectory;
use crate::ingest::{Disk, Ingest, failed};
use crate::layout::{self, Layout, ingest_name};
use crate::refs::Refs;
use crate::writer::Writer;

/// What is read, and sent, at a time. A message may have 16 MiB; this is what keeps disk and socket both busy.
const CHUNK: u64 = 512 << 10;
/// How many blobs a list looks at in one go to the blocking pool.
const LOOKS: usize = 256;

/// The content store under one directory.
#[derive(Clone)]
pub struct LocalStore {
    disk: Arc<Disk>,
    refs: Arc<Refs>,
}

// === impl LocalStore ===

impl LocalStore {
    /// Opens the store under `root`, making it where it is not there.
    pub async fn open(root: PathBuf) -> Result<Self> {
        blocking(move || {
            let layout = Layout::new(root.clone());
            layout
                .make()
                .map_err(|error| failed("make the content store in", &root, &error))?;
            let blobs = layout.blobs("sha256");
            let directory = BlobDirectory::open(&blobs).map_err(|error| failed("open", &blobs, &error))?;
            Ok(Self {
                disk: Arc::new(Disk {
                    layout,
                    blobs: directory,
                }),
                refs: Arc::default(),
            })
        })
        .await
    }

    /// Removes what a crash left in `ingest` that nobody can go on with. Blocks; safe beside writers.
    pub fn clean(&self) {
        for name in self.ingest_names().unwrap_or_default() {
            // A writer of this one is about to put it in order.
            let Some(_held) = self.refs.try_hold(&name, "") else {
                continue;
            };
            let directory = self.disk.layout.ingest(&name);
            if matches!(layout::read_ingest(&directory), Ok(None)) {
                match layout::remove_ingest(&directory) {
                    Ok(()) => tracing::info!(directory = %directory.display(), "removed half an ingest"),
                    Err(error) => tracing::warn!(directory = %directory.display(), %error, "half an ingest stays"),
                }
            }
        }
    }

    fn ingest_names(&self) -> io::Result<Vec<String>> {
        names(&self.disk.layout.ingests())
    }

    fn look(&self, digest: &Digest) -> Result<ContentInfo> {
        let path = self.disk.layout.blob(digest);
        let found = match fs::metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown(digest)),
            Err(error) => return Err(failed("look at", &path, &error)),
        };
        // Labels change nothing here, so that a blob is as old as its commit.
        let committed = found.modified().unwrap_or(UNIX_EPOCH);
        Ok(ContentInfo {
            digest: digest.clone(),
            size: found.len(),
            created: committed,
            updated: committed,
            labels: Labels::new(),
        })
    }

    fn digests(&self) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let directory = self.disk.layout.blobs(algorithm);
            let names = names(&directory).map_err(|error| failed("list", &directory, &error))?;
            // What is no digest is not ours.
            digests.extend(
                names
                    .into_iter()
                    .filter_map(|hex| Digest::new(format!("{algorithm}:{hex}")).ok()),
            );
        }
        digests.sort_unstable();
        Ok(digests)
    }
}

#[async_trait]
impl ContentStore for LocalStore {
    async fn info(&self, _ctx: &Ctx, digest: &Digest) -> Result<ContentInfo> {
        let (store, digest) = (self.clone(), digest.clone());
        blocking(move || {
            let info = store.look(&digest)?;
            // Who learns of a blob may write it into a record: it must be as durable as that.
            if store.disk.has(&digest)? {
                Ok(info)
            } else {
                Err(unknown(&digest))
            }
        })
        .await
    }

    async fn update(&self, ctx: &Ctx, info: ContentInfo, _fields: &[String]) -> Result<ContentInfo> {
        self.info(ctx, &info.digest).await?;
        Err(Error::failed_precondition(format!(
            "content {}: the local store keeps no labels; the metadata store (io.containerd.metadata.v1.bolt) does",
            info.digest
        )))
    }

    async fn list(&self, _ctx: &Ctx, filters: &[String]) -> Result<BoxStream<ContentInfo>> {
        let filters = Arc::new(Filters::parse(filters)?);
        let store = self.clone();
        let digests = blocking(move || store.digests()).await?;
        let store = self.clone();
        let batches = stream::try_unfold(digests.into_iter(), move |mut rest| {
            let (store, filters) = (store.clone(), filters.clone());
            async move {
                let batch: Vec<_> = rest.by_ref().take(LOOKS).collect();
                if batch.is_empty() {
                    return Ok(None);
                }
                let infos = blocking(move || Ok(looks(&store, &batch, &filters))).await?;
                Ok::<_, Error>(Some((stream::iter(infos), rest)))
            }
        });
        Ok(Box::pin(futures_util::TryStreamExt::try_flatten(batches)))
    }

    async fn delete(&self, _ctx: &Ctx, digest: &Digest) -> Result<()> {
        let path = self.disk.layout.blob(digest);
        let digest = digest.clone();
        blocking(move || match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(unknown(&digest)),
            Err(error) => Err(failed("remove", &path, &error)),
        })
        .await
    }

    async fn read(&self, _ctx: &Ctx, digest: &Digest, offset: u64, size: u64) -> Result<BoxStream<Bytes>> {
        let path = self.disk.layout.blob(digest);
        let digest = digest.clone();
        let (reading, first) = blocking(move || {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown(&digest)),
                Err(error) => return Err(failed("open", &path, &error)),
            };
            let length = file.metadata().map_err(|error| failed("look at", &path, &error))?.len();
            if offset > length {
                return Err(Error::out_of_range(format!(
                    "content {digest}: offset {offset} is past its end at {length}"
                )));
            }
            let end = match size {
                0 => length,
                size => length.min(offset.saturating_add(size)),
            };
            let mut reading = Reading {
                file,
                digest,
                offset,
                end,
            };
            let first = reading.next()?;
            Ok((reading, first))
        })
        .await?;
        Ok(reading.stream(first))
    }

    async fn status(&self, _ctx: &Ctx, reference: &str) -> Result<IngestStatus> {
        let name = ingest_name(reference);
        if let Some(active) = self.refs.get(&name) {
            return active.shown().ok_or_else(|| active.gone());
        }
        let directory = self.disk.layout.ingest(&name);
        let found = blocking(move || {
            layout::read_ingest(&directory).map_err(|error| failed("read the ingest in", &directory, &error))
        });
        found
            .await?
            .ok_or_else(|| Error::not_found(format!("ingest {reference:?} does not exist")))
    }

    async fn statuses(&self, _ctx: &Ctx, filters: &[String]) -> Result<Vec<IngestStatus>> {
        let filters = Filters::parse(filters)?;
        let store = self.clone();
        blocking(move || {
            // First: one that its writer leaves meanwhile is on disk by then, and would be in neither the other way round.
            let active = store.refs.all();
            let directory = store.disk.layout.ingests();
            let names = names(&directory).map_err(|error| failed("list", &directory, &error))?;
            let on_disk = names.into_iter().filter_map(|name| {
                // One that ends or breaks meanwhile is none.
                let status = layout::read_ingest(&store.disk.layout.ingest(&name)).ok().flatten()?;
                Some((name, status))
            });
            let mut all: BTreeMap<_, _> = on_disk.collect();
            all.extend(
                active
                    .into_iter()
                    .filter_map(|(name, active)| Some((name, active.shown()?))),
            );
            let mut all: Vec<_> = all.into_values().collect();
            all.retain(|status| {
                filters.matches(|path| match path {
                    ["ref", ..] => Some(status.reference.clone()),
                    _ => None,
                })
            });
            all.sort_by(|a, b| a.reference.cmp(&b.reference));
            Ok(all)
        })
        .await
    }

    async fn abort(&self, _ctx: &Ctx, reference: &str) -> Result<()> {
        let name = ingest_name(reference);
        let directory = self.disk.layout.ingest(&name);
        let active = self.refs.get(&name);
        blocking(move || {
            let mut aborted = active.as_ref().map(|active| active.aborted());
            if let Some(aborted) = &mut aborted {
                **aborted = true;
            }
            // One that is not there is as good as aborted: a record of it may outlive it.
            layout::remove_ingest(&directory).map_err(|error| failed("remove the ingest in", &directory, &error))
        })
        .await
    }

    async fn writer(&self, _ctx: &Ctx, options: WriterOptions) -> Result<Box<dyn IngestWriter>> {
        if options.reference.is_empty() {
            return Err(Error::invalid_argument("an ingest needs a reference"));
        }
        let name = ingest_name(&options.reference);
        let held = self.refs.hold(&name, &options.reference).await?;
        let active = held.active().clone();
        let disk = self.disk.clone();
        let ingest = blocking(move || Ingest::open(disk, held, &name, &options)).await?;
        Ok(Box::new(Writer::new(ingest, active)))
    }
}

/// A blob being read.
struct Reading {
    file: File,
    digest: Digest,
    offset: u64,
    end: u64,
}

// === impl Reading ===

impl Reading {
    /// The next chunk; none at the end.
    fn next(&mut self) -> Result<Option<Bytes>> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let mut chunk = vec![0; CHUNK.min(self.end - self.offset) as usize];
        self.file.read_exact_at(&mut chunk, self.offset).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                Error::data_loss(format!(
                    "content {}: its file was cut short while it was read",
                    self.digest
                ))
            } else {
                Error::io(format!("read content {}", self.digest), &error)
            }
        })?;
        self.offset += chunk.len() as u64;
        Ok(Some(chunk.into()))
    }

    /// Reads one chunk ahead of who consumes them.
    fn stream(self, first: Option<Bytes>) -> BoxStream<Bytes> {
        type Ahead = JoinHandle<Result<(Reading, Option<Bytes>)>>;
        fn ahead(mut reading: Reading) -> Option<Ahead> {
            (reading.offset < reading.end).then(|| {
                tokio::task::spawn_blocking(move || {
                    let chunk = reading.next()?;
                    Ok((reading, chunk))
                })
            })
        }
        let Some(first) = first else {
            return Box::pin(stream::empty());
        };
        let state = (Some(first), ahead(self));
        Box::pin(stream::try_unfold(state, |(ready, reading)| async move {
            if let Some(chunk) = ready {
                return Ok(Some((chunk, (None, reading))));
            }
            let Some(reading) = reading else {
                return Ok(None);
            };
            let (reading, chunk) = reading
                .await
                .map_err(|error| Error::internal(format!("reading content did not end: {error}")))??;
            Ok(chunk.map(|chunk| (chunk, (None, ahead(reading)))))
        }))
    }
}

fn looks(store: &LocalStore, digests: &[Digest], filters: &Filters) -> Vec<Result<ContentInfo>> {
    let looked = digests.iter().map(|digest| store.look(digest));
    looked
        .filter(|look| match look {
            Ok(info) => filters.matches(|path| match path {
                ["digest", ..] => Some(info.digest.as_str()),
                _ => None,
            }),
            // Removed since the list began.
            Err(error) => !error.is_not_found(),
        })
        .collect()
}

/// The names in a directory that may not be there.
fn names(directory: &std::path::Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        // Our names are ASCII.
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

fn unknown(digest: &Digest) -> Error {
    Error::not_found(format!("content {digest} does not exist"))
}
