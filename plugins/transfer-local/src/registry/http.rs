//! One HTTP exchange with one host: connections, TLS and time limits. HTTP/1.1, which every registry speaks.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::PROXY_AUTHORIZATION;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use orlop_plugin::contract::{BoxStream, Code};
use orlop_plugin::{Error, Result};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::chunks::Chunks;
use super::dial::{Dialer, proxy_for};
use super::hosts::HostConfig;
use super::tls;
pub use orlop_registry::redacted;

/// The body of a request.
pub type Body = UnsyncBoxBody<Bytes, Error>;

/// How long a host is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until a connection stands, where its `hosts.toml` does not say.
    pub dial: Duration,
    /// Until an answer begins after the request was sent, until the next piece of a body comes, until the next piece of ours is
    /// taken.
    pub stalled: Duration,
    /// Until a registry has stored a blob it has got.
    pub storing: Duration,
    /// Before the first retry; doubled before each further one.
    pub backoff: Duration,
    /// How often something is tried again that brings nothing.
    pub retries: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(30),
            stalled: Duration::from_secs(60),
            storing: Duration::from_secs(600),
            backoff: Duration::from_millis(500),
            retries: 4,
        }
    }
}

/// How hosts are reached.
#[derive(Clone)]
pub struct Network {
    /// How long they are waited for.
    pub patience: Patience,
    /// The proxies on the way to them.
    pub proxies: Arc<Matcher>,
    /// Which blobs are sent to them in pieces.
    pub chunks: Chunks,
}

impl Network {
    /// With the proxies of the daemon's environment.
    pub fn from_environment() -> Self {
        Self {
            patience: Patience::default(),
            proxies: Arc::new(Matcher::from_env()),
            chunks: Chunks::default(),
        }
    }
}

/// Why an exchange did not end in an answer.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub kind: FailureKind,
    /// The same for people.
    pub error: Error,
}

/// Kinds of failures, by what may be done about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The host answers, but not in TLS.
    NotTls,
    /// It broke on the way: another try may do better.
    Broken,
    /// It will be the same next time.
    Final,
}

/// Connections to a host, kept for the next request.
pub struct Transport {
    client: Client<HttpsConnector<Dialer>, Body>,
    network: Network,
}

// === impl Transport ===

