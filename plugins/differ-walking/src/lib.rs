//! The walking differ (`io.containerd.differ.v1.walking`): it applies layers to mounts, and makes layers by walking two trees.
//!
//! ```text
//!   apply   content ─▶ [decompress, sha256] ─▶ tar ─▶ a directory      each arrow a bounded queue between threads
//!   diff    two trees ─▶ tar ─▶ [sha256, compress] ─▶ content
//! ```
//!
//! `unpack` is a tar into a directory, `root` keeps it inside, `walk` is two trees into a tar, `target` says which directory mounts stand for.

mod compression;
mod queue;
mod root;
mod target;
mod unpack;
mod walk;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use futures_util::StreamExt;
use orlop_plugin::contract::{
    Applier, ApplyOptions, CommitOptions, Comparer, Contracts, Ctx, Descriptor, DiffOptions, Mount, WriterOptions,
    async_trait,
};
use orlop_plugin::{Error, Host, Instance, Registration, Result, blocking, kind};

use compression::{Compression, Hashing, UNCOMPRESSED};
use target::Target;

/// The label of a layer with its diff id.
const UNCOMPRESSED_LABEL: &str = "containerd.io/uncompressed";

/// What this crate registers.
pub fn registrations() -> Vec<Registration> {
    let registration = Registration::new(kind::DIFFER, "walking", |context| async move {
        let differ = Arc::new(Walking {
            host: context.host,
            references: AtomicU64::new(0),
        });
        Ok(Instance::new().with_contracts(Contracts {
            differ: Some(differ),
            ..Contracts::default()
        }))
    });
    vec![registration.requires([kind::METADATA]).host_platform()]
}

struct Walking {
    host: Host,
    /// Keeps the references of ingests apart.
    references: AtomicU64,
}

#[async_trait]
impl Applier for Walking {
    async fn apply(
        &self,
        ctx: &Ctx,
        layer: Descriptor,
        mounts: Vec<Mount>,
        options: ApplyOptions,
    ) -> Result<Descriptor> {
        let compression = Compression::of_layer(&layer.media_type).ok_or_else(|| {
            Error::unimplemented(format!(
                "the walking differ knows no layers of media type {:?}",
                layer.media_type
            ))
        })?;
        let mut content = self.host.content()?.read(ctx, &layer.digest, 0, 0).await?;
        let (compressed, mut from_store) = queue::bounded();
        let (plain, from_decompressor) = queue::bounded();
        let feed = async move {
            while let Some(chunk) = content.next().await {
                // Nobody reads on when a later stage has failed: its own error says why.
                if compressed.send(chunk?).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let decompress = blocking(move || {
            let mut reader = Hashing::new(compression.reader(&mut from_store)?);
            queue::pump(&mut reader, &plain).map_err(|error| Error::io("decompress the layer", &error))?;
            Ok(reader.finish())
        });
        let apply = blocking(move || {
            let target = Target::of(&mounts)?;
            let mut reader = from_decompressor;
            unpack::unpack(&mut reader, &target)?;
            // Padding behind the archive's end belongs to the diff id.
            std::io::copy(&mut reader, &mut std::io::sink())
                .map_err(|error| Error::io("read to the end of the layer", &error))?;
            if options.sync_fs {
                target.sync()?;
            }
            Ok(())
        });
        let doing = |error: Error| error.context(format_args!("apply layer {}", layer.digest));
        let (fed, hashed, applied) = tokio::join!(feed, decompress, apply);
        // A stage whose neighbour has failed only sees an end: the earliest stage knows best.
        fed.map_err(doing)?;
        let (digest, size) = hashed.map_err(doing)?;
        applied.map_err(doing)?;
        Ok(Descriptor {
            media_type: UNCOMPRESSED.to_owned(),
            digest,
            size,
            annotations: BTreeMap::new(),
        })
    }
}

#[async_trait]
impl Comparer for Walking {
    async fn diff(&self, ctx: &Ctx, lower: Vec<Mount>, upper: Vec<Mount>, options: DiffOptions) -> Result<Descriptor> {
        let media_type = match options.media_type.as_str() {
            "" => "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            given => given.to_owned(),
        };
        let compression = Compression::of_layer(&media_type).ok_or_else(|| {
            Error::unimplemented(format!(
                "the walking differ makes no layers of media type {media_type:?}"
            ))
        })?;
        let reference = if options.reference.is_empty() {
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            format!(
                "diff-{}-{}",
                now.as_nanos(),
                self.references.fetch_add(1, Ordering::Relaxed)
            )
        } else {
            options.reference.clone()
        };
        let content = self.host.content()?;
        let mut ingest = content
            .writer(
                ctx,
                WriterOptions {
                    reference: reference.clone(),
                    ..WriterOptions::default()
                },
            )
            .await?;
        ingest.truncate(0).await?;
        let (layer, mut made) = queue::writer();
        let epoch = options.source_date_epoch;
        let make = blocking(move || {
            let (lower, upper) = (Target::read_only(&lower)?, Target::read_only(&upper)?);
            let mut hashing = Hashing::new(compression.writer(layer)?);
            walk::diff(lower.path(), upper.path(), epoch, &mut hashing)
                .and_then(|()| hashing.flush())
                .map_err(|error| Error::io("make the layer", &error))?;
            let (encoder, hashed) = hashing.into_parts();
            encoder
                .finish()
                .map_err(|error| Error::io("compress the layer", &error))?;
            Ok(hashed)
        });
        let store = async {
            let mut size = 0;
            while let Some(chunk) = made.recv().await {
                size += chunk.len() as u64;
                ingest.write(chunk).await?;
            }
            Ok::<_, Error>(size)
        };
        let (made, stored) = tokio::join!(make, store);
        let result = match (made, stored) {
            (Ok((diff_id, _)), Ok(size)) => {
                let mut labels = options.labels;
                labels.insert(UNCOMPRESSED_LABEL.to_owned(), diff_id.to_string());
                let digest = ingest.digest().await?;
                match ingest
                    .commit(CommitOptions {
                        size,
                        expected: None,
                        labels,
                    })
                    .await
                {
                    Err(error) if !error.is_already_exists() => Err(error),
                    _ => Ok(Descriptor {
                        media_type,
                        digest,
                        size,
                        annotations: BTreeMap::new(),
                    }),
                }
            }
            (_, Err(error)) | (Err(error), _) => Err(error),
        };
        if result.is_err() {
            drop(ingest);
            // What is left would expire by itself; the error to tell of is the first one.
            let _ = content.abort(ctx, &reference).await;
        }
        result
    }
}
