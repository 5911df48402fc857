//! The ground of differs: making a layer of what differs between two sets of mounts, into the content store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::contract::{
    CommitOptions, ContentStore, Ctx, Descriptor, DiffOptions, Digest, IngestWriter, Labels, Mount, WriterOptions,
};
use crate::layer::{self, Compression, LABEL_UNCOMPRESSED, Made, MakeOptions};
use crate::mount::{Access, TempMount};
use crate::{Error, Result, blocking};

/// What is made when nobody says what.
const DEFAULT_MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Writes what differs between `lower` and `upper` into `content` as a layer, and returns its descriptor: what [`Comparer::diff`] is to do.
///
/// `Unimplemented` for a media type that no layer is made with here.
///
/// [`Comparer::diff`]: crate::contract::Comparer::diff
pub async fn compare(
    content: Arc<dyn ContentStore>,
    ctx: &Ctx,
    lower: Vec<Mount>,
    upper: Vec<Mount>,
    options: DiffOptions,
) -> Result<Descriptor> {
    let media_type = match options.media_type.as_str() {
        "" => DEFAULT_MEDIA_TYPE.to_owned(),
        given => given.to_owned(),
    };
    let compression = Compression::to_make(&media_type)
        .ok_or_else(|| Error::unimplemented(format!("no layers of media type {media_type:?} are made here")))?;
    let own_reference = options.reference.is_empty();
    let reference = if own_reference {
        unique_reference()
    } else {
        options.reference
    };
    let writer = WriterOptions {
        reference: reference.clone(),
        ..WriterOptions::default()
    };
    let mut ingest = content.writer(ctx, writer).await?;
    let make = MakeOptions {
        clamp_mtime: options.source_date_epoch,
    };
    let made = fill(&mut *ingest, lower, upper, make, compression).await;
    let stored = match made {
        Ok(made) => commit(&*content, ctx, ingest, &made, options.labels).await,
        Err(error) => {
            // Let go of the ingest: while a writer has it, it cannot be aborted.
            drop(ingest);
            Err(error)
        }
    };
    match stored {
        Ok((digest, size)) => Ok(Descriptor {
            media_type,
            digest,
            size,
            annotations: BTreeMap::new(),
        }),
        Err(error) => {
            // An ingest that the caller named is the caller's.
            if own_reference {
                abort(&content, ctx, &reference).await;
            }
            Err(error.context("make a layer"))
        }
    }
}

/// Makes the layer into `ingest`, from its start.
async fn fill(
    ingest: &mut dyn IngestWriter,
    lower: Vec<Mount>,
    upper: Vec<Mount>,
    options: MakeOptions,
    compression: Compression,
) -> Result<Made> {
    // One that was begun before holds half of another layer.
    ingest.truncate(0).await?;
    let (outlet, mut chunks) = layer::outlet();
    let make = blocking(move || {
        let lower = TempMount::direct_or_new(&lower, Access::Read)?;
        let upper = TempMount::direct_or_new(&upper, Access::Read)?;
        let made = layer::make(Some(lower.path()), upper.path(), &options, compression, outlet)?;
        upper.unmount()?;
        lower.unmount()?;
        Ok(made)
    });
    let store = async move {
        while let Some(chunk) = chunks.recv().await {
            ingest.write(chunk).await?;
        }
        Ok(())
    };
    let (made, stored) = futures_util::future::join(make, store).await;
    // A store that fails takes the receiver away: the making's own error is then only its echo.
    stored.and(made)
}

/// Makes `ingest` a blob that names its diff_id. Returns its digest and size; it is fine if it is there already.
async fn commit(
    content: &dyn ContentStore,
    ctx: &Ctx,
    mut ingest: Box<dyn IngestWriter>,
    made: &Made,
    mut labels: Labels,
) -> Result<(Digest, u64)> {
    labels.insert(LABEL_UNCOMPRESSED.to_owned(), made.diff_id.to_string());
    let digest = ingest.digest().await?;
    let commit = CommitOptions {
        size: 0,
        expected: Some(digest.clone()),
        labels: labels.clone(),
    };
    match ingest.commit(commit).await {
        Ok(_) => {}
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(error),
    }
    let mut info = content.info(ctx, &digest).await?;
    let size = info.size;
    if !info.labels.contains_key(LABEL_UNCOMPRESSED) {
        info.labels
            .insert(LABEL_UNCOMPRESSED.to_owned(), made.diff_id.to_string());
        content
            .update(ctx, info, &[format!("labels.{LABEL_UNCOMPRESSED}")])
            .await?;
    }
    Ok((digest, size))
}

async fn abort(content: &Arc<dyn ContentStore>, ctx: &Ctx, reference: &str) {
    match content.abort(ctx, reference).await {
        Ok(()) => {}
        // A failed commit may have taken it along.
        Err(error) if error.is_not_found() => {}
        Err(error) => tracing::warn!(reference, %error, "what was made of a layer stays behind as an ingest"),
    }
}

/// A reference that no other ingest has: this moment, and a number of this process for those who share it.
fn unique_reference() -> String {
    use std::hash::{BuildHasher, RandomState};
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    format!("diff-{now}-{:016x}", RandomState::new().hash_one(now))
}
