//! A tar stream, entry by entry, without a thread to block: ustar, PAX (POSIX.1-2001) and GNU's long names.

use std::time::Duration;

use bytes::Bytes;
use orlop_plugin::contract::{BoxStream, Code};
use orlop_plugin::{Error, Result};
use tar::{EntryType, Header};
use tokio::time::timeout;

use super::reader::{ByteReader, cut_off};

const BLOCK: usize = 512;

/// A long name or a PAX header is held in memory, and no path is longer than this by far.
const MAX_EXTENSION: u64 = 1 << 20;

/// What may follow the end of an archive: writers fill a record of 10 KiB, or of as much as `tar -b` says.
const MAX_AFTER_END: u64 = 1 << 20;

/// How long the end of a stream is waited for.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    /// With what it points to.
    Symlink(String),
    /// A directory, a hard link, a device, …: nothing that an image archive needs.
    Other,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: EntryKind,
    /// Bytes of data.
    pub(super) size: u64,
}

/// A tar stream.
pub(super) struct TarReader {
    bytes: ByteReader,
    /// Data of the current entry that was not read.
    unread: u64,
    /// Bytes after it, up to the next header.
    padding: u64,
}

/// What an extension header says of the next entry.
#[derive(Default)]
struct Extension {
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

// === impl TarReader ===

impl TarReader {
    pub(super) fn new(stream: BoxStream<Bytes>) -> Self {
        Self {
            bytes: ByteReader::new(stream),
            unread: 0,
            padding: 0,
        }
    }

    /// The next entry; `None` at the end of the archive.
    pub(super) async fn next(&mut self) -> Result<Option<Entry>> {
        let mut extension = Extension::default();
        loop {
            self.bytes.skip(self.unread + self.padding).await?;
            (self.unread, self.padding) = (0, 0);
            let mut block = [0; BLOCK];
            // Some writers leave the two closing blocks out.
            if !self.bytes.fill(&mut block).await? || block.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            let size = checked_size(header, &block)?;
            let kind = header.entry_type();
            // A PAX size is that of the file, not of a further extension in front of it.
            self.expect(if is_extension(kind) {
                size
            } else {
                extension.size.unwrap_or(size)
            });
            match kind {
                EntryType::GNULongName => extension.name = Some(self.long_name().await?),
                EntryType::GNULongLink => extension.link = Some(self.long_name().await?),
                EntryType::XHeader => parse_pax(&self.read_all(MAX_EXTENSION).await?, &mut extension)?,
                // What it says holds for all entries, and none of it matters here.
                EntryType::XGlobalHeader => {}
                EntryType::GNUSparse => {
                    return Err(Error::invalid_argument(format!(
                        "the archive has a sparse entry, {:?}: write it again without `--sparse`",
                        String::from_utf8_lossy(&header.path_bytes())
                    )));
                }
                kind => {
                    let name = text(extension.name.take(), &header.path_bytes());
                    let link = text(extension.link.take(), &header.link_name_bytes().unwrap_or_default());
                    return Ok(Some(Entry {
                        kind: match kind {
                            EntryType::Regular | EntryType::Continuous if !name.ends_with('/') => EntryKind::File,
                            EntryType::Symlink => EntryKind::Symlink(link),
                            _ => EntryKind::Other,
                        },
                        name,
                        size: self.unread,
                    }));
                }
            }
        }
    }

