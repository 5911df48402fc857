//! A stream of chunks, read by exact amounts.

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use orlop_plugin::contract::BoxStream;
use orlop_plugin::{Error, Result};

/// A stream of chunks, read by exact amounts.
pub(super) struct ByteReader {
    stream: BoxStream<Bytes>,
    chunk: Bytes,
}

// === impl ByteReader ===

impl ByteReader {
    pub(super) fn new(stream: BoxStream<Bytes>) -> Self {
        Self {
            stream,
            chunk: Bytes::new(),
        }
    }

    /// The next bytes, at least one and at most `limit`; `None` at the end.
    pub(super) async fn up_to(&mut self, limit: u64) -> Result<Option<Bytes>> {
        while self.chunk.is_empty() {
            match self.stream.next().await {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(None),
            }
        }
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(self.chunk.len());
        Ok(Some(self.chunk.split_to(length)))
    }

    /// Fills `buffer`. `false` when the stream ended before its first byte.
    pub(super) async fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.up_to((buffer.len() - filled) as u64).await? {
                Some(mut bytes) => {
                    let length = bytes.len();
                    bytes.copy_to_slice(&mut buffer[filled..filled + length]);
                    filled += length;
                }
                None if filled == 0 => return Ok(false),
                None => return Err(cut_off()),
            }
        }
        Ok(true)
    }

    /// Passes over `length` bytes.
    pub(super) async fn skip(&mut self, mut length: u64) -> Result<()> {
        while length > 0 {
            length -= self.up_to(length).await?.ok_or_else(cut_off)?.len() as u64;
        }
        Ok(())
    }

    /// Passes over what is left, up to `limit` bytes.
    pub(super) async fn skip_rest(&mut self, limit: u64) -> Result<()> {
        let mut skipped = 0;
        while skipped < limit
            && let Some(bytes) = self.up_to(limit).await?
        {
            skipped += bytes.len() as u64;
        }
        Ok(())
    }
}

/// The archive ended where it must not.
pub(super) fn cut_off() -> Error {
    Error::invalid_argument(
        "the archive is cut off: it ends in the middle of an entry; was the file, or the transfer of it, complete?",
    )
}