impl Transport {
    /// Connections as `host` configures them. Blocks: it reads certificates.
    pub fn new(host: &HostConfig, network: &Network) -> Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(host.dial_timeout.unwrap_or(network.patience.dial)));
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::client_config(host).map_err(super::said)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Dialer {
                tcp,
                proxies: network.proxies.clone(),
            });
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self {
            client,
            network: network.clone(),
        })
    }

    /// Sends `request`; `sent` tells how much of its body is on its way.
    pub async fn send(&self, mut request: Request<Body>, mut sent: Sent) -> Result<Response<Incoming>, Failure> {
        let where_to = format!("{} {}", request.method(), redacted(request.uri()));
        // With TLS, the proxy is told when the tunnel is made.
        if request.uri().scheme_str() == Some("http")
            && let Some(proxy) = proxy_for(&self.network.proxies, request.uri())
            && let Some(auth) = proxy.basic_auth()
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, auth.clone());
        }
        let answer = self.client.request(request);
        tokio::pin!(answer);
        let mut limit = self.network.patience.stalled;
        loop {
            let deadline = Instant::now() + limit;
            tokio::select! {
                answer = &mut answer => return answer.map_err(|error| failure(&error, &where_to)),
                moved = sent.0.changed() => {
                    // The sender is gone with the body: from now on only the answer is waited for.
                    if moved.is_err() {
                        limit = self.network.patience.storing;
                        sent = Sent::nothing();
                    }
                }
                () = sleep_until(deadline) => return Err(Failure {
                    kind: FailureKind::Broken,
                    error: Error::deadline_exceeded(format!("{where_to}: no answer within {} s", limit.as_secs_f32())),
                }),
            }
        }
    }

    /// The next piece of a body; `None` at its end.
    pub async fn next_piece(&self, body: &mut Incoming) -> Result<Option<Bytes>> {
        loop {
            let frame = match timeout(self.network.patience.stalled, body.frame()).await {
                Ok(Some(frame)) => {
                    frame.map_err(|error| Error::unavailable(format!("the answer broke off: {}", chain_of(&error))))?
                }
                Ok(None) => return Ok(None),
                Err(_) => {
                    return Err(Error::deadline_exceeded(format!(
                        "the registry sent nothing for {} s",
                        self.network.patience.stalled.as_secs_f32()
                    )));
                }
            };
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    /// A whole body. `ResourceExhausted` when it has more than `limit` bytes.
    pub async fn read_all(&self, mut body: Incoming, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(body.size_hint().exact().unwrap_or(0).min(limit) as usize);
        while let Some(piece) = self.next_piece(&mut body).await? {
            if (bytes.len() + piece.len()) as u64 > limit {
                return Err(Error::resource_exhausted(format!(
                    "the answer has more than {limit} bytes, which none of its kind may have"
                )));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

/// Tells that a body moves, until it is all sent.
pub struct Sent(watch::Receiver<u64>);

// === impl Sent ===

impl Sent {
    /// For requests whose body is sent at once.
    pub fn nothing() -> Self {
        static NEVER: std::sync::LazyLock<watch::Sender<u64>> = std::sync::LazyLock::new(|| watch::Sender::new(0));
        Self(NEVER.subscribe())
    }
}

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body in memory.
pub fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body from a stream; `on_sent` is called with the length of every piece that is taken.
pub fn streamed(pieces: BoxStream<Bytes>, on_sent: Arc<dyn Fn(u64) + Send + Sync>) -> (Body, Sent) {
    use futures_util::StreamExt;
    let (sender, sent) = watch::channel(0);
    let frames = pieces.map(move |piece| {
        piece.map(|bytes| {
            on_sent(bytes.len() as u64);
            sender.send_modify(|sent| *sent += bytes.len() as u64);
            Frame::data(bytes)
        })
    });
    (StreamBody::new(frames).boxed_unsync(), Sent(sent))
}

fn failure(error: &hyper_util::client::legacy::Error, where_to: &str) -> Failure {
    let mut kind = FailureKind::Broken;
    let mut code = Code::Unavailable;
    let mut hint = "";
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(ours) = cause.downcast_ref::<Error>() {
            // Our own body failed: what was to be sent could not be read.
            return Failure {
                kind: FailureKind::Final,
                error: ours.clone().context(where_to),
            };
        }
        if let Some(tls) = tls::error_in(cause) {
            (kind, code) = match tls {
                rustls::Error::InvalidMessage(_) => (FailureKind::NotTls, Code::FailedPrecondition),
                _ => (FailureKind::Final, Code::FailedPrecondition),
            };
            hint = match tls {
                rustls::Error::InvalidMessage(_) => "; it does not speak TLS: if that is intended, use --plain-http",
                rustls::Error::InvalidCertificate(
                    rustls::CertificateError::UnknownIssuer | rustls::CertificateError::Other(_),
                ) => "; trust its authority with `ca` in a hosts.toml, or in the system's certificates",
                _ => "",
            };
            break;
        }
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && error.is_connect()
        {
            kind = match io.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => FailureKind::Broken,
                io::ErrorKind::TimedOut => {
                    code = Code::DeadlineExceeded;
                    FailureKind::Broken
                }
                // Nobody listens, or the name is not known: that error has no kind.
                _ => FailureKind::Final,
            };
        }
        source = cause.source();
    }
    Failure {
        kind,
        // "client error (Connect)" says nothing to anybody; its cause does.
        error: Error::new(
            code,
            format!("{where_to}: {}{hint}", chain_of(error.source().unwrap_or(error))),
        ),
    }
}

/// An error with its causes, each once.
fn chain_of(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
