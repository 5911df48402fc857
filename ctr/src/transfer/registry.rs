//! A registry as one end of a transfer. The daemon speaks to it; for credentials it asks back over a stream.

use super::any;
use super::stream::Stream;
use crate::client::{Client, unique_part};
use crate::image::reference;
use anyhow::{Context, Result, ensure};
use clap::Args;
use containerd_client::types::transfer::{
    AuthRequest, AuthResponse, AuthType, HttpDebug, OciRegistry, RegistryResolver,
};
use prost::Message;
use prost_types::Any;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::io::{BufRead, IsTerminal, Write, stdin, stdout};
use tokio::task::AbortHandle;

/// The hub's registry, which is not at the host of its names.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Flags of everything that has to do with a registry.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryFlags {
    /// Skip SSL certificate validation; to be set in the daemon's hosts.toml instead
    #[arg(long, short = 'k')]
    skip_verify: bool,
    /// Allow connections using plain HTTP
    #[arg(long)]
    plain_http: bool,
    /// User[:password] Registry user and password
    #[arg(long, short = 'u', value_name = "USER")]
    user: Option<String>,
    /// Refresh token for authorization server
    #[arg(long, value_name = "TOKEN")]
    refresh: Option<String>,
    /// Custom hosts configuration directory
    #[arg(
        long,
        value_name = "DIR",
        env = "CONTAINERD_HOSTS_DIR",
        default_value = "",
        hide_default_value = true
    )]
    hosts_dir: String,
    /// Path to TLS root CA; to be set in the daemon's hosts.toml instead
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<String>,
    /// Path to TLS client certificate; to be set in the daemon's hosts.toml instead
    #[arg(long, value_name = "FILE")]
    tlscert: Option<String>,
    /// Path to TLS client key; to be set in the daemon's hosts.toml instead
    #[arg(long, value_name = "FILE")]
    tlskey: Option<String>,
    /// Dump all HTTP request/responses when interacting with container registry, into the daemon's log
    #[arg(long)]
    http_dump: bool,
    /// Enable HTTP tracing for registry interactions, into the daemon's log
    #[arg(long)]
    http_trace: bool,
}

/// Credentials for one image's registry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Credentials {
    username: String,
    secret: String,
}

/// A registry, for as long as the transfer takes: credentials are answered until this is dropped.
#[derive(Debug)]
pub struct Registry {
    message: Any,
    answers: Option<AbortHandle>,
}

impl Registry {
    /// The registry of the image `name`.
    pub async fn open(client: &Client, name: &str, flags: &RegistryFlags) -> Result<Self> {
        let tls = flags.skip_verify || flags.tlscacert.is_some() || flags.tlscert.is_some() || flags.tlskey.is_some();
        ensure!(
            !tls,
            "--skip-verify and --tls… cannot be handed to the daemon: set skip_verify, ca and client in a hosts.toml \
             and name its directory with --hosts-dir"
        );
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

impl RegistryFlags {
    fn credentials(&self) -> Result<Option<Credentials>> {
        let user = self.user.as_deref().filter(|user| !user.is_empty());
        match (user, &self.refresh) {
            (None, None) => Ok(None),
            (None, Some(token)) => Ok(Some(Credentials {
                username: String::new(),
                secret: token.clone(),
            })),
            (Some(user), _) => {
                let (username, secret) = match user.split_once(':') {
                    Some((username, secret)) if !secret.is_empty() => (username, secret.to_owned()),
                    Some((username, _)) => (username, ask_password()?),
                    None => (user, ask_password()?),
                };
                Ok(Some(Credentials {
                    username: username.to_owned(),
                    secret,
                }))
            }
        }
    }
}

/// Asks on the terminal, without showing what is typed; reads a line of whatever else standard input is.
fn ask_password() -> Result<String> {
    let input = stdin();
    print!("Password: ");
    stdout().flush().context("cannot write to standard output")?;
    let mut before = None;
    if input.is_terminal() {
        let modes = tcgetattr(&input).context("cannot read the terminal's mode")?;
        let mut silent = modes.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Now, &silent).context("cannot hide the password")?;
        before = Some(modes);
    }
    let mut line = String::new();
    let read = input.lock().read_line(&mut line);
    if let Some(modes) = before {
        tcsetattr(&input, OptionalActions::Now, &modes).context("cannot restore the terminal")?;
    }
    println!();
    read.context("failed to read the password")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
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
