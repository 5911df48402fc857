//! One stream of the streaming service: messages both ways, and bytes over it.
//!
//! Bytes flow as fast as the receiver allows: it grants windows (`WindowUpdate`), the sender sends no more than that.

use super::any;
use crate::client::Client;
use anyhow::{Context, Error, Result};
use containerd_client::services::v1::StreamInit;
use containerd_client::tonic::{Status, Streaming};
use containerd_client::types::transfer::{Data, WindowUpdate};
use prost::Message;
use prost_types::Any;
use std::io::{ErrorKind, Read};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes read from the source at once.
const READ: usize = 256 << 10;

/// An open stream.
#[derive(Debug)]
pub struct Stream {
    sender: mpsc::Sender<Any>,
    receiver: Streaming<Any>,
}

impl Stream {
    /// Opens a stream under a name; when this returns, the daemon knows it.
    pub async fn open(client: &Client, id: &str) -> Result<Self> {
        let (sender, requests) = mpsc::channel(8);
        let init = StreamInit { id: id.to_owned() };
        sender.send(any(&init)).await.context("the stream is closed")?;
        let call = client
            .streaming()
            .stream(client.request(ReceiverStream::new(requests)))
            .await?;
        let mut receiver = call.into_inner();
        receiver
            .message()
            .await?
            .context("the daemon closed the stream at once")?;
        Ok(Self { sender, receiver })
    }

    /// Sends a message; `false` when the daemon has closed the stream.
    pub async fn send(&self, message: Any) -> bool {
        self.sender.send(message).await.is_ok()
    }

    /// The next message; `None` when the daemon closed the stream.
    pub async fn next(&mut self) -> Result<Option<Any>, Status> {
        self.receiver.message().await
    }
}

/// Sends a source's bytes over a stream, in the background.
#[derive(Debug)]
pub struct ByteSender {
    error: Arc<Mutex<Option<Error>>>,
    task: AbortHandle,
}

impl ByteSender {
    /// Starts to send. The stream is closed at the source's end.
    pub fn start(stream: Stream, source: Box<dyn Read + Send>) -> Self {
        let error = Arc::new(Mutex::new(None));
        let chunks = read_ahead(source);
        let held = error.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = send(stream, chunks).await {
                *held.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        });
        Self {
            error,
            task: task.abort_handle(),
        }
    }

    /// Why the source could not be read, if so.
    pub fn error(&self) -> Option<Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for ByteSender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads on a thread of its own, because files and standard input block.
fn read_ahead(mut source: Box<dyn Read + Send>) -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        loop {
            let mut chunk = vec![0; READ];
            let read = match source.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => {
                    chunk.truncate(count);
                    Ok(chunk)
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

async fn send(mut stream: Stream, mut chunks: mpsc::Receiver<std::io::Result<Vec<u8>>>) -> Result<()> {
    let mut window: i64 = 0;
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.context("cannot read the archive")?;
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            while window <= 0 {
                // A daemon that wants no more has its reasons, and tells them as the transfer's result.
                let Ok(Some(message)) = stream.next().await else {
                    return Ok(());
                };
                if let Ok(update) = WindowUpdate::decode(message.value.as_slice()) {
                    window += i64::from(update.update);
                }
            }
            let count = rest.len().min(usize::try_from(window).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at(count);
            if stream.sender.send(any(&Data { data: now.to_vec() })).await.is_err() {
                return Ok(());
            }
            window -= count as i64;
            rest = later;
        }
    }
    // Dropping the sender ends our side; the daemon's side is read to its end, or it would see a cancelled call.
    let Stream { sender, mut receiver } = stream;
    drop(sender);
    while let Ok(Some(_)) = receiver.message().await {}
    Ok(())
}
