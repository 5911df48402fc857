//! Registries (OCI distribution-spec): resolving a name, fetching blobs into the content store, and pushing them from it.
//!
//! ```text
//!   Registry ── one image's registry: its hosts in order, the client's credentials
//!     └ host::RegistryHost ── authorizes (auth), redirects (location), tries again
//!         └ http::Transport ── one exchange: connections (dial), TLS (tls), time limits
//! ```

mod auth;
mod chunks;
mod credentials;
mod dial;
mod fetch;
mod foreign;
mod host;
mod http;
mod location;
mod push;
mod reference;
mod referrers;
mod resolve;
mod status;

#[cfg(test)]
pub use chunks::Chunks;
pub use fetch::Fetched;
pub use http::{Network, Patience};
pub use push::Pushed;
pub use reference::add_source;

use ::http::header::USER_AGENT;
use ::http::request::Builder;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use containerd_client::types::transfer::{HttpDebug, OciRegistry, RegistryResolver};
use orlop_plugin::contract::Ctx;
use orlop_plugin::{Error, Host, Result, blocking};
use orlop_registry::{challenge, hosts, tls};

use credentials::Asking;
use host::{Answer, Call, Payload, RegistryHost, Target};
use hosts::Capabilities;
use reference::Reference;

/// The registry of one image.
pub struct Registry {
    /// The image.
    pub reference: Reference,
    hosts: Vec<RegistryHost>,
    asking: Asking,
    /// What the client wants to be sent along.
    headers: HeaderMap,
    patience: Patience,
    network: Network,
}

// === impl Registry ===

impl Registry {
    /// The registry that `registry` names, with the hosts that its own directory of hosts or `config_path` say.
    pub async fn open(
        host: &Host,
        ctx: &Ctx,
        registry: &OciRegistry,
        config_path: &str,
        network: &Network,
    ) -> Result<Self> {
        let reference = Reference::parse(&registry.reference)?;
        let resolver = registry.resolver.clone().unwrap_or_default();
        let headers = headers_of(&resolver)?;
        let told = resolver.http_debug() != HttpDebug::Disabled;
        let directories = if resolver.host_dir.is_empty() {
            config_path.to_owned()
        } else {
            resolver.host_dir
        };
        let (name, scheme) = (reference.host.clone(), resolver.default_scheme);
        let for_hosts = network.clone();
        let hosts = blocking(move || {
            let hosts = hosts::load(&name, &directories, &scheme).map_err(said)?;
            hosts
                .into_iter()
                .map(|host| RegistryHost::new(host, &for_hosts, told))
                .collect()
        })
        .await?;
        Ok(Self {
            asking: Asking::join(host, ctx, &resolver.auth_stream, &reference.full).await?,
            reference,
            hosts,
            headers,
            patience: network.patience,
            network: network.clone(),
        })
    }

    /// Ends the stream over which the client is asked for credentials.
    pub async fn close(&self) {
        self.asking.close().await;
    }

    /// What it is, as containerd calls it in progress events.
    pub fn describe(&self) -> String {
        format!("OCI Registry ({})", self.reference.full)
    }

    /// The hosts that can do something, each with whether it is the last.
    fn hosts_for(&self, what: &str, can: impl Fn(Capabilities) -> bool) -> Result<Vec<(&RegistryHost, bool)>> {
        let able: Vec<_> = self.hosts.iter().filter(|host| can(host.config.capabilities)).collect();
        if able.is_empty() {
            return Err(Error::not_found(format!(
                "no host of the registry {} may {what}: give one the capability in its hosts.toml",
                self.reference.host
            )));
        }
        let last = able.len() - 1;
        Ok(able
            .into_iter()
            .enumerate()
            .map(|(nth, host)| (host, nth == last))
            .collect())
    }

    /// A request to `host` for `path` in the image's repository.
    fn call<'a>(&self, host: &RegistryHost, method: Method, path: &str, scopes: &'a [String]) -> Call<'a> {
        let mut path = format!("{}/{path}", self.reference.repository);
        // A mirror of several registries must know which is meant.
        if host.config.is_proxy_of(&self.reference.host) {
            let separator = if path.contains('?') { '&' } else { '?' };
            let name = form_urlencoded::byte_serialize(self.reference.host.as_bytes());
            path = format!("{path}{separator}ns={}", name.collect::<String>());
        }
        Call {
            method,
            target: Target::Path(path),
            headers: self.headers.clone(),
            payload: Payload::Empty,
            scopes,
        }
    }

    async fn exchange(&self, host: &RegistryHost, call: &Call<'_>, patient: bool) -> Result<Answer> {
        host.exchange(&self.asking, call, patient).await
    }
}

fn headers_of(resolver: &RegistryResolver) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &resolver.headers {
        let invalid = || Error::invalid_argument(format!("the header field {name:?} of the transfer is not valid"));
        let key: HeaderName = name.parse().map_err(|_| invalid())?;
        headers.append(key, HeaderValue::from_str(value).map_err(|_| invalid())?);
    }
    Ok(headers)
}

/// A request as we send them.
fn request(method: Method, uri: Uri) -> Builder {
    Request::builder()
        .method(method)
        .uri(uri)
        .header(USER_AGENT, concat!("orlop/", env!("CARGO_PKG_VERSION")))
}

/// `uri` with another query.
fn with_query(uri: &Uri, query: &str) -> Result<Uri> {
    let mut parts = uri.clone().into_parts();
    let path = format!("{}?{query}", uri.path());
    parts.path_and_query = Some(path.parse().map_err(malformed)?);
    Uri::from_parts(parts).map_err(malformed)
}

/// What is wrong with a configuration or a host, with its code.
fn said(error: orlop_registry::Error) -> Error {
    match error {
        orlop_registry::Error::Invalid(message) => Error::invalid_argument(message),
        orlop_registry::Error::Precondition(message) => Error::failed_precondition(message),
        orlop_registry::Error::Io(doing, error) => Error::io(doing, &error),
    }
}

fn malformed(error: impl std::fmt::Display) -> Error {
    Error::invalid_argument(format!("no request can be made of it: {error}"))
}
