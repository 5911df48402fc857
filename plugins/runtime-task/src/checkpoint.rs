//! Checkpoints: a directory that CRIU wrote, or one blob of the content store that holds it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use containerd_shim_protos::shim::oci::{CheckpointOptions, Options};
use futures_util::StreamExt;
use orlop_plugin::contract::{Any, CommitOptions, ContentStore, Ctx, Descriptor, WriterOptions};
use orlop_plugin::{Error, Host, Result, blocking};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bundle::Bundle;

/// A tar archive of what CRIU wrote.
const CHECKPOINT: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
/// The specification of the container, as an Any.
const CHECKPOINT_CONFIG: &str = "application/vnd.containerd.container.checkpoint.config.v1+proto";

const CHUNK: usize = 1 << 20;

/// Whether a runtime's options are runc's.
fn is_runc(runtime: &str) -> bool {
    runtime == "io.containerd.runc" || runtime.starts_with("io.containerd.runc.")
}

fn options<T: containerd_shim_protos::protobuf::Message>(options: &Any) -> Result<T> {
    T::parse_from_bytes(&options.value).map_err(|error| {
        Error::invalid_argument(format!(
            "the options {} of the runtime are damaged: {error}",
            options.type_url
        ))
    })
}

fn non_empty(path: String) -> Option<String> {
    (!path.is_empty()).then_some(path)
}

/// The directory that runc's options say to restore from.
pub fn restore_path(runtime: &str, given: Option<&Any>) -> Result<Option<String>> {
    match given {
        Some(given) if is_runc(runtime) => Ok(non_empty(options::<Options>(given)?.criu_image_path)),
        _ => Ok(None),
    }
}

/// The directory that runc's options say to write a checkpoint to.
pub fn image_path(runtime: &str, given: Option<&Any>) -> Result<Option<String>> {
    match given {
        Some(given) if is_runc(runtime) => Ok(non_empty(options::<CheckpointOptions>(given)?.image_path)),
        _ => Ok(None),
    }
}

/// A directory for a checkpoint, in the work directory of a bundle: it goes when the task does.
fn checkpoint_dir(bundle: &Bundle, name: &str) -> PathBuf {
    bundle.path.join("work").join(name)
}

/// Unpacks a checkpoint from the content store, for a task to be restored; returns the directory.
pub async fn fetch(host: &Host, ctx: &Ctx, bundle: &Bundle, descriptor: &Descriptor) -> Result<String> {
    if descriptor.media_type != CHECKPOINT {
        return Err(Error::invalid_argument(format!(
            "{:?} is no type of checkpoint this daemon can restore",
            descriptor.media_type
        )));
    }
    let dir = checkpoint_dir(bundle, "restore");
    let archive = checkpoint_dir(bundle, "restore.tar");
    let io = |error: &std::io::Error| Error::io(format!("unpack the checkpoint {}", descriptor.digest), error);
    let mut blob = host.content()?.read(ctx, &descriptor.digest, 0, 0).await?;
    let mut file = tokio::fs::File::create(&archive).await.map_err(|error| io(&error))?;
    while let Some(chunk) = blob.next().await {
        file.write_all(&chunk?).await.map_err(|error| io(&error))?;
    }
    file.flush().await.map_err(|error| io(&error))?;
    drop(file);
    let target = dir.clone();
    let unpacked = blocking(move || {
        let unpack = || {
            std::fs::create_dir(&target)?;
            tar::Archive::new(std::fs::File::open(&archive)?).unpack(&target)?;
            std::fs::remove_file(&archive)
        };
        Ok(unpack())
    });
    unpacked.await?.map_err(|error| io(&error))?;
    Ok(dir.to_string_lossy().into_owned())
}

/// A directory for CRIU to write to.
pub async fn scratch(bundle: &Bundle) -> Result<tempfile::TempDir> {
    let work = bundle.path.join("work");
    blocking(move || {
        tempfile::Builder::new()
            .prefix("checkpoint-")
            .tempdir_in(&work)
            .map_err(|error| Error::io(format!("make a directory in {}", work.display()), &error))
    })
    .await
}

