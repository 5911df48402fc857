//! A registry, as this client itself speaks to it (OCI distribution-spec): for `content fetch` and its kin, and for pulls
//! and pushes with a daemon that has no transfer service.
//!
//! [`host`] is one host with its credentials, [`auth`] what it is shown, [`fetch`] and [`push`] what is asked of it. Which
//! hosts there are, whom to trust and where redirects lead is `orlop-registry`'s.

mod auth;
mod fetch;
mod flags;
mod host;
mod push;

pub use flags::{Credentials, RegistryFlags};
pub use host::{Body, Stream};

use crate::image::reference::{self, Place};
use anyhow::{Context, Result, bail};
use containerd_client::tonic::Status;
use host::Host;
use http::{StatusCode, Uri};
use orlop_registry::hosts::{self, Capabilities};

/// The hub's registry, which is not at the host of its names.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Before the host: the label with the repositories that a blob is known from.
const DISTRIBUTION_SOURCE: &str = "containerd.io/distribution.source";

/// The registry of one image.
#[derive(Debug)]
pub struct Registry {
    /// The image's name.
    pub name: String,
    place: Place,
    hosts: Vec<Host>,
}

impl Registry {
    /// The registry of the image `name`, to be written to if `push`. Reads the configuration of its hosts.
    pub fn open(name: &str, flags: &RegistryFlags, push: bool) -> Result<Self> {
        let place = reference::place(name)?;
        let scheme = if flags.plain_http { "http" } else { "" };
        let configured = hosts::load(&place.host, &flags.hosts_dir, scheme)
            .with_context(|| format!("the hosts of {}", place.host))?;
        let credentials = flags.credentials()?;
        let actions = if push { "pull,push" } else { "pull" };
        let scope = format!("repository:{}:{actions}", place.repository);
        let open = |mut config: hosts::HostConfig| {
            // A registry on this machine is trusted unseen, unless it is said how to see.
            config.skip_verify = flags.skip_verify || (config.skip_verify && flags.tlscacert.is_none());
            config.ca.extend(flags.tlscacert.clone());
            if let Some(certificate) = &flags.tlscert {
                config.client.insert(0, (certificate.clone(), flags.tlskey.clone()));
            }
            // A mirror does not get to see them.
            let own = config.authority == place.host || (place.host == HUB.0 && config.authority == HUB.1);
            let credentials = credentials.clone().filter(|_| own);
            Host::new(
                config,
                &place.host,
                credentials,
                &scope,
                flags.http_dump || flags.http_trace,
            )
        };
        Ok(Self {
            name: name.to_owned(),
            hosts: configured.into_iter().map(open).collect::<Result<_>>()?,
            place,
        })
    }

    /// The label of a blob with the repositories of this host that have it, and this repository.
    pub fn source(&self) -> (String, &str) {
        let host = match self.place.host.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => host,
            _ => &self.place.host,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (format!("{DISTRIBUTION_SOURCE}.{host}"), &self.place.repository)
    }

    fn able(&self, what: &str, can: impl Fn(Capabilities) -> bool) -> Result<Vec<&Host>> {
        let able: Vec<_> = self.hosts.iter().filter(|host| can(host.config.capabilities)).collect();
        if able.is_empty() {
            bail!(
                "no host of the registry {} may {what}: give one the capability in its hosts.toml",
                self.place.host
            );
        }
        Ok(able)
    }
}

/// What a host says in place of what it was asked for, with the class that it has for containerd's clients.
fn unexpected(method: &http::Method, uri: &Uri, status: StatusCode, body: &[u8]) -> Status {
    #[derive(serde::Deserialize)]
    struct Answer {
        #[serde(default)]
        errors: Vec<Complaint>,
    }
    #[derive(serde::Deserialize)]
    struct Complaint {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut text = format!(
        "unexpected status from {method} request to {}: {status}",
        orlop_registry::redacted(uri)
    );
    if let Ok(answer) = serde_json::from_slice::<Answer>(body) {
        for Complaint { code, message } in answer.errors {
            text.push_str(": ");
            text.push_str(if message.is_empty() { &code } else { &message });
        }
    }
    match status {
        StatusCode::NOT_FOUND => Status::not_found(text),
        StatusCode::UNAUTHORIZED => Status::unauthenticated(text),
        StatusCode::FORBIDDEN => Status::permission_denied(text),
        StatusCode::TOO_MANY_REQUESTS => Status::resource_exhausted(text),
        status if status.is_server_error() => Status::unavailable(text),
        _ => Status::unknown(text),
    }
}
