//! The two ends of a stream, and where they meet.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::{FutureExt, Stream, StreamExt};
use orlop_plugin::contract::{Any, BoxStream, Ctx, Namespace, Streaming, async_trait};
use orlop_plugin::{Error, Result};
use tokio::sync::oneshot;

/// Streams by their names.
#[derive(Default)]
pub struct Streams(Arc<Names>);

type Names = Mutex<HashMap<Name, Place>>;
type Name = (Option<Namespace>, String);

/// What is at a name.
enum Place {
    /// A client waits.
    Waiting {
        up: BoxStream<Any>,
        join: oneshot::Sender<Joined>,
    },
    /// A plugin has joined.
    Joined,
}

/// What the plugin's end gives to the client's.
struct Joined {
    down: BoxStream<Any>,
    /// Closed when the plugin has dropped, or come to the end of, what it reads.
    plugin_reads: oneshot::Receiver<()>,
    /// Dropped with the client's end.
    _client: oneshot::Sender<()>,
}

/// What a client holds.
struct ClientEnd {
    names: Arc<Names>,
    name: Name,
    state: ClientState,
}

enum ClientState {
    Waiting(oneshot::Receiver<Joined>),
    Joined(Joined),
    Over,
}

/// What a plugin holds.
struct PluginEnd {
    id: String,
    /// None once it has ended.
    reads: Option<Reads>,
}

struct Reads {
    up: BoxStream<Any>,
    client_gone: oneshot::Receiver<()>,
    _plugin: oneshot::Sender<()>,
}

#[async_trait]
impl Streaming for Streams {
    async fn open(&self, ctx: &Ctx, id: &str, outgoing: BoxStream<Any>) -> Result<BoxStream<Any>> {
        if id.is_empty() {
            return Err(Error::invalid_argument("a stream needs an id"));
        }
        let name = (ctx.namespace.clone(), id.to_owned());
        let (join, joined) = oneshot::channel();
        match lock(&self.0).entry(name.clone()) {
            Entry::Occupied(_) => return Err(Error::already_exists(format!("stream {id:?} is open already"))),
            Entry::Vacant(place) => {
                place.insert(Place::Waiting { up: outgoing, join });
            }
        }
        Ok(Box::pin(ClientEnd {
            names: self.0.clone(),
            name,
            state: ClientState::Waiting(joined),
        }))
    }

    async fn attach(&self, ctx: &Ctx, id: &str, outgoing: BoxStream<Any>) -> Result<BoxStream<Any>> {
        let unknown = || Error::not_found(format!("no client has stream {id:?} open"));
        let place = {
            let mut names = lock(&self.0);
            let place = names
                .get_mut(&(ctx.namespace.clone(), id.to_owned()))
                .ok_or_else(unknown)?;
            std::mem::replace(place, Place::Joined)
        };
        let Place::Waiting { up, join } = place else {
            return Err(Error::already_exists(format!("stream {id:?} is joined already")));
        };
        let (client, client_gone) = oneshot::channel();
        let (plugin, plugin_reads) = oneshot::channel();
        let joined = Joined {
            down: outgoing,
            plugin_reads,
            _client: client,
        };
        // The client may have gone between the look and this.
        join.send(joined).map_err(|_| unknown())?;
        Ok(Box::pin(PluginEnd {
            id: id.to_owned(),
            reads: Some(Reads {
                up,
                client_gone,
                _plugin: plugin,
            }),
        }))
    }
}

// === impl ClientEnd ===

impl Stream for ClientEnd {
    type Item = Result<Any>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &mut self.state {
                ClientState::Waiting(joined) => match ready!(joined.poll_unpin(cx)) {
                    Ok(joined) => self.state = ClientState::Joined(joined),
                    // The name, and the sender with it, goes only with this end.
                    Err(_) => self.state = ClientState::Over,
                },
                ClientState::Joined(joined) => match joined.down.poll_next_unpin(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(item)) => {
                        if item.is_err() {
                            self.state = ClientState::Over;
                        }
                        return Poll::Ready(Some(item));
                    }
                    Poll::Ready(None) => {
                        // Ending here would end the call, and cut off what the plugin still reads.
                        joined.down = Box::pin(futures_util::stream::empty());
                        let _ = ready!(joined.plugin_reads.poll_unpin(cx));
                        self.state = ClientState::Over;
                    }
                },
                ClientState::Over => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        let place = lock(&self.names).remove(&self.name);
        // A client's own stream may do anything when it is dropped: not under the lock.
        drop(place);
    }
}

// === impl PluginEnd ===

impl Stream for PluginEnd {
    type Item = Result<Any>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(reads) = &mut self.reads else {
            return Poll::Ready(None);
        };
        // What the client has sent comes before the news that it is gone.
        let item = match reads.up.poll_next_unpin(cx) {
            Poll::Ready(item) => item,
            Poll::Pending => {
                let _ = ready!(reads.client_gone.poll_unpin(cx));
                Some(Err(Error::cancelled(format!(
                    "the client has left stream {:?}",
                    self.id
                ))))
            }
        };
        if !matches!(item, Some(Ok(_))) {
            self.reads = None;
        }
        Poll::Ready(item)
    }
}

fn lock(names: &Names) -> MutexGuard<'_, HashMap<Name, Place>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}
