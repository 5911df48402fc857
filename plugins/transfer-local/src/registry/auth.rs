//! Proving to one host who we are: by a name and password, or by a token of the token server that the host names
//! (`https://distribution.github.io/distribution/spec/auth/token/` and `…/oauth/`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use form_urlencoded::Serializer;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use hyper::body::Incoming;
use orlop_plugin::contract::Code;
use orlop_plugin::{Error, Result};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::challenge::{Challenge, best};
use super::credentials::{Asking, Credentials, basic, sensitive};
use super::hosts::is_localhost;
use super::http::{Failure, FailureKind, Sent, Transport, empty, full};
use super::status::unexpected;

/// How we call ourselves towards token servers; they know containerd's name.
const CLIENT_ID: &str = "containerd-client";

/// The largest answer of a token server.
const MAX_ANSWER: u64 = 1 << 20;

/// A token is renewed this long before it ends.
const MARGIN: Duration = Duration::from_secs(5);

/// What is known of how to authorize requests to a host.
#[derive(Default)]
pub struct Authorizer {
    state: Mutex<Option<Way>>,
}

enum Way {
    Fixed(HeaderValue),
    Tokens {
        server: TokenServer,
        tokens: BTreeMap<String, Token>,
    },
}

struct TokenServer {
    realm: Uri,
    service: String,
    /// What the challenge asked for, besides what is known to be needed.
    scopes: BTreeSet<String>,
    credentials: Credentials,
}

#[derive(Clone)]
struct Token {
    value: HeaderValue,
    ends: Option<Instant>,
}

/// Both kinds of answers of token servers.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

// === impl Authorizer ===

impl Authorizer {
    /// The header field for a request that needs `scopes`; `None` while nothing was asked for.
    pub async fn header(&self, transport: &Transport, scopes: &[String]) -> Result<Option<HeaderValue>, Failure> {
        let mut state = self.state.lock().await;
        match &mut *state {
            None => Ok(None),
            Some(Way::Fixed(value)) => Ok(Some(value.clone())),
            Some(Way::Tokens { server, tokens }) => {
                let scopes: BTreeSet<&str> = scopes
                    .iter()
                    .map(String::as_str)
                    .chain(server.scopes.iter().map(String::as_str))
                    .collect();
                let key = scopes.iter().copied().collect::<Vec<_>>().join(" ");
                let alive = |token: &&Token| token.ends.is_none_or(|ends| ends > Instant::now());
                if let Some(token) = tokens.get(&key).filter(alive) {
                    return Ok(Some(token.value.clone()));
                }
                let token = server.fetch(transport, &scopes).await?;
                tokens.insert(key, token.clone());
                Ok(Some(token.value))
            }
        }
    }

    /// Takes in a 401 of `host`, to a request that was sent with `sent`. `Unauthenticated` when nothing more can be done.
    pub async fn challenged(
        &self,
        asking: &Asking,
        host: &str,
        secure: bool,
        headers: &HeaderMap,
        sent: Option<&HeaderValue>,
    ) -> Result<()> {
        let mut state = self.state.lock().await;
        match (&mut *state, sent) {
            // Somebody else met the challenge in the meantime.
            (Some(Way::Fixed(value)), sent) if sent != Some(value) => return Ok(()),
            (Some(Way::Fixed(_)), _) => {
                return Err(unauthenticated(format!(
                    "{host} does not accept the credentials given for it"
                )));
            }
            (Some(Way::Tokens { tokens, .. }), Some(sent)) => tokens.retain(|_, token| token.value != *sent),
            (Some(Way::Tokens { .. }), None) => return Ok(()),
            (None, _) => {}
        }
        let challenges = headers.get_all(WWW_AUTHENTICATE);
        let texts = challenges
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned));
        let credentials = asking.ask(host, texts.collect()).await?;
        let way = match (best(headers), credentials) {
            (_, Credentials::Header(value)) => Way::Fixed(value),
            (Some(Challenge::Bearer(parameters)), credentials) => {
                let server = TokenServer::new(parameters, credentials, secure)?;
                Way::Tokens {
                    server,
                    tokens: BTreeMap::new(),
                }
            }
            (Some(Challenge::Basic), Credentials::Password { username, secret }) => {
                Way::Fixed(basic(&username, &secret)?)
            }
            (Some(Challenge::Basic), _) => {
                return Err(unauthenticated(format!(
                    "{host} wants a name and a password: give them with --user NAME:PASSWORD"
                )));
            }
            (None, _) => {
                return Err(unauthenticated(format!(
                    "{host} wants an authorization of a kind that is not known here: {:?}",
                    headers.get(WWW_AUTHENTICATE)
                )));
            }
        };
        *state = Some(way);
        Ok(())
    }
}

// === impl TokenServer ===

