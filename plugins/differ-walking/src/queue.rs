//! Bounded queues of bytes between the stages of a layer: between async tasks and threads, with what [`Read`] and [`Write`] need.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Chunks under way between two stages.
const CHUNKS: usize = 16;
/// The size of a chunk that a stage makes: enough to make a thread's wake-up cheap.
const CHUNK: usize = 256 << 10;

/// The reading end.
pub(crate) struct Reader {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

/// The writing end for a thread.
pub(crate) struct Writer {
    sender: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

/// A queue; its reader blocks a thread.
pub(crate) fn bounded() -> (mpsc::Sender<Bytes>, Reader) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    (
        sender,
        Reader {
            receiver,
            current: Bytes::new(),
        },
    )
}

/// A queue; its writer blocks a thread.
pub(crate) fn writer() -> (Writer, mpsc::Receiver<Bytes>) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    (
        Writer {
            sender,
            buffer: Vec::with_capacity(CHUNK),
        },
        receiver,
    )
}

/// Reads `reader` to its end into `sender`. That nobody takes it any more is no error here: who left has one.
pub(crate) fn pump(reader: &mut impl Read, sender: &mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut wanted = true;
    loop {
        let mut chunk = vec![0; CHUNK];
        let mut filled = 0;
        while filled < CHUNK {
            match reader.read(&mut chunk[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        if filled == 0 {
            return Ok(());
        }
        chunk.truncate(filled);
        wanted = wanted && sender.blocking_send(chunk.into()).is_ok();
        if !wanted {
            return Ok(());
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

impl Write for Writer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.sender
            .blocking_send(chunk.into())
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the content store took no more"))
    }
}
