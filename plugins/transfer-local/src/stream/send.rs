//! The sending side: bytes to a client, no more than it asked for.

use bytes::Bytes;
use containerd_client::to_any;
use containerd_client::types::transfer::Data;
use futures_util::{FutureExt, StreamExt};
use orlop_plugin::{Error, Result};

use super::{Attached, Frame};

/// The largest piece sent at once, as containerd's.
pub(super) const PIECE: usize = 32 << 10;

/// A byte stream to a client.
pub struct ByteSink {
    stream: Attached,
    /// Bytes the client still takes.
    window: i64,
}

// === impl ByteSink ===

impl ByteSink {
    /// Sends over `stream`.
    pub fn new(stream: Attached) -> Self {
        Self { stream, window: 0 }
    }

    /// Sends all of `bytes`, waiting for the client to take them. `Cancelled` when it closes the stream before.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            self.refill().await?;
            let length = bytes
                .len()
                .min(PIECE)
                .min(usize::try_from(self.window).unwrap_or(PIECE));
            let piece = bytes.split_to(length);
            self.stream.send(to_any(&Data { data: piece.to_vec() })).await?;
            self.window -= length as i64;
        }
        Ok(())
    }

    /// Ends the stream; with `failure`, as one that is not whole.
    pub async fn close(self, failure: Option<Error>) {
        self.stream.close(failure).await;
    }

    /// Takes the updates that have come, and waits for one if nothing may be sent.
    async fn refill(&mut self) -> Result<()> {
        loop {
            let message = if self.window > 0 {
                match self.stream.incoming.next().now_or_never() {
                    Some(message) => message,
                    None => return Ok(()),
                }
            } else {
                self.stream.incoming.next().await
            };
            match message {
                Some(message) => match Frame::decode(message?)? {
                    Frame::WindowUpdate(update) => self.window = self.window.saturating_add(i64::from(update.max(0))),
                    Frame::Data(_) => tracing::debug!("ignored data on a stream that we only write"),
                    Frame::Unknown(kind) => {
                        tracing::debug!(kind, "ignored a message of unknown type on an export stream");
                    }
                },
                // A client may close its direction once it has asked for all it wants.
                None if self.window > 0 => return Ok(()),
                None => {
                    return Err(Error::cancelled(
                        "the client closed the stream before it had the whole archive",
                    ));
                }
            }
        }
    }
}
