//! Requests to one host of a registry: authorized, redirected and tried again as need be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use hyper::body::Incoming;
use orlop_plugin::contract::Digest;
use orlop_plugin::{Error, Result};
use tokio::time::sleep;

use super::auth::Authorizer;
use super::credentials::Asking;
use super::hosts::{HostConfig, Scheme};
use super::http::{Body, Failure, FailureKind, Network, Patience, Sent, Transport, empty, full, redacted, streamed};
use super::location::follow;
use super::status::{is_worth_a_retry, retry_after};
use crate::content::Content;

/// Redirects followed, as Go's client.
const MAX_REDIRECTS: usize = 10;

/// The longest pause between tries that the host did not ask for itself.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// A host of a registry.
pub struct RegistryHost {
    /// How it is configured.
    pub config: HostConfig,
    /// Connections to it.
    pub transport: Transport,
    auth: Authorizer,
    patience: Patience,
    /// It was tried with TLS and does not speak it.
    plain: AtomicBool,
    /// Each request is told in the log, as the client asked for.
    told: bool,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// Below the host's own path: `library/busybox/manifests/latest`.
    Path(String),
    /// Where the host said.
    Absolute(Uri),
}

/// What a request carries.
pub enum Payload {
    /// Nothing.
    Empty,
    /// A document.
    Bytes(Bytes),
    /// A blob of the content store.
    Blob {
        /// Where it is.
        content: Content,
        /// Which.
        digest: Digest,
        /// From where on.
        offset: u64,
        /// How much of it.
        size: u64,
        /// Told of every piece that is on its way.
        on_sent: Arc<dyn Fn(u64) + Send + Sync>,
    },
}

/// A request.
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// Where it goes.
    pub target: Target,
    /// Its header fields.
    pub headers: HeaderMap,
    /// What it carries.
    pub payload: Payload,
    /// The token scopes that it needs.
    pub scopes: &'a [String],
}

/// An answer, and whence it came in the end.
pub struct Answer {
    /// The answer, whatever its status.
    pub response: Response<Incoming>,
    /// The URL after all redirects.
    pub uri: Uri,
}

// === impl Payload ===

impl Payload {
    async fn open(&self) -> Result<(Body, Sent, Option<u64>)> {
        Ok(match self {
            Self::Empty => (empty(), Sent::nothing(), None),
            Self::Bytes(bytes) => (full(bytes.clone()), Sent::nothing(), Some(bytes.len() as u64)),
            Self::Blob {
                content,
                digest,
                offset,
                size,
                on_sent,
            } => {
                let bytes = content.read_range(digest, *offset, *size).await?;
                let (body, sent) = streamed(bytes, on_sent.clone());
                (body, sent, Some(*size))
            }
        })
    }
}

// === impl RegistryHost ===

impl RegistryHost {
    /// A host. Blocks: it reads certificates.
    pub fn new(config: HostConfig, network: &Network, told: bool) -> Result<Self> {
        let transport = Transport::new(&config, network);
        let transport = transport.map_err(|error| error.context(format!("prepare for {}", config.authority)))?;
        Ok(Self {
            config,
            transport,
            auth: Authorizer::default(),
            patience: network.patience,
            plain: AtomicBool::new(false),
            told,
        })
    }

    fn is_secure(&self) -> bool {
        match self.config.scheme {
            Scheme::Http => false,
            Scheme::Https => true,
            Scheme::Either => !self.plain.load(Ordering::Relaxed),
        }
    }

    fn uri(&self, target: &Target) -> Result<Uri> {
        match target {
            Target::Absolute(uri) => Ok(uri.clone()),
            Target::Path(path) => {
                let scheme = if self.is_secure() { "https" } else { "http" };
                let HostConfig {
                    authority, path: root, ..
                } = &self.config;
                format!("{scheme}://{authority}{root}/{path}")
                    .parse()
                    .map_err(|error| Error::invalid_argument(format!("{authority}{root}/{path} makes no URL: {error}")))
            }
        }
    }