impl TokenServer {
    fn new(mut parameters: BTreeMap<String, String>, credentials: Credentials, secure: bool) -> Result<Self> {
        let realm = parameters.remove("realm").unwrap_or_default();
        let invalid =
            |why: &str| Error::failed_precondition(format!("the registry names the token server {realm:?}: {why}"));
        let uri: Uri = realm.parse().map_err(|_| invalid("that is no URL"))?;
        let host = uri.authority().map(|authority| authority.as_str().to_owned());
        match (uri.scheme_str(), &host) {
            (Some("https"), Some(_)) => {}
            // Whoever answers in the place of a registry with TLS must not talk us out of it.
            (Some("http"), Some(host)) if credentials == Credentials::Nobody || !secure || is_localhost(host) => {}
            (Some("http"), Some(_)) => {
                return Err(invalid(
                    "credentials are not sent to it without TLS, as the registry itself has TLS",
                ));
            }
            _ => return Err(invalid("that is no URL of a server")),
        }
        let scopes = parameters.remove("scope").unwrap_or_default();
        Ok(Self {
            realm: uri,
            service: parameters.remove("service").unwrap_or_default(),
            scopes: scopes
                .split(' ')
                .filter(|scope| !scope.is_empty())
                .map(str::to_owned)
                .collect(),
            credentials,
        })
    }

    async fn fetch(&self, transport: &Transport, scopes: &BTreeSet<&str>) -> Result<Token, Failure> {
        let response = match &self.credentials {
            Credentials::Password { username, secret } => {
                let form = [("grant_type", "password"), ("username", username), ("password", secret)];
                let response = self.post(transport, scopes, &form).await?;
                // Not every token server knows OAuth: containerd's list of how they say so.
                if matches!(response.status().as_u16(), 400 | 401 | 404 | 405) {
                    self.get(transport, scopes, Some(basic(username, secret).map_err(last)?))
                        .await?
                } else {
                    response
                }
            }
            Credentials::Refresh(secret) => {
                let form = [("grant_type", "refresh_token"), ("refresh_token", secret.as_str())];
                self.post(transport, scopes, &form).await?
            }
            Credentials::Nobody | Credentials::Header(_) => self.get(transport, scopes, None).await?,
        };
        let what = || match self.credentials {
            Credentials::Nobody => format!("get a token for anybody from {}", super::http::redacted(&self.realm)),
            _ => format!("get a token from {}", super::http::redacted(&self.realm)),
        };
        if !response.status().is_success() {
            let status = response.status();
            let mut error = unexpected(transport, response).await.context(what());
            if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                error.code = Code::Unauthenticated;
            }
            let kind = if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                FailureKind::Broken
            } else {
                FailureKind::Final
            };
            return Err(Failure { kind, error });
        }
        let answer = transport
            .read_all(response.into_body(), MAX_ANSWER)
            .await
            .map_err(|error| Failure {
                kind: FailureKind::Broken,
                error: error.context(what()),
            })?;
        parse_token(&answer).map_err(|error| last(error.context(what())))
    }

    fn form(&self, scopes: &BTreeSet<&str>, form: &[(&str, &str)]) -> String {
        let mut body = Serializer::new(String::new());
        if !scopes.is_empty() {
            body.append_pair("scope", &scopes.iter().copied().collect::<Vec<_>>().join(" "));
        }
        body.append_pair("service", &self.service)
            .append_pair("client_id", CLIENT_ID)
            .extend_pairs(form)
            .finish()
    }

    fn query(&self, scopes: &BTreeSet<&str>) -> String {
        let mut query = Serializer::new(self.realm.query().unwrap_or_default().to_owned());
        if !self.service.is_empty() {
            query.append_pair("service", &self.service);
        }
        query.extend_pairs(scopes.iter().map(|scope| ("scope", scope))).finish()
    }

    async fn post(
        &self,
        transport: &Transport,
        scopes: &BTreeSet<&str>,
        form: &[(&str, &str)],
    ) -> Result<Response<Incoming>, Failure> {
        let request = super::request(Method::POST, self.realm.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded; charset=utf-8")
            .body(full(Bytes::from(self.form(scopes, form))));
        transport
            .send(request.map_err(super::malformed).map_err(last)?, Sent::nothing())
            .await
    }

    async fn get(
        &self,
        transport: &Transport,
        scopes: &BTreeSet<&str>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, Failure> {
        let uri = super::with_query(&self.realm, &self.query(scopes)).map_err(last)?;
        let mut request = super::request(Method::GET, uri);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(empty()).map_err(super::malformed).map_err(last)?;
        transport.send(request, Sent::nothing()).await
    }
}

fn parse_token(answer: &[u8]) -> Result<Token> {
    let answer: TokenAnswer = serde_json::from_slice(answer)
        .map_err(|error| Error::unavailable(format!("the answer is no token: {error}")))?;
    let text = if answer.access_token.is_empty() {
        answer.token
    } else {
        answer.access_token
    };
    if text.is_empty() {
        return Err(Error::unavailable("the answer holds no token"));
    }
    let lasts = Duration::from_secs(answer.expires_in);
    let ends = (!lasts.is_zero()).then(|| Instant::now() + lasts.saturating_sub(MARGIN).max(lasts / 2));
    Ok(Token {
        value: sensitive(&format!("Bearer {text}"))?,
        ends,
    })
}

fn unauthenticated(message: String) -> Error {
    Error::new(Code::Unauthenticated, message)
}

fn last(error: Error) -> Failure {
    Failure {
        kind: FailureKind::Final,
        error,
    }
}
