//! The flags of everything that has to do with a registry.

use anyhow::{Context, Result, ensure};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::io::{BufRead, IsTerminal, Write, stdin, stdout};
use std::path::PathBuf;

/// How to speak to a registry.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryFlags {
    /// Skip SSL certificate validation
    #[arg(long, short = 'k')]
    pub skip_verify: bool,
    /// Allow connections using plain HTTP
    #[arg(long)]
    pub plain_http: bool,
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
    pub hosts_dir: String,
    /// Path to TLS root CA
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// Path to TLS client certificate
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// Path to TLS client key
    #[arg(long, value_name = "FILE", requires = "tlscert")]
    pub tlskey: Option<PathBuf>,
    /// Dump all HTTP request/responses when interacting with container registry
    #[arg(long)]
    pub http_dump: bool,
    /// Enable HTTP tracing for registry interactions
    #[arg(long)]
    pub http_trace: bool,
}

/// Credentials for one image's registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Empty for a refresh token.
    pub username: String,
    /// The password or the token.
    pub secret: String,
}

impl RegistryFlags {
    /// The first flag that was given and that only this client can heed, not the daemon.
    pub fn local_only(&self) -> Option<&'static str> {
        [
            ("skip-verify", self.skip_verify),
            ("tlscacert", self.tlscacert.is_some()),
            ("tlscert", self.tlscert.is_some()),
            ("tlskey", self.tlskey.is_some()),
        ]
        .into_iter()
        .find_map(|(name, given)| given.then_some(name))
    }

    /// What was given; a password that was not is asked for.
    pub fn credentials(&self) -> Result<Option<Credentials>> {
        let user = self.user.as_deref().filter(|user| !user.is_empty());
        let (username, secret) = match (user, &self.refresh) {
            (None, None) => return Ok(None),
            (None, Some(token)) => ("", token.clone()),
            (Some(user), _) => match user.split_once(':') {
                Some((username, secret)) if !secret.is_empty() => (username, secret.to_owned()),
                Some((username, _)) => (username, ask_password()?),
                None => (user, ask_password()?),
            },
        };
        Ok(Some(Credentials {
            username: username.to_owned(),
            secret,
        }))
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
    ensure!(
        read.context("failed to read the password")? > 0,
        "a password is needed: give it with --user USER:PASSWORD or on standard input"
    );
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
