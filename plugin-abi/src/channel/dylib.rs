//! Both halves of the channel through a dynamic library's ABI: a [`Carrier`] out of a [`ChannelBox`], and a [`ChannelBox`] out of
//! services.
//!
//! ```text
//!   caller's worker thread polls
//!   Channel ─▶ Dylib ──[ABI: Message]──▶ Served, callee's runtime entered ─▶ Services ─▶ the trait
//!                     ◀─[ABI: Frame]─── body, callee's runtime entered in each poll
//! ```
//!
//! No thread is switched: that is what makes a call cost microseconds. It also means that a callee that blocks, blocks its caller's
//! worker; the carrier times each poll and names the plugin that held one for longer than [`SLOW_POLL`].

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{RErr, RNone, ROk, ROption, RResult, RSome, RString};
use async_ffi::{ContextExt, FfiContext, FfiFuture, FfiPoll, FutureExt};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

use super::entered::Entered;
use super::v1::{BodyBox, BodyV1, BodyV1_TO, Broken, ChannelBox, ChannelV1, ChannelV1_TO, Frame, Head, Message};
use super::{Carrier, Request, Response, headers};

/// How long one poll may take before the daemon says who held its worker.
pub const SLOW_POLL: Duration = Duration::from_millis(10);

// === from the ABI ===

/// The calling half: carries calls to what is behind a [`ChannelBox`].
pub struct Dylib {
    far: ChannelBox,
    near: Handle,
    name: Arc<str>,
}

// === impl Dylib ===

impl Dylib {
    /// A carrier to `far`, called `name` in logs. `near` is entered when the far side polls a request body.
    pub fn new(far: ChannelBox, near: Handle, name: impl Into<Arc<str>>) -> Self {
        Self {
            far,
            near,
            name: name.into(),
        }
    }
}

impl Carrier for Dylib {
    fn carry(&self, request: Request) -> BoxFuture<'static, Result<Response, Status>> {
        let (head, body) = request.into_parts();
        let call = self.far.call(Message {
            head: Head {
                path: head.uri.path().into(),
                status: 0,
                headers: headers::to_abi(&head.headers),
            },
            body: body_to_abi(body, self.near.clone()),
        });
        Box::pin(Call {
            call,
            name: self.name.clone(),
        })
    }
}

struct Call {
    call: FfiFuture<RResult<Message, Broken>>,
    name: Arc<str>,
}

impl Future for Call {
    type Output = Result<Response, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let answer = timed(&this.name, || Pin::new(&mut this.call).poll(cx));
        Poll::Ready(match std::task::ready!(answer) {
            ROk(message) => {
                let mut response = Response::new(Body::new(FromAbi {
                    body: message.body,
                    name: this.name.clone(),
                }));
                // 200 in every answer that keeps to the protocol; anything else is the far side's fault, not ours.
                *response.status_mut() = http::StatusCode::from_u16(message.head.status).unwrap_or_default();
                *response.headers_mut() = headers::from_abi(message.head.headers);
                Ok(response)
            }
            RErr(broken) => Err(status(&broken, &this.name)),
        })
    }
}

fn timed<T>(name: &str, poll: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = poll();
    let took = start.elapsed();
    if took > SLOW_POLL {
        tracing::warn!(
            plugin = name,
            ?took,
            "a plugin held a worker of its caller: what blocks belongs in `blocking`"
        );
    }
    result
}

fn status(broken: &Broken, name: &str) -> Status {
    let code = Code::from_i32(broken.code);
    if code == Code::Internal {
        tracing::error!(
            plugin = name,
            message = broken.message.as_str(),
            "a call failed inside a plugin"
        );
    }
    Status::new(code, broken.message.as_str())
}

struct FromAbi {
    body: BodyBox,
    name: Arc<str>,
}

// The box is a pointer; what it points to is pinned on the far side.
impl Unpin for FromAbi {}

