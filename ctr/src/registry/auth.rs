//! What a host that answers 401 is shown: a name and a password, or a token that a token server gives for them
//! (`https://distribution.github.io/distribution/spec/auth/`).

use super::Credentials;
use super::host::{Host, empty, full, is_safe, read_all, with_query};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use containerd_client::tonic::Status;
use form_urlencoded::Serializer;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Uri};
use hyper::body::Incoming;
use orlop_registry::challenge::{Challenge, best};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Largest answer of a token server.
const MAX_ANSWER: usize = 1 << 20;

/// Both kinds of answers of token servers.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// The header field that meets the challenge of `host`.
pub async fn authorize(host: &Host, headers: &HeaderMap) -> Result<HeaderValue> {
    let refused = |text: String| anyhow::Error::from(Status::unauthenticated(text));
    let name = &host.config.authority;
    match (best(headers), &host.credentials) {
        (Some(Challenge::Bearer(parameters)), credentials) => token(host, &parameters, credentials.as_ref())
            .await
            .with_context(|| format!("failed to authorize with {name}")),
        (Some(Challenge::Basic), Some(Credentials { username, secret })) if !username.is_empty() => {
            basic(username, secret)
        }
        (Some(Challenge::Basic), _) => Err(refused(format!(
            "{name} wants a name and a password: give them with --user NAME:PASSWORD"
        ))),
        (None, _) => Err(refused(format!(
            "{name} wants an authorization of a kind that is not known here"
        ))),
    }
}

fn basic(username: &str, secret: &str) -> Result<HeaderValue> {
    let text = crate::container::info::base64(format!("{username}:{secret}").as_bytes());
    sensitive(&format!("Basic {text}"))
}

fn sensitive(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).context("the credentials do not fit a header field")?;
    value.set_sensitive(true);
    Ok(value)
}

async fn token(
    host: &Host,
    parameters: &BTreeMap<String, String>,
    credentials: Option<&Credentials>,
) -> Result<HeaderValue> {
    let text = |name: &str| parameters.get(name).map_or("", String::as_str);
    let realm: Uri = text("realm").parse().context("the token server's URL")?;
    // Whoever answers in the place of a registry with TLS must not talk us out of it.
    ensure!(
        credentials.is_none() || !host.is_secure() || is_safe(&realm),
        "credentials are not sent to {} without TLS, as the registry itself has TLS",
        orlop_registry::redacted(&realm)
    );
    let scope = &host.scope;
    let answer = match credentials {
        Some(Credentials { username, secret }) if username.is_empty() => {
            let form = Serializer::new(String::new())
                .append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", secret)
                .append_pair("service", text("service"))
                .append_pair("scope", scope)
                .append_pair("client_id", "orlop-ctr")
                .finish();
            let request = Request::post(&realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            fetch(host, request.body(full(Bytes::from(form)))?).await?
        }
        _ => {
            let mut query = Serializer::new(realm.query().unwrap_or_default().to_owned());
            if !text("service").is_empty() {
                query.append_pair("service", text("service"));
            }
            let query = query.append_pair("scope", scope).finish();
            let mut request = Request::get(with_query(&realm, &query)?);
            if let Some(Credentials { username, secret }) = credentials {
                request = request.header(AUTHORIZATION, basic(username, secret)?);
            }
            fetch(host, request.body(empty())?).await?
        }
    };
    let answer: Answer = serde_json::from_slice(&answer).context("the answer is no token")?;
    let token = if answer.access_token.is_empty() {
        answer.token
    } else {
        answer.access_token
    };
    ensure!(!token.is_empty(), "the answer holds no token");
    sensitive(&format!("Bearer {token}"))
}

async fn fetch(host: &Host, request: Request<super::host::Body>) -> Result<Vec<u8>> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let answer: http::Response<Incoming> = host.exchange(request).await.map_err(|failure| failure.error)?;
    let status = answer.status();
    let body = read_all(answer.into_body(), MAX_ANSWER).await?;
    if status.is_success() {
        return Ok(body);
    }
    Err(super::unexpected(&method, &uri, status, &body).into())
}
