//! One host of a registry: connections, redirects, another try where that may help.

use super::{Credentials, auth, unexpected};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use orlop_registry::hosts::{HostConfig, Scheme, is_localhost};
use orlop_registry::{location, tls};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// How long a connection may take to be made, unless hosts.toml says otherwise.
const DIAL: Duration = Duration::from_secs(30);
/// How long a host may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How often something is tried again, and the first pause before; each further one is twice as long.
const RETRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// What is sent.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A request's content.
pub enum Payload {
    /// None.
    Empty,
    /// Bytes that can be sent again.
    Bytes(Bytes),
    /// Bytes that come once.
    Once(Body),
}

/// What a host is asked.
pub struct Call {
    /// Method.
    pub method: Method,
    /// Where.
    pub uri: Uri,
    /// Header fields.
    pub headers: HeaderMap,
    /// Content.
    pub payload: Payload,
}

/// A host, with what it is shown of us.
#[derive(Debug)]
pub struct Host {
    /// How it is configured.
    pub config: HostConfig,
    /// The registry that it answers for, when it must be told.
    proxy_of: Option<String>,
    pub(super) client: Client<HttpsConnector<HttpConnector>, Body>,
    /// Whether it turned out not to speak TLS.
    plain: AtomicBool,
    pub(super) credentials: Option<Credentials>,
    pub(super) scope: String,
    authorization: Mutex<Option<HeaderValue>>,
    dump: bool,
}

impl Call {
    /// One without content.
    pub fn new(method: Method, uri: Uri) -> Self {
        Self {
            method,
            uri,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
        }
    }

    /// The same with a header field.
    pub fn header(mut self, name: http::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

impl Host {
    /// A host of `registry`. Reads its certificates.
    pub fn new(
        config: HostConfig,
        registry: &str,
        credentials: Option<Credentials>,
        scope: &str,
        dump: bool,
    ) -> Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(config.dial_timeout.unwrap_or(DIAL)));
        let tls = tls::client_config(&config).with_context(|| format!("TLS with {}", config.authority))?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(Self {
            proxy_of: config.is_proxy_of(registry).then(|| registry.to_owned()),
            client: Client::builder(TokioExecutor::new()).build(connector),
            plain: AtomicBool::new(config.scheme == Scheme::Http),
            config,
            credentials,
            scope: scope.to_owned(),
            authorization: Mutex::default(),
            dump,
        })
    }

    /// The URL of something below the repository's path.
    pub fn uri(&self, path: &str) -> Result<Uri> {
        let scheme = if self.plain.load(Ordering::Relaxed) {
            "http"
        } else {
            "https"
        };
        let HostConfig {
            authority, path: root, ..
        } = &self.config;
        let mut text = format!("{scheme}://{authority}{root}/{path}");
        if let Some(registry) = &self.proxy_of {
            let separator = if path.contains('?') { '&' } else { '?' };
            let registry: String = form_urlencoded::byte_serialize(registry.as_bytes()).collect();
            text = format!("{text}{separator}ns={registry}");
        }
        text.parse()
            .with_context(|| format!("no request can be made of {text}"))
    }

    /// Whether what is said to the host cannot be overheard.
    pub fn is_secure(&self) -> bool {
        !self.plain.load(Ordering::Relaxed)
    }

