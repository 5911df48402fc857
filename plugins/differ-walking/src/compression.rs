//! Compressions of layers, and the digest of what is inside.

use std::io::{self, Read, Write};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use orlop_plugin::contract::Digest;
use orlop_plugin::{Error, Result};
use sha2::{Digest as _, Sha256};

/// The media type of a layer without compression.
pub(crate) const UNCOMPRESSED: &str = "application/vnd.oci.image.layer.v1.tar";

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

// === impl Compression ===

impl Compression {
    /// By the media type of a layer (OCI image-spec, layer.md; Docker's image manifest v2); `None` for what is no layer.
    pub(crate) fn of_layer(media_type: &str) -> Option<Self> {
        Some(match media_type {
            UNCOMPRESSED
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Self::None,
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Self::Gzip,
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Self::Zstd,
            _ => return None,
        })
    }

    /// The plain bytes of `compressed`.
    pub(crate) fn reader<'r>(self, compressed: &'r mut (dyn Read + Send)) -> Result<Box<dyn Read + 'r>> {
        Ok(match self {
            Self::None => Box::new(compressed),
            Self::Gzip => Box::new(MultiGzDecoder::new(compressed)),
            Self::Zstd => {
                Box::new(zstd::Decoder::new(compressed).map_err(|error| Error::io("start decompressing zstd", &error))?)
            }
        })
    }

    /// Compresses into `out`.
    pub(crate) fn writer<W: Write>(self, out: W) -> Result<Encoder<W>> {
        Ok(match self {
            Self::None => Encoder::None(out),
            Self::Gzip => Encoder::Gzip(GzEncoder::new(out, flate2::Compression::default())),
            Self::Zstd => {
                Encoder::Zstd(zstd::Encoder::new(out, 0).map_err(|error| Error::io("start compressing zstd", &error))?)
            }
        })
    }
}

/// A compressing writer that has an end.
pub(crate) enum Encoder<W: Write> {
    None(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
}

// === impl Encoder ===

impl<W: Write> Encoder<W> {
    /// Writes what ends the stream.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self {
            Self::None(mut out) => out.flush(),
            Self::Gzip(encoder) => encoder.finish()?.flush(),
            Self::Zstd(encoder) => encoder.finish()?.flush(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(out) => out.write(data),
            Self::Gzip(encoder) => encoder.write(data),
            Self::Zstd(encoder) => encoder.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // Flushing a compressor in the middle only makes its output larger.
        Ok(())
    }
}

/// Passes bytes on, and takes their sha256 and their number.
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    size: u64,
}

// === impl Hashing ===

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            size: 0,
        }
    }

    /// The digest and the number of bytes so far.
    pub(crate) fn finish(self) -> (Digest, u64) {
        self.into_parts().1
    }

    /// What is inside, and the digest and the number of bytes so far.
    pub(crate) fn into_parts(self) -> (T, (Digest, u64)) {
        (self.inner, (Digest::from_sha256(self.hasher.finalize()), self.size))
    }

    fn note(&mut self, data: &[u8]) {
        self.hasher.update(data);
        self.size += data.len() as u64;
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.note(&buffer[..read]);
        Ok(read)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.note(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