/// Stores what CRIU wrote, and the specification: what a checkpoint consists of.
pub async fn store(host: &Host, ctx: &Ctx, dir: &tempfile::TempDir, spec: Option<Any>) -> Result<Vec<Descriptor>> {
    let content = host.content()?;
    let (image, archive) = (dir.path().to_owned(), dir.path().with_extension("tar"));
    let reference = dir.path().to_string_lossy().into_owned();
    let packed = archive.clone();
    blocking(move || {
        let pack = || {
            let mut builder = tar::Builder::new(std::fs::File::create(&packed)?);
            builder.append_dir_all("", &image)?;
            builder.into_inner()?.sync_data()
        };
        pack().map_err(|error| Error::io(format!("pack the checkpoint {}", image.display()), &error))
    })
    .await?;
    let stored = write_file(&*content, ctx, &reference, &archive).await;
    let _ = tokio::fs::remove_file(&archive).await;
    let checkpoint = stored?;
    let spec = spec.unwrap_or_default().encode_to_vec();
    let mut writer = Writer::open(&*content, ctx, &format!("{reference}/spec"), CHECKPOINT_CONFIG).await?;
    writer.write(spec.into()).await?;
    Ok(vec![checkpoint, writer.commit().await?])
}

async fn write_file(content: &dyn ContentStore, ctx: &Ctx, reference: &str, path: &Path) -> Result<Descriptor> {
    let io = |error: &std::io::Error| Error::io(format!("read {}", path.display()), error);
    let mut file = tokio::fs::File::open(path).await.map_err(|error| io(&error))?;
    let mut writer = Writer::open(content, ctx, reference, CHECKPOINT).await?;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        (&mut file)
            .take(CHUNK as u64)
            .read_to_end(&mut chunk)
            .await
            .map_err(|error| io(&error))?;
        if chunk.is_empty() {
            return writer.commit().await;
        }
        writer.write(chunk.into()).await?;
    }
}

/// A blob being written, with its length.
struct Writer {
    ingest: Box<dyn orlop_plugin::contract::IngestWriter>,
    media_type: &'static str,
    size: u64,
}

impl Writer {
    async fn open(content: &dyn ContentStore, ctx: &Ctx, reference: &str, media_type: &'static str) -> Result<Self> {
        let options = WriterOptions {
            reference: reference.to_owned(),
            ..WriterOptions::default()
        };
        Ok(Self {
            ingest: content.writer(ctx, options).await?,
            media_type,
            size: 0,
        })
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.size += data.len() as u64;
        self.ingest.write(data).await
    }

    async fn commit(mut self) -> Result<Descriptor> {
        let digest = self.ingest.digest().await?;
        match self.ingest.commit(CommitOptions::default()).await {
            Ok(_) => {}
            // The same bytes are there: that is as good.
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error),
        }
        Ok(Descriptor {
            media_type: self.media_type.to_owned(),
            digest,
            size: self.size,
            annotations: std::collections::BTreeMap::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::protobuf::Message as _;

    #[test]
    fn only_runcs_options_name_a_directory() {
        let given = Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: Options {
                criu_image_path: "/var/checkpoint".into(),
                ..Options::default()
            }
            .write_to_bytes()
            .expect("encoded"),
        };
        assert_eq!(
            restore_path("io.containerd.runc.v2", Some(&given)),
            Ok(Some("/var/checkpoint".into()))
        );
        assert_eq!(restore_path("io.containerd.runcish.v2", Some(&given)), Ok(None));
        assert_eq!(restore_path("io.containerd.runc.v2", None), Ok(None));
        let damaged = Any {
            value: vec![0xff],
            ..given
        };
        assert!(image_path("io.containerd.runc.v2", Some(&damaged)).is_err());
    }
}
