//! Our end of a named stream, and how it is left without cutting off what is still on its way.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt};
use orlop_plugin::contract::{Any, BoxStream, Ctx};
use orlop_plugin::{Error, Host, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Messages on their way out, at most: 64 pieces of 32 KiB are 2 MiB.
const QUEUE: usize = 64;

/// How long a client that does not read is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long we go on reading after everything sent was taken.
const GRACE: Duration = Duration::from_millis(20);

/// Our end of a named stream.
pub struct Attached {
    outgoing: mpsc::Sender<Result<Any>>,
    /// What the other end sends.
    pub incoming: BoxStream<Any>,
    drained: oneshot::Receiver<()>,
}

// === impl Attached ===

impl Attached {
    /// Joins the stream that a client opened as `id`.
    pub async fn join(host: &Host, ctx: &Ctx, id: &str) -> Result<Self> {
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let (on_end, drained) = oneshot::channel();
        let outgoing_stream = Outgoing { queue, _on_end: on_end };
        let incoming = host
            .streaming()?
            .attach(ctx, id, Box::pin(outgoing_stream))
            .await
            .map_err(|error| error.context(format!("attach to the stream {id:?} that the client named")))?;
        Ok(Self {
            outgoing,
            incoming,
            drained,
        })
    }

    /// Sends a message, waiting while too many are on their way. `Cancelled` when the other end is gone.
    pub async fn send(&mut self, message: Any) -> Result<()> {
        self.outgoing.send(Ok(message)).await.map_err(|_| gone())
    }

    /// Sends a message if that can be done at once, and says whether it could.
    pub fn try_send(&self, message: Any) -> bool {
        self.outgoing.try_send(Ok(message)).is_ok()
    }

    /// Ends the stream, with `failure` if there is one, and returns once the transport has taken all that was sent.
    ///
    /// To the client the stream ends only when we stop reading, too; but stopping at once cancels the call that carries both
    /// directions when another process is in between.
    pub async fn close(self, failure: Option<Error>) {
        let Self {
            outgoing,
            mut incoming,
            drained,
        } = self;
        let failed = failure.is_some();
        if let Some(error) = failure {
            let _ = timeout(PATIENCE, outgoing.send(Err(error))).await;
        }
        drop(outgoing);
        let reading = Box::pin(async move {
            while let Some(Ok(_)) = incoming.next().await {}
            incoming
        });
        match timeout(PATIENCE, select(drained, reading)).await {
            Ok(Either::Left((_, reading))) => {
                tokio::spawn(timeout(GRACE, reading));
            }
            // The client has said its last word, but may still listen.
            Ok(Either::Right((incoming, drained))) if !failed => {
                let _ = timeout(PATIENCE, drained).await;
                drop(incoming);
            }
            Ok(Either::Right(_)) | Err(_) => {}
        }
    }
}

fn gone() -> Error {
    Error::cancelled("the client closed its end of the stream before the transfer was done")
}

/// The queue as a stream. `_on_end` is dropped with it, which tells that nothing is left in it.
struct Outgoing {
    queue: mpsc::Receiver<Result<Any>>,
    _on_end: oneshot::Sender<()>,
}

impl Stream for Outgoing {
    type Item = Result<Any>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_recv(cx)
    }
}
