//! The stages of a layer on its way to disk, each on a thread of its own while the layer lasts: decompress, hash, and the caller's.

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use sha2::{Digest as _, Sha256};

use super::compression::Compression;
use crate::Error;
use crate::contract::Digest;

/// How much of the tar goes from stage to stage at once.
const CHUNK: usize = 256 << 10;

/// Chunks that wait in front of a stage.
const WAITING: usize = 3;

type Chunk = io::Result<Vec<u8>>;

/// How much a layer may grow when it is decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// Up to so many bytes, whatever its blob has.
    pub free: u64,
    /// Beyond, so many times the length of its blob.
    pub ratio: u64,
}

impl Default for Expansion {
    /// 4 GiB, and beyond that 200 times: layers are seldom compressed better than 20 times, gzip makes 1,030 of zeros, and zstd 10,000.
    fn default() -> Self {
        Self {
            free: 4 << 30,
            ratio: 200,
        }
    }
}

/// Counts what is read of the blob.
struct Counted<'c, R> {
    source: R,
    count: &'c AtomicU64,
}

/// The tar, read from the last stage.
pub(super) struct Hashed {
    chunks: Receiver<Chunk>,
    /// Where empty buffers go back to.
    spent: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

/// Starts the stages in `scope`. The second value is the diff_id and the size of all that was read, once `Hashed` is at its end.
pub(super) fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    source: impl BufRead + Send + 'scope,
    compression: Compression,
    expansion: Expansion,
) -> (Hashed, ScopedJoinHandle<'scope, (Digest, u64)>) {
    let (plain, to_hash) = sync_channel::<Chunk>(WAITING);
    let (hashed, chunks) = sync_channel::<Chunk>(WAITING);
    let (spent, buffers) = channel();
    scope.spawn(move || {
        if let Err(error) = decompress(source, compression, expansion, &plain, &buffers) {
            // Nobody is there any more: their own error is the one that counts.
            let _ = plain.send(Err(error));
        }
    });
    let digest = scope.spawn(move || hash(&to_hash, &hashed));
    let tar = Hashed {
        chunks,
        spent,
        current: Vec::new(),
        at: 0,
    };
    (tar, digest)
}

fn decompress(
    source: impl BufRead + Send,
    compression: Compression,
    expansion: Expansion,
    plain: &SyncSender<Chunk>,
    buffers: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    let packed = AtomicU64::new(0);
    let mut reader = compression.reader(Counted { source, count: &packed })?;
    let mut unpacked = 0;
    loop {
        let mut chunk = buffers.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        while filled < CHUNK {
            match reader.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        chunk.truncate(filled);
        unpacked += filled as u64;
        let packed = packed.load(Ordering::Relaxed);
        if unpacked > expansion.free && unpacked > packed.saturating_mul(expansion.ratio) {
            return Err(io::Error::other(Error::resource_exhausted(format!(
                "{unpacked} bytes came of the first {packed} bytes of its blob, more than {} times as many: it is taken for a \
                 decompression bomb",
                expansion.ratio
            ))));
        }
        if filled == 0 || plain.send(Ok(chunk)).is_err() {
            return Ok(());
        }
    }
}

fn hash(plain: &Receiver<Chunk>, hashed: &SyncSender<Chunk>) -> (Digest, u64) {
    let (mut sha256, mut size) = (Sha256::new(), 0);
    for chunk in plain {
        if let Ok(chunk) = &chunk {
            sha256.update(chunk);
            size += chunk.len() as u64;
        }
        if hashed.send(chunk).is_err() {
            break;
        }
    }
    (Digest::from_sha256(sha256.finalize()), size)
}

// === impl Counted ===

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        self.source.consume(n);
    }
}

impl<R: BufRead> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

// === impl Hashed ===

impl BufRead for Hashed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() {
            self.at = 0;
            let spent = match self.chunks.recv() {
                Ok(chunk) => std::mem::replace(&mut self.current, chunk?),
                Err(_) => std::mem::take(&mut self.current),
            };
            // The first stage may have ended already.
            let _ = self.spent.send(spent);
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at = (self.at + n).min(self.current.len());
    }
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.consume(n);
        Ok(n)
    }
}