    /// The next data of the current entry; `None` after the last.
    pub(super) async fn data(&mut self) -> Result<Option<Bytes>> {
        if self.unread == 0 {
            return Ok(None);
        }
        let bytes = self.bytes.up_to(self.unread).await?.ok_or_else(cut_off)?;
        self.unread -= bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// All data of the current entry. `InvalidArgument` when there is more than `limit`.
    pub(super) async fn read_all(&mut self, limit: u64) -> Result<Vec<u8>> {
        if self.unread > limit {
            return Err(Error::invalid_argument(format!(
                "it has {} bytes, of {limit} allowed",
                self.unread
            )));
        }
        let mut all = Vec::with_capacity(self.unread as usize);
        while let Some(bytes) = self.data().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    /// Reads what follows the archive's end: the padding of its last record, and the check of its compression. A client that does
    /// not end its stream, or has gone already, is left alone: what matters has come.
    pub(super) async fn finish(&mut self) -> Result<()> {
        match timeout(END_PATIENCE, self.bytes.skip_rest(MAX_AFTER_END)).await {
            Ok(Err(error)) if error.code == Code::InvalidArgument => Err(error),
            _ => Ok(()),
        }
    }

    fn expect(&mut self, size: u64) {
        self.unread = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    async fn long_name(&mut self) -> Result<String> {
        let bytes = self.read_all(MAX_EXTENSION).await?;
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

fn is_extension(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
    )
}

fn text(extended: Option<String>, short: &[u8]) -> String {
    extended.unwrap_or_else(|| String::from_utf8_lossy(short).into_owned())
}

/// The size that a header says, once its checksum shows that it is one.
fn checked_size(header: &Header, block: &[u8; BLOCK]) -> Result<u64> {
    // The checksum is taken with its own field, bytes 148 to 155, as blanks.
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, &byte)| u32::from(if (148..156).contains(&at) { b' ' } else { byte }))
        .sum();
    let size = header.entry_size();
    match (header.cksum(), size) {
        (Ok(said), Ok(size)) if said == sum && i64::try_from(size).is_ok() => Ok(size),
        _ => Err(Error::invalid_argument(
            "this is no tar archive, or a damaged one: an entry's header does not match its checksum",
        )),
    }
}

/// Reads the records of a PAX header, `LENGTH KEY=VALUE\n` each.
fn parse_pax(mut records: &[u8], extension: &mut Extension) -> Result<()> {
    let malformed = || Error::invalid_argument("the archive has a malformed PAX header");
    while !records.is_empty() {
        let blank = records.iter().position(|&byte| byte == b' ').ok_or_else(malformed)?;
        let length = std::str::from_utf8(&records[..blank])
            .ok()
            .and_then(|length| length.parse::<usize>().ok());
        let length = length
            .filter(|&length| length > blank + 1 && length <= records.len())
            .ok_or_else(malformed)?;
        let (record, rest) = records.split_at(length);
        records = rest;
        let record = record[blank + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(malformed)?;
        let value = String::from_utf8_lossy(&record[equals + 1..]).into_owned();
        match &record[..equals] {
            b"path" => extension.name = Some(value),
            b"linkpath" => extension.link = Some(value),
            b"size" => {
                let size = value.parse().ok().filter(|&size: &u64| i64::try_from(size).is_ok());
                extension.size = Some(size.ok_or_else(malformed)?);
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{pieces, tar_of};

    async fn entries(archive: &[u8]) -> Result<Vec<(String, EntryKind, Vec<u8>)>> {
        let mut tar = TarReader::new(pieces(archive, 333));
        let mut entries = Vec::new();
        while let Some(entry) = tar.next().await? {
            let data = tar.read_all(1 << 20).await?;
            assert_eq!(data.len() as u64, entry.size);
            entries.push((entry.name, entry.kind, data));
        }
        Ok(entries)
    }

    #[tokio::test]
    async fn entries_come_with_names_of_any_length() {
        let long = format!("blobs/sha512/{}", "0123456789abcdef".repeat(8));
        let archive = tar_of(&[("a", vec![1; 3]), (&long, vec![7; 1000]), ("empty", Vec::new())]);
        let read = entries(&archive).await.expect("valid");
        let names: Vec<&str> = read.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["a", &long, "empty"]);
        assert_eq!(read[1].2, [7; 1000]);
    }

    #[tokio::test]
    async fn pax_headers_win_over_what_they_precede() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = "d/".repeat(100) + "file";
        builder
            .append_pax_extensions([("path", long.as_bytes()), ("size", b"3")])
            .expect("append");
        let mut header = Header::new_ustar();
        header.set_path("short").expect("path");
        header.set_size(3);
        header.set_cksum();
        builder.append(&header, b"abc".as_slice()).expect("append");
        let archive = builder.into_inner().expect("finish");
        assert_eq!(
            entries(&archive).await.expect("valid"),
            [(long, EntryKind::File, b"abc".to_vec())]
        );
    }

    #[tokio::test]
    async fn a_cut_or_damaged_archive_is_refused() {
        let whole = tar_of(&[("a", &[1; 2000])]);
        for end in [100, 600, 2000] {
            let error = entries(&whole[..end]).await.expect_err("cut off");
            assert!(error.message.contains("cut off"), "{end}: {error}");
        }
        let mut damaged = whole.clone();
        damaged[3] ^= 1;
        assert!(
            entries(&damaged)
                .await
                .expect_err("damaged")
                .message
                .contains("checksum")
        );
        assert!(entries(&[b'x'; 600]).await.is_err());
        assert!(entries(b"").await.expect("an empty stream has no entries").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_archive_makes_it_panic(changes in proptest::collection::vec((0..4096_usize, proptest::num::u8::ANY), 1..40)) {
            let mut builder = tar::Builder::new(Vec::new());
            builder.append_pax_extensions([("path", b"long".as_slice()), ("size", b"700")]).expect("append");
            let mut archive = builder.into_inner().expect("finish");
            archive.truncate(1024);
            archive.extend(tar_of(&[("a", vec![1; 700]), (&"d/".repeat(80), vec![2; 100])]));
            for (at, byte) in changes {
                let at = at % archive.len();
                archive[at] = byte;
                // Most changes must get past the checksum to show anything.
                let block = at / BLOCK * BLOCK;
                if let Some(header) = archive.get_mut(block..block + BLOCK) {
                    let sum: u32 = (0..BLOCK).map(|n| u32::from(if (148..156).contains(&n) { b' ' } else { header[n] })).sum();
                    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let _ = runtime.block_on(entries(&archive));
        }
    }

    #[test]
    fn malformed_pax_records_are_refused() {
        for bad in ["x", "5 a=b", "99 path=x\n", "6 path\n", "0 a=b\n", "9 size=x\n"] {
            assert!(parse_pax(bad.as_bytes(), &mut Extension::default()).is_err(), "{bad}");
        }
    }
}
