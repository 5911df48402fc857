//! A registry as one end of a transfer. The daemon speaks to it; for credentials it asks back over a stream.

use super::any;
use super::stream::Stream;
use crate::client::{Client, unique_part};
use crate::image::reference;
use crate::registry::{Credentials, RegistryFlags};
use anyhow::{Context, Result};
use containerd_client::types::transfer::{
    AuthRequest, AuthResponse, AuthType, HttpDebug, OciRegistry, RegistryResolver,
};
use prost::Message;
use prost_types::Any;
use tokio::task::AbortHandle;

/// The hub's registry, which is not at the host of its names.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// A registry, for as long as the transfer takes: credentials are answered until this is dropped.
#[derive(Debug)]
pub struct Registry {
    message: Any,
    answers: Option<AbortHandle>,
}

impl Registry {
    /// The registry of the image `name`.
    pub async fn open(client: &Client, name: &str, flags: &RegistryFlags) -> Result<Self> {
        let credentials = flags.credentials()?;
        let (mut auth_stream, mut answers) = (String::new(), None);
        if let Some(credentials) = credentials {
            auth_stream = format!("creds-{}", unique_part());
            let stream = Stream::open(client, &auth_stream)
                .await
                .context("cannot open the credentials' stream")?;
            answers = Some(tokio::spawn(answer(stream, name.to_owned(), credentials)).abort_handle());
        }
        let debug = match (flags.http_dump, flags.http_trace) {
            (false, false) => HttpDebug::Disabled,
            (true, false) => HttpDebug::Debug,
            (false, true) => HttpDebug::Trace,
            (true, true) => HttpDebug::Both,
        };
        let resolver = RegistryResolver {
            auth_stream,
            host_dir: flags.hosts_dir.clone(),
            default_scheme: if flags.plain_http {
                "http".to_owned()
            } else {
                String::new()
            },
            http_debug: debug.into(),
            ..RegistryResolver::default()
        };
        let message = any(&OciRegistry {
            reference: name.to_owned(),
            resolver: Some(resolver),
        });
        Ok(Self { message, answers })
    }

    /// As the API carries it.
    pub fn message(&self) -> Any {
        self.message.clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(answers) = &self.answers {
            answers.abort();
        }
    }
}

/// Answers the daemon's questions: the credentials for the image's own registry, nothing for any other host, so that a
/// mirror does not get to see them.
async fn answer(mut stream: Stream, name: String, credentials: Credentials) {
    while let Ok(Some(question)) = stream.next().await {
        let Ok(question) = AuthRequest::decode(question.value.as_slice()) else {
            continue;
        };
        if !stream.send(any(&response(&question, &name, &credentials))).await {
            return;
        }
    }
}

fn response(question: &AuthRequest, name: &str, credentials: &Credentials) -> AuthResponse {
    let own = reference::host(name);
    let asked = question.host.as_str();
    let host_matches = asked == own || (own == HUB.0 && asked == HUB.1);
    if !host_matches || (!question.reference.is_empty() && question.reference != name) {
        return AuthResponse::default();
    }
    let auth_type = if credentials.username.is_empty() {
        AuthType::Refresh
    } else {
        AuthType::Credentials
    };
    AuthResponse {
        auth_type: auth_type.into(),
        username: credentials.username.clone(),
        secret: credentials.secret.clone(),
        ..AuthResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_the_images_own_registry_only() {
        let credentials = Credentials {
            username: "me".to_owned(),
            secret: "s".to_owned(),
        };
        let ask = |host: &str, reference: &str| {
            let question = AuthRequest {
                host: host.to_owned(),
                reference: reference.to_owned(),
                ..AuthRequest::default()
            };
            response(&question, reference, &credentials).secret
        };
        assert_eq!(ask("quay.io", "quay.io/acme/app:1"), "s");
        assert_eq!(ask("registry-1.docker.io", "docker.io/library/busybox:latest"), "s");
        assert_eq!(ask("localhost:5000", "localhost:5000/app:1"), "s");
        assert_eq!(ask("mirror.example", "quay.io/acme/app:1"), "");
        let other = AuthRequest {
            host: "quay.io".to_owned(),
            reference: "quay.io/other:1".to_owned(),
            ..AuthRequest::default()
        };
        assert_eq!(response(&other, "quay.io/acme/app:1", &credentials).secret, "");
    }
}