    /// Sends `call` until there is an answer, whatever it says. With `patient`, failures that may pass are waited out; without, the
    /// next host may do better.
    pub async fn exchange(&self, asking: &Asking, call: &Call<'_>, patient: bool) -> Result<Answer> {
        let mut tries = 0;
        let mut pause = self.patience.backoff;
        loop {
            let more = patient && tries < self.patience.retries;
            let secure = self.is_secure();
            let wait = match self.authorized(asking, call).await {
                Ok(answer) if more && is_worth_a_retry(&answer.response) => {
                    tracing::debug!(uri = redacted(&answer.uri), status = %answer.response.status(), "a registry is to be tried again");
                    retry_after(answer.response.headers())
                }
                Ok(answer) => return Ok(answer),
                Err(failure)
                    if failure.kind == FailureKind::NotTls && self.config.scheme == Scheme::Either && secure =>
                {
                    // No request was sent: the connection did not come about.
                    self.plain.store(true, Ordering::Relaxed);
                    continue;
                }
                Err(failure) if more && failure.kind == FailureKind::Broken => {
                    tracing::debug!(error = %failure.error, "a registry is to be tried again");
                    None
                }
                Err(failure) => return Err(failure.error),
            };
            sleep(wait.unwrap_or(pause)).await;
            pause = (pause * 2).min(MAX_PAUSE);
            tries += 1;
        }
    }

    /// Sends `call` once, to an absolute target and without saying who we are.
    pub async fn exchange_openly(&self, call: &Call<'_>) -> Result<Answer> {
        let uri = self.uri(&call.target)?;
        self.redirected(&uri, call, None).await.map_err(|failure| failure.error)
    }

    /// Sends `call`, and once more when the host asks who we are.
    async fn authorized(&self, asking: &Asking, call: &Call<'_>) -> Result<Answer, Failure> {
        let uri = self.uri(&call.target).map_err(last)?;
        let mut tries = 0;
        loop {
            // A place elsewhere that the host sent us to does not get to see what is for the host.
            let authorization = match call.target {
                Target::Path(_) => self.auth.header(&self.transport, call.scopes).await?,
                Target::Absolute(ref uri) if self.is_ours(uri) => {
                    self.auth.header(&self.transport, call.scopes).await?
                }
                Target::Absolute(_) => None,
            };
            let answer = self.redirected(&uri, call, authorization.as_ref()).await?;
            let asked = answer.response.status() == StatusCode::UNAUTHORIZED && self.is_ours(&answer.uri);
            // The second time may be a token that has just ended, the third is a refusal.
            if !asked || tries == 2 {
                return Ok(answer);
            }
            tries += 1;
            let host = &self.config.authority;
            let headers = answer.response.headers();
            self.auth
                .challenged(asking, host, self.is_secure(), headers, authorization.as_ref())
                .await
                .map_err(last)?;
        }
    }

    fn is_ours(&self, uri: &Uri) -> bool {
        let scheme = if self.is_secure() { "https" } else { "http" };
        uri.scheme_str() == Some(scheme) && uri.authority().is_some_and(|it| it.as_str() == self.config.authority)
    }

    async fn redirected(&self, uri: &Uri, call: &Call<'_>, auth: Option<&HeaderValue>) -> Result<Answer, Failure> {
        let mut uri = uri.clone();
        let mut method = call.method.clone();
        let mut carries = true;
        for _ in 0..=MAX_REDIRECTS {
            let ours = self.is_ours(&uri);
            let mut request = super::request(method.clone(), uri.clone());
            if let Some(headers) = request.headers_mut() {
                headers.extend(call.headers.clone());
                if ours {
                    headers.extend(self.config.header.clone());
                }
                if let Some(value) = auth.filter(|_| ours) {
                    headers.insert(AUTHORIZATION, value.clone());
                } else if !ours {
                    headers.remove(AUTHORIZATION);
                }
            }
            let (body, sent, length) = if carries {
                call.payload.open().await.map_err(last)?
            } else {
                (empty(), Sent::nothing(), None)
            };
            if let Some(length) = length {
                request = request.header(CONTENT_LENGTH, length);
            }
            let request = request.body(body).map_err(super::malformed).map_err(last)?;
            let response = self.transport.send(request, sent).await?;
            if self.told {
                tracing::info!(%method, uri = redacted(&uri), status = %response.status(), "registry request");
            } else {
                tracing::debug!(%method, uri = redacted(&uri), status = %response.status(), "registry request");
            }
            let status = response.status();
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { response, uri });
            }
            let Some(location) = response.headers().get(LOCATION) else {
                return Ok(Answer { response, uri });
            };
            let next = follow(&uri, location).map_err(last)?;
            if !matches!(status.as_u16(), 307 | 308) && method != Method::HEAD && method != Method::GET {
                (method, carries) = (Method::GET, false);
            }
            uri = next;
        }
        Err(last(Error::failed_precondition(format!(
            "{} redirects more than {MAX_REDIRECTS} times",
            self.config.authority
        ))))
    }
}

fn last(error: Error) -> Failure {
    Failure {
        kind: FailureKind::Final,
        error,
    }
}
