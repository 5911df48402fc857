//! Our end of a named stream, and how it is left without cutting off what is still on its way.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use orlop_plugin::contract::{Any, BoxStream, Ctx};
use orlop_plugin::{Error, Host, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Messages on their way out, at most: 64 pieces of 32 KiB are 2 MiB.
const QUEUE: usize = 64;

/// How long a peer that no longer reads or never closes its end is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

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

    /// Sends a message if that can be done at once: for what may as well be lost.
    pub fn try_send(&self, message: Any) {
        let _ = self.outgoing.try_send(Ok(message));
    }

    /// Ends our direction, with `failure` if there is one, and returns once the transport has taken everything. The other
    /// direction is held open a while longer: dropping it cancels the call that carries both.
    pub async fn close(self, failure: Option<Error>) {
        let Self {
            outgoing,
            mut incoming,
            drained,
        } = self;
        if let Some(error) = failure {
            let _ = timeout(PATIENCE, outgoing.send(Err(error))).await;
        }
        drop(outgoing);
        let _ = timeout(PATIENCE, drained).await;
        tokio::spawn(timeout(PATIENCE, async move {
            while let Some(Ok(_)) = incoming.next().await {}
        }));
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
