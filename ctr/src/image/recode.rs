//! A layer in another compression.

use super::model::Descriptor;
use crate::client::Client;
use crate::content::store::{self, CHUNK, Expected, Writer};
use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::{GzEncoder, MultiGzDecoder};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::Write;

/// What turns a layer's bytes into others.
pub enum Recoder {
    /// Compresses with gzip.
    Gzip(GzEncoder<Vec<u8>>),
    /// Decompresses gzip, of several members too.
    Gunzip(MultiGzDecoder<Vec<u8>>),
    /// Decompresses zstd.
    Unzstd(zstd::stream::write::Decoder<'static, Vec<u8>>),
}

impl Recoder {
    /// One that compresses with gzip.
    pub fn gzip() -> Self {
        Self::Gzip(GzEncoder::new(Vec::new(), Compression::default()))
    }

    /// One that decompresses the blob `digest`, which says by its first bytes how; `None` when it is not compressed.
    pub async fn to_plain(client: &Client, digest: &str) -> Result<Option<Self>> {
        let mut head = Vec::new();
        if store::info(client, digest).await?.size > 0 {
            let mut pieces = store::pieces(client, digest, 0, 10).await;
            let pieces = pieces.as_mut().map_err(|status| status.clone());
            let pieces = pieces.context("cannot look at the layer")?;
            while let Some(piece) = pieces.message().await? {
                head.extend(piece.data);
            }
        }
        Ok(match head[..] {
            [0x1f, 0x8b, 0x08, ..] => Some(Self::Gunzip(MultiGzDecoder::new(Vec::new()))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let decoder = zstd::stream::write::Decoder::new(Vec::new()).context("zstd")?;
                Some(Self::Unzstd(decoder))
            }
            _ => None,
        })
    }

    fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Gzip(coder) => coder.write_all(data),
            Self::Gunzip(coder) => coder.write_all(data),
            Self::Unzstd(coder) => coder.write_all(data),
        }
    }

    /// What came out so far.
    fn ready(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(coder) => coder.get_mut(),
            Self::Gunzip(coder) => coder.get_mut(),
            Self::Unzstd(coder) => coder.get_mut(),
        }
    }

    /// The rest; an error when the input ended too early.
    fn finish(self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Gzip(coder) => coder.finish(),
            Self::Gunzip(coder) => coder.finish(),
            Self::Unzstd(mut coder) => {
                coder.flush()?;
                Ok(std::mem::take(coder.get_mut()))
            }
        }
    }
}

/// Writes what `recoder` makes of `layer` as a blob with `labels`, by way of the ingest `name`; answers its descriptor.
pub async fn copy(
    client: &Client,
    layer: &Descriptor,
    name: &str,
    mut recoder: Recoder,
    labels: HashMap<String, String>,
    media_type: &str,
) -> Result<Descriptor> {
    let failed = || format!("cannot recode layer {}", layer.digest);
    let opened = Writer::open(client, name, Expected::default()).await?;
    let mut writer = opened.with_context(|| format!("the daemon took ingest {name} for a blob"))?;
    let mut hash = Sha256::new();
    let mut pieces = store::pieces(client, &layer.digest, 0, 0).await?;
    while let Some(piece) = pieces.message().await? {
        // A piece of zeros becomes a thousand times as much.
        for part in piece.data.chunks(16 << 10) {
            recoder.write(part).with_context(failed)?;
            if recoder.ready().len() >= CHUNK {
                send(&mut writer, &mut hash, std::mem::take(recoder.ready())).await?;
            }
        }
    }
    let rest = recoder.finish().with_context(failed)?;
    send(&mut writer, &mut hash, rest).await?;
    let size = writer.offset();
    let digest = format!("sha256:{}", hex::encode(hash.finalize()));
    writer.commit(labels).await?;
    Ok(Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        ..layer.clone()
    })
}

/// Writes bytes in messages of a size that every daemon takes.
async fn send(writer: &mut Writer, hash: &mut Sha256, bytes: Vec<u8>) -> Result<()> {
    hash.update(&bytes);
    if bytes.len() <= 2 * CHUNK {
        return writer.write(bytes).await;
    }
    for part in bytes.chunks(CHUNK) {
        writer.write(part.to_vec()).await?;
    }
    Ok(())
}