impl http_body::Body for FromAbi {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = timed(&this.name, || cx.with_ffi_context(|cx| this.body.poll_frame(cx)));
        Poll::Ready(match polled {
            FfiPoll::Pending => return Poll::Pending,
            FfiPoll::Panicked => Some(Err(Status::internal(format!("{} panicked in a body", this.name)))),
            FfiPoll::Ready(RNone) => None,
            FfiPoll::Ready(RSome(RErr(broken))) => Some(Err(status(&broken, &this.name))),
            FfiPoll::Ready(RSome(ROk(Frame::Data(data)))) => {
                Some(Ok(http_body::Frame::data(Bytes::from(data.into_vec()))))
            }
            FfiPoll::Ready(RSome(ROk(Frame::Trailers(trailers)))) => {
                Some(Ok(http_body::Frame::trailers(headers::from_abi(trailers))))
            }
        })
    }
}

// === to the ABI ===

/// The answering half: `services`, polled by the caller's threads with `runtime` entered.
pub fn serve<S>(services: S, runtime: Handle) -> ChannelBox
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    ChannelV1_TO::from_value(Served { services, runtime }, TD_Opaque)
}

struct Served<S> {
    services: S,
    runtime: Handle,
}

impl<S> ChannelV1 for Served<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    fn call(&self, request: Message) -> FfiFuture<RResult<Message, Broken>> {
        let runtime = self.runtime.clone();
        let mut services = self.services.clone();
        // The message is taken apart inside the future, so that even that cannot panic across the boundary.
        let work = async move {
            let mut call = http::Request::new(Body::new(FromAbi {
                body: request.body,
                name: Arc::from("the caller"),
            }));
            *call.method_mut() = http::Method::POST;
            *call.version_mut() = http::Version::HTTP_2;
            match request.head.path.parse() {
                Ok(path) => *call.uri_mut() = path,
                Err(error) => return Err(broken(Code::InvalidArgument, format!("{}: {error}", request.head.path))),
            }
            *call.headers_mut() = headers::from_abi(request.head.headers);
            services.call(call).await.map_err(|never| match never {})
        };
        let mut work = Entered::new(runtime.clone(), Box::pin(work));
        std::future::poll_fn(move |cx| {
            let answer = match work.poll(|work| work.as_mut().poll(cx)) {
                Ok(poll) => std::task::ready!(poll),
                Err(panic) => Err(broken(Code::Internal, format!("the plugin panicked: {panic}"))),
            };
            Poll::Ready(match answer {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    ROk(Message {
                        head: Head {
                            path: RString::new(),
                            status: head.status.as_u16(),
                            headers: headers::to_abi(&head.headers),
                        },
                        body: body_to_abi(body, runtime.clone()),
                    })
                }
                Err(broken) => RErr(broken),
            })
        })
        .into_ffi()
    }
}

fn broken(code: Code, message: impl Into<RString>) -> Broken {
    Broken {
        code: code as i32,
        message: message.into(),
    }
}

fn body_to_abi(body: Body, runtime: Handle) -> BodyBox {
    BodyV1_TO::from_value(ToAbi(Entered::new(runtime, Box::pin(body))), TD_Opaque)
}

struct ToAbi(Entered<Pin<Box<Body>>>);

impl BodyV1 for ToAbi {
    fn poll_frame(&mut self, cx: &mut FfiContext<'_>) -> FfiPoll<ROption<RResult<Frame, Broken>>> {
        cx.with_context(|cx| {
            let frame = match self.0.poll(|body| http_body::Body::poll_frame(body.as_mut(), cx)) {
                Ok(Poll::Pending) => return FfiPoll::Pending,
                Ok(Poll::Ready(frame)) => frame,
                Err(panic) => {
                    return FfiPoll::Ready(RSome(RErr(broken(
                        Code::Internal,
                        format!("the plugin panicked: {panic}"),
                    ))));
                }
            };
            FfiPoll::Ready(match frame {
                None => RNone,
                Some(Err(status)) => RSome(RErr(broken(status.code(), status.message()))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => RSome(ROk(Frame::Data(Vec::from(data).into()))),
                    Err(frame) => RSome(ROk(Frame::Trailers(
                        frame.trailers_ref().map(headers::to_abi).unwrap_or_default(),
                    ))),
                },
            })
        })
    }
}