    /// Sends a call, and once more with credentials where they are asked for; answers the URL that answered, too.
    pub async fn send(&self, mut call: Call) -> Result<(Uri, Response<Incoming>)> {
        let (mut tries, mut pause, mut redirects) = (0, PAUSE, 0);
        let mut refused = false;
        loop {
            let own = call
                .uri
                .authority()
                .is_some_and(|found| found.as_str() == self.config.authority);
            let authorization = self.authorization.lock().await.clone().filter(|_| own);
            let (body, again) = match &mut call.payload {
                Payload::Empty => (empty(), true),
                Payload::Bytes(bytes) => (full(bytes.clone()), true),
                Payload::Once(body) => (std::mem::replace(body, empty()), false),
            };
            let mut request = Request::builder()
                .method(&call.method)
                .uri(&call.uri)
                .header(USER_AGENT, concat!("orlop-ctr/", env!("CARGO_PKG_VERSION")));
            if let Some(headers) = request.headers_mut() {
                headers.extend(call.headers.clone());
                if own {
                    headers.extend(self.config.header.clone());
                    headers.extend(authorization.clone().map(|value| (AUTHORIZATION, value)));
                }
            }
            let request = request.body(body).context("no request can be made of it")?;
            let answer = match self.exchange(request).await {
                Ok(answer) => answer,
                Err(error) => {
                    let secure = call.uri.scheme_str() == Some("https");
                    if own && secure && again && self.config.scheme == Scheme::Either && error.not_tls {
                        // On this machine, a registry seldom has TLS.
                        self.plain.store(true, Ordering::Relaxed);
                        call.uri = with_scheme(&call.uri, "http")?;
                        continue;
                    }
                    if !again || tries == RETRIES || error.connecting {
                        return Err(error.error);
                    }
                    (tries, pause) = self.rest(tries, pause, None).await;
                    continue;
                }
            };
            let status = answer.status();
            if status == StatusCode::UNAUTHORIZED && own && again && !refused {
                // A token that was refused may have ended; what is refused twice is no good.
                refused = authorization.is_some();
                let value = auth::authorize(self, answer.headers()).await?;
                let same = Some(&value) == authorization.as_ref();
                *self.authorization.lock().await = Some(value);
                if !same {
                    continue;
                }
            }
            let worth = matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504);
            if worth && again && tries < RETRIES {
                (tries, pause) = self.rest(tries, pause, answer.headers().get(RETRY_AFTER)).await;
                continue;
            }
            if status.is_redirection() && matches!(call.method, Method::GET | Method::HEAD) {
                let Some(target) = answer.headers().get(LOCATION) else {
                    bail!("{} redirects to nowhere", self.config.authority);
                };
                if redirects == MAX_REDIRECTS {
                    bail!("{} redirects more than {MAX_REDIRECTS} times", self.config.authority);
                }
                redirects += 1;
                call.uri = location::follow(&call.uri, target)?;
                continue;
            }
            return Ok((call.uri, answer));
        }
    }

    /// The same, with any answer but a success as an error.
    pub async fn ask(&self, call: Call) -> Result<(Uri, Response<Incoming>)> {
        let method = call.method.clone();
        let (uri, answer) = self.send(call).await?;
        if answer.status().is_success() {
            return Ok((uri, answer));
        }
        let status = answer.status();
        // What it says besides is an extra.
        let body = read_all(answer.into_body(), 64 << 10).await.unwrap_or_default();
        Err(unexpected(&method, &uri, status, &body).into())
    }

    /// Waits before another try, as long as the host says, up to a minute.
    async fn rest(&self, tries: u32, pause: Duration, said: Option<&HeaderValue>) -> (u32, Duration) {
        let said = said.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        sleep(said.map_or(pause, Duration::from_secs).min(SILENCE)).await;
        (tries + 1, pause * 2)
    }

    /// One exchange.
    pub(super) async fn exchange(&self, request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        if self.dump {
            eprintln!("ctr: http: > {method} {}", orlop_registry::redacted(&uri));
            dump(">", request.headers());
        }
        let what = || format!("{method} {}", orlop_registry::redacted(&uri));
        let answer = match timeout(SILENCE, self.client.request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                return Err(Failure {
                    connecting: error.is_connect(),
                    not_tls: tls::is_not_spoken(&error),
                    error: anyhow!("{}: {}", what(), explained(&error)),
                });
            }
            Err(_) => {
                return Err(Failure {
                    connecting: false,
                    not_tls: false,
                    error: anyhow!("{}: the host was silent for {SILENCE:?}", what()),
                });
            }
        };
        if self.dump {
            eprintln!("ctr: http: < {}", answer.status());
            dump("<", answer.headers());
        }
        Ok(answer)
    }
}

/// Why an exchange did not come to an answer.
pub(super) struct Failure {
    /// Whether there was no connection.
    connecting: bool,
    /// Whether the host answers, but not in TLS.
    not_tls: bool,
    pub(super) error: anyhow::Error,
}

/// Header fields on standard error, without secrets.
fn dump(direction: &str, headers: &HeaderMap) {
    for (name, value) in headers {
        let secret = name == AUTHORIZATION || name == http::header::SET_COOKIE;
        let value = if secret { "…" } else { value.to_str().unwrap_or("…") };
        eprintln!("ctr: http: {direction} {name}: {value}");
    }
}

/// The innermost cause says most; that a host does not speak TLS, it says in riddles.
fn explained(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    if tls::is_not_spoken(error) {
        return format!("{text}: it does not speak TLS: if that is intended, use --plain-http");
    }
    if text.contains("UnknownIssuer") {
        return format!("{text}: name its authority with --tlscacert, or trust it unseen with --skip-verify");
    }
    text
}

/// Whether a host is on this machine, or what is said to it cannot be overheard.
pub(super) fn is_safe(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https") || uri.host().is_some_and(is_localhost)
}

fn with_scheme(uri: &Uri, scheme: &str) -> Result<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(scheme.parse().context("scheme")?);
    Uri::from_parts(parts).context("no request can be made of it")
}

/// `uri` with another query.
pub(super) fn with_query(uri: &Uri, query: &str) -> Result<Uri> {
    let mut parts = uri.clone().into_parts();
    let path = format!("{}?{query}", uri.path());
    parts.path_and_query = Some(path.parse().context("no request can be made of it")?);
    Uri::from_parts(parts).context("no request can be made of it")
}

/// No content.
pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Bytes as content.
pub(super) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// An answer's content, as it comes.
#[derive(Debug)]
pub struct Stream(Incoming);

impl Stream {
    /// The content of an answer.
    pub fn new(body: Incoming) -> Self {
        Self(body)
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = timeout(SILENCE, self.0.frame()).await;
            let frame = frame.map_err(|_| anyhow!("the host was silent for {SILENCE:?}"))?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(anyhow!("the download broke off: {}", explained(&error))),
            }
        }
    }
}

/// Content of at most `limit` bytes.
pub(super) async fn read_all(body: Incoming, limit: usize) -> Result<Vec<u8>> {
    let (mut stream, mut bytes) = (Stream(body), Vec::new());
    while let Some(piece) = stream.next().await? {
        if bytes.len() + piece.len() > limit {
            bail!("the answer is larger than {limit} bytes");
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}
