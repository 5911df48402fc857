//! The receiving side: bytes from a client, as fast as we take them.

use bytes::Bytes;
use containerd_client::to_any;
use containerd_client::types::transfer::WindowUpdate;
use futures_util::{StreamExt, stream};
use orlop_plugin::Result;
use orlop_plugin::contract::BoxStream;

use super::{Attached, Frame};

/// What a client may have sent that we have not taken yet. containerd gives 64 KiB at a time, which is one round trip for every
/// 64 KiB; its clients accept any window.
pub(super) const WINDOW: i64 = 1 << 20;

struct Receiver {
    stream: Attached,
    /// Bytes the sender may still send.
    window: i64,
}

/// The bytes that arrive on `stream`, until the other end closes it.
pub fn receive(stream: Attached) -> BoxStream<Bytes> {
    Box::pin(stream::try_unfold(
        Receiver { stream, window: 0 },
        |mut receiver| async move { Ok(receiver.next().await?.map(|bytes| (bytes, receiver))) },
    ))
}

impl Receiver {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.window <= WINDOW / 2 {
                let update = i32::try_from(WINDOW - self.window.max(0)).unwrap_or(i32::MAX);
                // The sender may have sent its last byte and gone: what it sent still counts.
                if self.stream.send(to_any(&WindowUpdate { update })).await.is_ok() {
                    self.window = self.window.max(0) + i64::from(update);
                }
            }
            let Some(message) = self.stream.incoming.next().await else {
                return Ok(None);
            };
            match Frame::decode(message?)? {
                Frame::Data(data) => {
                    self.window -= i64::try_from(data.len()).unwrap_or(i64::MAX);
                    if !data.is_empty() {
                        return Ok(Some(Bytes::from(data)));
                    }
                }
                Frame::WindowUpdate(_) => tracing::debug!("ignored a window update on a stream that we only read"),
                Frame::Unknown(kind) => tracing::debug!(kind, "ignored a message of unknown type on an import stream"),
            }
        }
    }
}
