//! Compression of archives and layers, told by their first bytes.

use std::io::Write;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use orlop_plugin::contract::BoxStream;
use orlop_plugin::{Error, Result};

/// Compressed bytes that are expanded at a time: with deflate's 1032:1, at most 4 MiB come of it.
const STEP: usize = 4 << 10;

/// How something is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// zstd (RFC 8878).
    Zstd,
}

// === impl Compression ===

impl Compression {
    /// The bytes that [`Compression::detect`] wants to see.
    pub const MAGIC: usize = 4;

    /// What begins with `head`.
    pub fn detect(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            // The second is a skippable frame, which may come first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Takes compressed bytes and keeps what comes of them.
enum Decoder {
    Gzip(Box<flate2::write::MultiGzDecoder<Vec<u8>>>),
    Zstd(zstd::stream::write::Decoder<'static, Vec<u8>>),
}

// === impl Decoder ===

impl Decoder {
    fn push(&mut self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        Ok(match self {
            Self::Gzip(decoder) => {
                decoder.write_all(bytes)?;
                std::mem::take(decoder.get_mut())
            }
            Self::Zstd(decoder) => {
                decoder.write_all(bytes)?;
                std::mem::take(decoder.get_mut())
            }
        })
    }

    fn finish(&mut self) -> std::io::Result<Vec<u8>> {
        Ok(match self {
            Self::Gzip(decoder) => {
                decoder.try_finish()?;
                std::mem::take(decoder.get_mut())
            }
            Self::Zstd(decoder) => {
                decoder.flush()?;
                std::mem::take(decoder.get_mut())
            }
        })
    }
}

struct Decompressing {
    source: BoxStream<Bytes>,
    decoder: Decoder,
    compressed: Bytes,
    ended: bool,
}

/// `source` without its compression, whatever that is.
pub async fn decompressed(mut source: BoxStream<Bytes>) -> Result<BoxStream<Bytes>> {
    let mut head = BytesMut::new();
    while head.len() < Compression::MAGIC {
        match source.next().await {
            Some(bytes) => head.extend_from_slice(&bytes?),
            None => break,
        }
    }
    let decoder = match Compression::detect(&head) {
        Compression::None => {
            return Ok(Box::pin(stream::once(async { Ok(head.freeze()) }).chain(source)));
        }
        Compression::Gzip => Decoder::Gzip(Box::new(flate2::write::MultiGzDecoder::new(Vec::new()))),
        Compression::Zstd => {
            let decoder = zstd::stream::write::Decoder::new(Vec::new());
            Decoder::Zstd(decoder.map_err(|error| broken(&error))?)
        }
    };
    let state = Decompressing {
        source,
        decoder,
        compressed: head.freeze(),
        ended: false,
    };
    Ok(Box::pin(stream::try_unfold(state, |mut state| async move {
        Ok(state.next().await?.map(|bytes| (bytes, state)))
    })))
}

impl Decompressing {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.ended {
            if self.compressed.is_empty()
                && let Some(bytes) = self.source.next().await
            {
                self.compressed = bytes?;
                continue;
            }
            let expanded = if self.compressed.is_empty() {
                self.ended = true;
                self.decoder.finish()
            } else {
                let step = self.compressed.split_to(self.compressed.len().min(STEP));
                self.decoder.push(&step)
            };
            let expanded = expanded.map_err(|error| broken(&error))?;
            if !expanded.is_empty() {
                return Ok(Some(Bytes::from(expanded)));
            }
        }
        Ok(None)
    }
}

fn broken(error: &std::io::Error) -> Error {
    Error::invalid_argument(format!("the compressed archive is damaged or cut off: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{bytes_of, gzip, pieces};

    #[tokio::test]
    async fn compression_is_told_by_the_first_bytes() {
        let plain: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        for packed in [
            plain.clone(),
            gzip(&plain),
            zstd::encode_all(plain.as_slice(), 1).expect("zstd"),
        ] {
            let stream = decompressed(pieces(&packed, 1000)).await.expect("opened");
            assert_eq!(bytes_of(stream).await.expect("whole"), plain);
        }
        assert!(
            bytes_of(decompressed(pieces(b"", 1)).await.expect("opened"))
                .await
                .expect("empty")
                .is_empty()
        );
    }

    #[tokio::test]
    async fn half_a_gzip_stream_is_an_error() {
        let packed = gzip(&vec![7; 100_000]);
        let stream = decompressed(pieces(&packed[..packed.len() / 2], 100))
            .await
            .expect("opened");
        assert!(bytes_of(stream).await.is_err());
    }
}
