//! Writing an archive: what is in it is known before its first byte is sent, so that what is missing is said in time.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::StreamExt;
use orlop_plugin::{Error, Result};
use sha2::{Digest as _, Sha256, Sha512};
use tar::{EntryType, Header};

use crate::content::Content;
use crate::oci::Descriptor;
use crate::stream::ByteSink;

const BLOCK: u64 = 512;

/// One file or directory of an archive, without its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Permissions.
    pub mode: u32,
    /// What is in it.
    pub body: RecordBody,
}

/// What a record has in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are the largest")]
pub enum RecordBody {
    /// It is a directory.
    Directory,
    /// These bytes.
    Bytes(Vec<u8>),
    /// A blob of the content store.
    Blob(Descriptor),
}

/// Sends `records` as a tar stream, by their names.
pub async fn write_archive(content: &Content, sink: &mut ByteSink, records: BTreeMap<String, Record>) -> Result<()> {
    for (name, record) in records {
        match record.body {
            RecordBody::Directory => sink.write(header(&name, record.mode, 0, EntryType::Directory)?).await?,
            RecordBody::Bytes(bytes) => {
                let size = bytes.len() as u64;
                sink.write(header(&name, record.mode, size, EntryType::Regular)?)
                    .await?;
                sink.write(Bytes::from(bytes)).await?;
                sink.write(padding(size)).await?;
            }
            RecordBody::Blob(blob) => {
                sink.write(header(&name, record.mode, blob.size, EntryType::Regular)?)
                    .await?;
                send_blob(content, sink, &blob).await?;
                sink.write(padding(blob.size)).await?;
            }
        }
    }
    sink.write(Bytes::from_static(&[0; 2 * BLOCK as usize])).await
}

/// Sends a blob and checks it on the way: a damaged store must not make a valid-looking archive.
async fn send_blob(content: &Content, sink: &mut ByteSink, blob: &Descriptor) -> Result<()> {
    let mut hash = Hash::of(blob.digest.algorithm());
    let (mut pieces, mut size) = (content.read(&blob.digest).await?, 0);
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        size += piece.len() as u64;
        hash.update(&piece);
        sink.write(piece).await?;
    }
    if size == blob.size && hash.is(blob.digest.hex()) {
        Ok(())
    } else {
        Err(Error::data_loss(format!(
            "the blob {} is damaged in the content store: delete it and pull the image again",
            blob.digest
        )))
    }
}

enum Hash {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

// === impl Hash ===

impl Hash {
    fn of(algorithm: &str) -> Self {
        if algorithm == "sha512" {
            Self::Sha512(Box::default())
        } else {
            Self::Sha256(Sha256::new())
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    fn is(self, hex: &str) -> bool {
        match self {
            Self::Sha256(hash) => format!("{:x}", hash.finalize()) == hex,
            Self::Sha512(hash) => format!("{:x}", hash.finalize()) == hex,
        }
    }
}

/// The header block of an entry, behind a GNU long name when `name` does not fit.
fn header(name: &str, mode: u32, size: u64, kind: EntryType) -> Result<Bytes> {
    let mut blocks = Vec::new();
    let mut header = Header::new_ustar();
    if header.set_path(name).is_err() {
        let mut long = Header::new_gnu();
        let length = name.len() as u64 + 1;
        let written = long.set_path("././@LongLink");
        written.map_err(|error| Error::internal(format!("write the long name {name:?}: {error}")))?;
        finish(&mut long, 0o644, length, EntryType::GNULongName);
        blocks.extend_from_slice(long.as_bytes());
        blocks.extend_from_slice(name.as_bytes());
        blocks.push(0);
        blocks.extend_from_slice(&padding(length));
        header = Header::new_gnu();
        let short: String = name.chars().take(99).collect();
        let written = header.set_path(short);
        written.map_err(|error| Error::internal(format!("write the name {name:?}: {error}")))?;
    }
    finish(&mut header, mode, size, kind);
    blocks.extend_from_slice(header.as_bytes());
    Ok(Bytes::from(blocks))
}

fn finish(header: &mut Header, mode: u32, size: u64, kind: EntryType) {
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_entry_type(kind);
    header.set_cksum();
}

fn padding(size: u64) -> Bytes {
    Bytes::from_static(&[0; BLOCK as usize]).slice(..(size.wrapping_neg() % BLOCK) as usize)
}
