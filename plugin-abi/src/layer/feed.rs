//! Between async and blocking: bytes that arrive as a stream and are read by a thread, and the other way round.

use std::io::{self, BufRead, Read, Write};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::contract::BoxStream;
use crate::{Error, Result};

/// Chunks under way; with the content store's chunks of 256 KiB or so this bounds what a layer holds in memory.
const DEPTH: usize = 8;

/// How big the pieces are that an [`Outlet`] sends.
const OUTLET_CHUNK: usize = 256 << 10;

enum Piece {
    Data(Bytes),
    Failed(Error),
    /// Told apart from a sender that was dropped, or a cancelled call would pass for a short layer.
    End,
}

/// The async end: what is pushed here is read from the [`Feed`].
pub struct Feeder(mpsc::Sender<Piece>);

/// The blocking end of a [`Feeder`].
pub struct Feed {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

/// A pipe from async to blocking.
pub fn feed() -> (Feeder, Feed) {
    let (sender, pieces) = mpsc::channel(DEPTH);
    let feed = Feed {
        pieces,
        current: Bytes::new(),
        ended: false,
    };
    (Feeder(sender), feed)
}

// === impl Feeder ===

impl Feeder {
    /// Hands over `data`, waiting while the reader is behind. `false` when the reader is gone: its own error says why.
    pub async fn push(&self, data: Bytes) -> bool {
        self.0.send(Piece::Data(data)).await.is_ok()
    }

    /// Ends the stream, well (`None`) or with what the reader shall fail with.
    pub async fn end(self, error: Option<Error>) {
        // A reader that is gone needs no end.
        let _ = self.0.send(error.map_or(Piece::End, Piece::Failed)).await;
    }

    /// Hands over a whole stream, its error too.
    pub async fn push_all(self, mut stream: BoxStream<Bytes>) {
        while let Some(item) = stream.next().await {
            match item {
                Ok(data) => {
                    if !self.push(data).await {
                        return;
                    }
                }
                Err(error) => return self.end(Some(error)).await,
            }
        }
        self.end(None).await;
    }

    /// Feeds `stream` to `work`, which reads it on the blocking pool.
    pub async fn run<T: Send + 'static>(
        stream: BoxStream<Bytes>,
        work: impl FnOnce(Feed) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (feeder, feed) = feed();
        let (result, ()) =
            futures_util::future::join(crate::blocking(move || work(feed)), feeder.push_all(stream)).await;
        result
    }
}

// === impl Feed ===

impl BufRead for Feed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => self.current = data,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Failed(error)) => return Err(io::Error::other(error)),
                None => return Err(io::Error::other(Error::cancelled("the caller gave the transfer up"))),
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, n: usize) {
        bytes::Buf::advance(&mut self.current, n);
    }
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.current[..n]);
        self.consume(n);
        Ok(n)
    }
}

/// The blocking end of a pipe from blocking to async: what is written here comes out of the receiver in chunks.
pub struct Outlet {
    chunks: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

/// A pipe from blocking to async. The receiver ends when the outlet is dropped; whether it was whole is for the writer to say.
pub fn outlet() -> (Outlet, mpsc::Receiver<Bytes>) {
    let (chunks, receiver) = mpsc::channel(DEPTH);
    let outlet = Outlet {
        chunks,
        buffer: Vec::with_capacity(OUTLET_CHUNK),
    };
    (outlet, receiver)
}

// === impl Outlet ===

impl Write for Outlet {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = data.len().min(OUTLET_CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&data[..n]);
        if self.buffer.len() == OUTLET_CHUNK {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(OUTLET_CHUNK));
        self.chunks
            .blocking_send(chunk.into())
            .map_err(|_| io::Error::other(Error::cancelled("the receiver of the layer is gone")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Code;

    fn read(feed: &mut Feed) -> io::Result<String> {
        let mut text = String::new();
        feed.read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn a_stream_is_read_to_its_end() {
        let (feeder, mut feed) = feed();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            assert!(feeder.push(Bytes::from_static(b"hello ")).await);
            assert!(feeder.push(Bytes::new()).await);
            assert!(feeder.push(Bytes::from_static(b"world")).await);
            feeder.end(None).await;
        });
        assert_eq!(read(&mut feed).expect("read"), "hello world");
    }

    #[test]
    fn a_stream_that_ends_badly_is_not_taken_for_a_short_one() {
        let (feeder, mut cut) = feed();
        drop(feeder);
        let said = read(&mut cut)
            .expect_err("no end")
            .downcast::<Error>()
            .expect("our own");
        assert_eq!(said.code, Code::Cancelled);

        let (feeder, mut failed) = feed();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(feeder.end(Some(Error::data_loss("the blob is damaged"))));
        let said = super::super::explain("read", read(&mut failed).expect_err("failed"));
        assert_eq!(
            (said.code, said.message.as_str()),
            (Code::DataLoss, "read: the blob is damaged")
        );
    }
}
