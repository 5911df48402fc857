//! [`Streaming`]: a client's end as `containerd.services.streaming.v1`, a plugin's end as `orlop.streaming.v1`.
//!
//! Both begin alike: the first message names the stream, the first answer is empty and says that it is there.

use std::sync::Arc;

use containerd_client::services::v1::StreamInit;
use futures_util::{FutureExt, StreamExt, stream};
use prost::Message;
use tokio::sync::oneshot;

use super::client::Remote;
use super::codec::Outgoing;
use super::server::{Answer, Call, messages, service};
use crate::channel::Channel;
use crate::contract::{Any, BoxStream, Ctx, Streaming, async_trait};
use crate::{Error, Result, Services};

const CLIENTS: &str = "containerd.services.streaming.v1.Streaming";
const PLUGINS: &str = "orlop.streaming.v1.Ends";
const INIT: &str = "containerd.services.streaming.v1.StreamInit";
const EMPTY: &str = "google.protobuf.Empty";

/// Serves the clients' ends of `streaming`.
pub fn serve(streaming: Arc<dyn Streaming>) -> Services {
    service(CLIENTS, streaming, answer)
}

/// Serves the plugins' ends of `streaming`: no client's business.
pub fn serve_ends(streaming: Arc<dyn Streaming>) -> Services {
    service(PLUGINS, streaming, answer)
}

/// The streams at the far end of `channel`, with both of their ends.
pub fn connect(channel: Channel) -> Arc<dyn Streaming> {
    Arc::new(Far {
        clients: Remote::new(channel.clone(), CLIENTS),
        plugins: Remote::new(channel, PLUGINS),
    })
}

async fn answer(streaming: Arc<dyn Streaming>, call: Call) -> Result<Answer> {
    let attach = match call.method.as_str() {
        "Stream" => false,
        "Attach" => true,
        _ => return call.unknown(),
    };
    let ctx = call.ctx.clone();
    let mut messages: BoxStream<Any> = call.messages();
    let first = messages
        .next()
        .await
        .unwrap_or_else(|| Err(Error::invalid_argument("the stream ended before it was named")))?;
    if first.type_url.rsplit('/').next() != Some(INIT) {
        let found = first.type_url;
        return Err(Error::invalid_argument(format!(
            "the first message of a stream must be a {INIT}, this is a {found:?}"
        )));
    }
    let init = StreamInit::decode(first.value.as_slice())
        .map_err(|error| Error::invalid_argument(format!("the first message of the stream: {error}")))?;
    let outgoing = if attach {
        streaming.attach(&ctx, &init.id, messages).await?
    } else {
        streaming.open(&ctx, &init.id, messages).await?
    };
    let there = Any {
        type_url: EMPTY.to_owned(),
        value: Vec::new(),
    };
    Answer::many(stream::iter([Ok(there)]).chain(outgoing))
}

struct Far {
    clients: Remote,
    plugins: Remote,
}

#[async_trait]
impl Streaming for Far {
    async fn open(&self, ctx: &Ctx, id: &str, outgoing: BoxStream<Any>) -> Result<BoxStream<Any>> {
        join(&self.clients, ctx, "Stream", id, outgoing).await
    }

    async fn attach(&self, ctx: &Ctx, id: &str, outgoing: BoxStream<Any>) -> Result<BoxStream<Any>> {
        join(&self.plugins, ctx, "Attach", id, outgoing).await
    }
}

async fn join(remote: &Remote, ctx: &Ctx, method: &str, id: &str, outgoing: BoxStream<Any>) -> Result<BoxStream<Any>> {
    let init = StreamInit { id: id.to_owned() };
    let init = Any {
        type_url: INIT.to_owned(),
        value: init.encode_to_vec(),
    };
    // A request cannot end in an error, only be cancelled. So an error among what goes out is what comes in last, and until that is
    // read the far side waits: were the request to end instead, half of a stream would pass for all of it.
    let (broken, breaks) = oneshot::channel();
    let outgoing = stream::unfold((outgoing, broken), async |(mut outgoing, broken)| {
        match outgoing.next().await? {
            Ok(message) => Some((message, (outgoing, broken))),
            Err(error) => {
                let _ = broken.send(error);
                std::future::pending().await
            }
        }
    });
    let requests = stream::iter([init]).chain(outgoing);
    let requests = requests.map(|message| Box::new(message) as Outgoing).boxed();
    let mut incoming: BoxStream<Any> = messages(remote.duplex(ctx, method, requests).await?);
    match incoming.next().await {
        Some(Ok(_)) => {}
        Some(Err(error)) => return Err(error),
        None => return Err(Error::unavailable(format!("the stream {id} was closed at once"))),
    }
    let broken = breaks
        .map(|error| error.map(Err))
        .into_stream()
        .filter_map(|error| std::future::ready(error.ok()));
    Ok(stream::unfold(Some((incoming, broken.boxed())), |state| async {
        let (mut incoming, mut broken) = state?;
        let next = std::future::poll_fn(|cx| {
            if let std::task::Poll::Ready(Some(error)) = broken.poll_next_unpin(cx) {
                return std::task::Poll::Ready(Some(error));
            }
            incoming.poll_next_unpin(cx)
        });
        match next.await? {
            Ok(message) => Some((Ok(message), Some((incoming, broken)))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed())
}
