//! How a layer is compressed: told by its media type, seen in its first bytes, and undone or done.

use std::io::{self, BufRead, Read, Write};

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A bare tar.
    None,
    /// gzip (RFC 1952), of any number of members.
    Gzip,
    /// Zstandard (RFC 8878), of any number of frames.
    Zstd,
    /// Whatever the first bytes say: media types have lied about this for years.
    Detect,
}

const OCI: &str = "application/vnd.oci.image.layer.v1.tar";
const OCI_NONDISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";

// === impl Compression ===

impl Compression {
    /// What a layer of this media type may be applied as; `None` when the media type is no layer known here.
    ///
    /// As in containerd, whatever is said to be compressed is looked at (a `tar+gzip` may be a bare tar), a bare OCI tar is not.
    pub fn of_layer(media_type: &str) -> Option<Self> {
        for base in [OCI, OCI_NONDISTRIBUTABLE] {
            if let Some(suffix) = media_type.strip_prefix(base) {
                return match suffix {
                    "" => Some(Self::None),
                    "+gzip" | "+zstd" => Some(Self::Detect),
                    _ => None,
                };
            }
        }
        for base in [DOCKER, DOCKER_FOREIGN] {
            if let Some(suffix) = media_type.strip_prefix(base) {
                return matches!(suffix, "" | ".gzip" | ".zstd").then_some(Self::Detect);
            }
        }
        None
    }

    /// What a layer of this media type is made with; `None` when none such is made here. Empty is a gzipped OCI layer.
    pub fn to_make(media_type: &str) -> Option<Self> {
        match media_type.strip_prefix(OCI)? {
            "" => Some(Self::None),
            "+gzip" => Some(Self::Gzip),
            "+zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// What these first bytes are.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            // A frame, or a skippable one, which some compressors put in front.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// A reader of what `source` decompresses to.
    pub(super) fn reader<'a>(self, mut source: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        if self != Self::Detect {
            return self.known_reader(source);
        }
        let mut start = [0; 4];
        let mut have = 0;
        // The first bytes may come one by one.
        while have < start.len() {
            match source.read(&mut start[have..])? {
                0 => break,
                n => have += n,
            }
        }
        let start = io::Cursor::new(start).take(have as u64);
        Self::detect(&start.get_ref().get_ref()[..have]).known_reader(start.chain(source))
    }

    /// The same when it is known what `source` is; what is not is taken as it comes.
    fn known_reader<'a>(self, source: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::None | Self::Detect => Box::new(source),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
        })
    }

    /// A writer that compresses into `sink`; `finish` it.
    pub(super) fn writer<W: Write>(self, sink: W) -> io::Result<Compressor<W>> {
        Ok(match self {
            Self::None => Compressor::None(sink),
            Self::Gzip | Self::Detect => {
                Compressor::Gzip(flate2::write::GzEncoder::new(sink, flate2::Compression::default()))
            }
            Self::Zstd => Compressor::Zstd(zstd::stream::write::Encoder::new(
                sink,
                zstd::DEFAULT_COMPRESSION_LEVEL,
            )?),
        })
    }
}

/// Compresses what is written.
pub(super) enum Compressor<W: Write> {
    None(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

// === impl Compressor ===

impl<W: Write> Compressor<W> {
    /// Writes the end and gives the sink back.
    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::None(sink) => Ok(sink),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(sink) => sink.write(data),
            Self::Gzip(encoder) => encoder.write(data),
            Self::Zstd(encoder) => encoder.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(sink) => sink.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        use Compression::*;
        for (media_type, expected) in [
            ("application/vnd.oci.image.layer.v1.tar", Some(None)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Detect)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Detect)),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                Some(Detect),
            ),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(Detect)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Detect)),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                Some(Detect),
            ),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", Option::None),
            ("application/vnd.oci.image.layer.v1.tarball", Option::None),
            ("application/vnd.erofs.layer.v1", Option::None),
            ("", Option::None),
        ] {
            assert_eq!(Compression::of_layer(media_type), expected, "{media_type}");
        }
        assert_eq!(
            Compression::to_make("application/vnd.docker.image.rootfs.diff.tar.gzip"),
            Option::None
        );
    }

    #[test]
    fn members_and_frames_are_read_one_after_the_other() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut packed = Vec::new();
            for part in ["hello ", "world"] {
                let mut writer = compression.writer(Vec::new()).expect("a writer");
                writer.write_all(part.as_bytes()).expect("compressed");
                packed.extend(writer.finish().expect("finished"));
            }
            // One byte at a time, so that detection cannot count on a whole magic number.
            let trickle = io::BufReader::with_capacity(1, &packed[..]);
            let mut text = String::new();
            Compression::Detect
                .reader(trickle)
                .and_then(|mut reader| reader.read_to_string(&mut text))
                .expect("decompressed");
            assert_eq!(text, "hello world", "{compression:?}");
        }
    }
}
