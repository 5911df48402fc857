//! Credentials, asked of the client over the stream that it opened for them.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use containerd_client::to_any;
use containerd_client::types::transfer::{AuthRequest, AuthResponse, AuthType};
use futures_util::StreamExt;
use http::HeaderValue;
use orlop_plugin::contract::Ctx;
use orlop_plugin::{Error, Host, Result};
use prost::Message;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::stream::Attached;

/// How long a client may take to answer: it may ask somebody.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a client knows for a host.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing: go as anybody.
    Nobody,
    /// A name and a password.
    Password {
        /// The name.
        username: String,
        /// The password.
        secret: String,
    },
    /// A refresh token for the token server.
    Refresh(String),
    /// The header field itself.
    Header(HeaderValue),
}

/// The client's answers, each asked for once.
pub struct Asking {
    reference: String,
    state: Mutex<State>,
}

struct State {
    stream: Option<Attached>,
    known: BTreeMap<String, Credentials>,
}

// === impl Asking ===

impl Asking {
    /// Joins the stream `id`, for the image `reference`; an empty one knows nothing.
    pub async fn join(host: &Host, ctx: &Ctx, id: &str, reference: &str) -> Result<Self> {
        let stream = match id {
            "" => None,
            id => Some(Attached::join(host, ctx, id).await?),
        };
        Ok(Self {
            reference: reference.to_owned(),
            state: Mutex::new(State {
                stream,
                known: BTreeMap::new(),
            }),
        })
    }

    /// The credentials for `host`, which has asked for them in `challenges`.
    pub async fn ask(&self, host: &str, challenges: Vec<String>) -> Result<Credentials> {
        let mut state = self.state.lock().await;
        if let Some(known) = state.known.get(host) {
            return Ok(known.clone());
        }
        let Some(stream) = &mut state.stream else {
            return Ok(Credentials::Nobody);
        };
        let request = AuthRequest {
            host: host.to_owned(),
            reference: self.reference.clone(),
            wwwauthenticate: challenges,
        };
        stream.send(to_any(&request)).await?;
        let answer = timeout(PATIENCE, stream.incoming.next()).await.map_err(|_| {
            Error::deadline_exceeded(format!(
                "the client did not answer within {} s when asked for the credentials for {host}",
                PATIENCE.as_secs()
            ))
        })?;
        let answer = answer.unwrap_or_else(|| {
            Err(Error::cancelled(format!(
                "the client closed the stream over which it was asked for the credentials for {host}"
            )))
        })?;
        let credentials = decode(&answer.value)?;
        state.known.insert(host.to_owned(), credentials.clone());
        Ok(credentials)
    }

    /// Ends the stream.
    pub async fn close(&self) {
        let stream = self.state.lock().await.stream.take();
        if let Some(stream) = stream {
            stream.close(None).await;
        }
    }
}

fn decode(answer: &[u8]) -> Result<Credentials> {
    let answer = AuthResponse::decode(answer).map_err(|error| {
        Error::invalid_argument(format!(
            "the client's answer about credentials does not decode: {error}"
        ))
    })?;
    let kind = answer.auth_type();
    Ok(match (kind, answer.username, answer.secret) {
        (_, username, secret) if username.is_empty() && secret.is_empty() => Credentials::Nobody,
        (AuthType::Header, _, secret) => {
            let mut value = HeaderValue::from_str(&secret).map_err(|_| {
                Error::invalid_argument("the header field that the client gave as credentials is not valid")
            })?;
            value.set_sensitive(true);
            Credentials::Header(value)
        }
        (_, username, secret) if username.is_empty() => Credentials::Refresh(secret),
        (_, username, secret) => Credentials::Password { username, secret },
    })
}

/// The header field of a name and a password.
pub fn basic(username: &str, secret: &str) -> Result<HeaderValue> {
    let text = format!("Basic {}", STANDARD.encode(format!("{username}:{secret}")));
    sensitive(&text)
}

/// A header field that logs do not show.
pub fn sensitive(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Error::invalid_argument("credentials or a token hold what no header field may hold"))?;
    value.set_sensitive(true);
    Ok(value)
}
