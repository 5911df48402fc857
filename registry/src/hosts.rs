//! Which hosts serve a registry: by default the one of the image's name, else what a `hosts.toml` says (containerd's
//! `docs/hosts.md`), or the certificate files of Docker's layout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::de::DeTable;

use crate::{Error, Result};

/// Docker Hub: the host of its names, and the host that answers.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// How a host is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
    /// With TLS if the host understands it, else without: what `http` means where TLS is configured, and what a registry on this
    /// machine gets.
    Either,
}

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Content by digest.
    pub pull: bool,
    /// The digest of a tag.
    pub resolve: bool,
    /// Taking content.
    pub push: bool,
}

/// One host that serves a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// How to speak to it.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: String,
    /// What comes before the repository in every path, `/v2`.
    pub path: String,
    /// What it is asked for.
    pub capabilities: Capabilities,
    /// PEM files with certificates to trust, besides the system's.
    pub ca: Vec<PathBuf>,
    /// Our certificates: a PEM file with the certificate, and one with its key unless that is in the first.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Whether any certificate will do.
    pub skip_verify: bool,
    /// Further header fields.
    pub header: HeaderMap,
    /// How long a connection may take to be made.
    pub dial_timeout: Option<Duration>,
}

const ALL: Capabilities = Capabilities {
    pull: true,
    resolve: true,
    push: true,
};

// === impl HostConfig ===

impl HostConfig {
    /// The host of the name itself.
    pub(crate) fn of_name(host: &str, default_scheme: &str) -> Result<Self> {
        let port = port_of(host);
        let local = is_localhost(host);
        let scheme = match (default_scheme, port) {
            _ if host == HUB.0 => Scheme::Https,
            ("http", _) => Scheme::Http,
            ("", Some("80")) if local => Scheme::Http,
            ("", Some(port)) if local && port != "443" => Scheme::Either,
            ("https" | "", _) => Scheme::Https,
            (other, _) => {
                return Err(Error::Invalid(format!(
                    "the default scheme {other:?} is neither http nor https"
                )));
            }
        };
        Ok(Self {
            scheme,
            authority: if host == HUB.0 { HUB.1 } else { host }.to_owned(),
            path: "/v2".to_owned(),
            capabilities: ALL,
            ca: Vec::new(),
            client: Vec::new(),
            // A registry on this machine seldom has a certificate that anybody signed.
            skip_verify: default_scheme.is_empty() && local && port != Some("80"),
            header: HeaderMap::new(),
            dial_timeout: None,
        })
    }

    /// A host that is named by its URL.
    pub(crate) fn named(server: &str, override_path: bool, skip_verify: bool) -> Result<Self> {
        let (scheme, rest) = match server.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some((other, _)) => {
                return Err(Error::Invalid(format!(
                    "{server:?} has the scheme {other:?}: it must be http or https"
                )));
            }
            None => (Scheme::Https, server),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let valid = authority.parse::<http::uri::Authority>().is_ok() && !authority.contains('@');
        if !valid || path.contains(['?', '#']) {
            return Err(Error::Invalid(format!(
                "{server:?} is no URL of a registry: it must read https://HOST[:PORT][/PATH]"
            )));
        }
        let mut path = path.trim_end_matches('/').to_owned();
        if !override_path && !path.ends_with("/v2") {
            path.push_str("/v2");
        }
        Ok(Self {
            scheme,
            authority: authority.to_owned(),
            path,
            capabilities: ALL,
            ca: Vec::new(),
            client: Vec::new(),
            skip_verify,
            header: HeaderMap::new(),
            dial_timeout: None,
        })
    }

    /// A host that nothing is configured for, and that is given nothing of ours.
    pub fn open(scheme: Scheme, authority: &str) -> Self {
        Self {
            scheme,
            authority: authority.to_owned(),
            path: String::new(),
            capabilities: ALL,
            ca: Vec::new(),
            client: Vec::new(),
            skip_verify: false,
            header: HeaderMap::new(),
            dial_timeout: None,
        }
    }

    /// Whether it answers for a registry of another name, `registry`, and must be told which.
    pub fn is_proxy_of(&self, registry: &str) -> bool {
        self.authority != registry && (registry != HUB.0 || self.authority != HUB.1)
    }
}

/// The hosts for the registry `host`, in the order in which to ask them: what the first directory of `directories` (separated by
/// colons) that knows it says, or else the host itself. Blocks: it reads files.
pub fn load(host: &str, directories: &str, default_scheme: &str) -> Result<Vec<HostConfig>> {
    let own = HostConfig::of_name(host, default_scheme)?;
    for root in directories.split(':').filter(|root| !root.is_empty()) {
        let escaped = host
            .rfind(':')
            .map(|at| format!("{}_{}_", &host[..at], &host[at + 1..]));
        let names = escaped.iter().map(String::as_str).chain([host, "_default"]);
        for name in names {
            let directory = Path::new(root).join(name);
            if directory.is_dir() {
                return load_directory(&directory, own);
            }
        }
    }
    Ok(vec![own])
}

fn load_directory(directory: &Path, own: HostConfig) -> Result<Vec<HostConfig>> {
    let file = directory.join("hosts.toml");
    match std::fs::read_to_string(&file) {
        Ok(text) if !text.trim().is_empty() => {
            parse(&text, directory, own).map_err(|error| error.context(file.display()))
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io(format!("read {}", file.display()), error))
        }
        _ => certificate_files(directory, own),
    }
}

/// Docker's layout: `*.crt` are trusted, `*.cert` with `*.key` are ours.
fn certificate_files(directory: &Path, mut own: HostConfig) -> Result<Vec<HostConfig>> {
    let failed = |error| Error::Io(format!("read {}", directory.display()), error);
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(failed)?;
    files.sort();
    for file in files {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => own.ca.push(file),
            Some("cert") => {
                let key = Some(file.with_extension("key")).filter(|key| key.exists());
                own.client.push((file, key));
            }
            _ => {}
        }
    }
    Ok(vec![own])
}

#[derive(Deserialize)]
struct HostsFile {
    #[serde(default)]
    server: String,
    #[serde(default)]
    host: BTreeMap<String, HostTable>,
    #[serde(flatten)]
    own: HostTable,
}

#[derive(Deserialize)]
struct HostTable {
    #[serde(default)]
    capabilities: Vec<String>,
    ca: Option<OneOrMany<PathBuf>>,
    client: Option<OneOrMany<ClientPair>>,
    skip_verify: Option<bool>,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany<String>>,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    // First, because two files are two certificates, not one with its key.
    Many(Vec<T>),
    One(T),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ClientPair {
    Whole(PathBuf),
    Pair(PathBuf, PathBuf),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// Reads a `hosts.toml` that lies in `directory`. The hosts come in the order of the file, and after them `server`, or `own` where
/// none is named.
fn parse(text: &str, directory: &Path, own: HostConfig) -> Result<Vec<HostConfig>> {
    let invalid = |error: toml::de::Error| Error::Invalid(error.to_string());
    let mut file: HostsFile = toml::from_str(text).map_err(invalid)?;
    let mut hosts = Vec::new();
    for name in order_of_hosts(text).map_err(invalid)? {
        if let Some(table) = file.host.remove(&name) {
            let host = host_of(&name, table, directory, None);
            hosts.push(host.map_err(|error| error.context(format!("host {name:?}")))?);
        }
    }
    hosts.push(host_of(&file.server, file.own, directory, Some(own))?);
    Ok(hosts)
}

/// The keys of the table `host`, as they come in the text: a map of them is sorted.
fn order_of_hosts(text: &str) -> Result<Vec<String>, toml::de::Error> {
    let root = DeTable::parse(text)?;
    let Some(hosts) = root.get_ref().get("host").and_then(|hosts| hosts.get_ref().as_table()) else {
        return Ok(Vec::new());
    };
    let mut names: Vec<_> = hosts
        .keys()
        .map(|key| (key.span().start, key.get_ref().to_string()))
        .collect();
    names.sort();
    Ok(names.into_iter().map(|(_, name)| name).collect())
}

fn host_of(server: &str, table: HostTable, directory: &Path, own: Option<HostConfig>) -> Result<HostConfig> {
    let tls = table.ca.is_some() || table.client.is_some() || table.skip_verify.is_some();
    let mut host = match own {
        Some(own) if server.is_empty() => HostConfig {
            skip_verify: table.skip_verify.unwrap_or(own.skip_verify && !tls),
            ..own
        },
        _ => HostConfig::named(server, table.override_path, table.skip_verify.unwrap_or(false))?,
    };
    if !table.capabilities.is_empty() && !server.is_empty() {
        host.capabilities = capabilities(&table.capabilities)?;
    }
    if tls && host.scheme == Scheme::Http && port_of(&host.authority) != Some("80") {
        host.scheme = Scheme::Either;
    }
    let absolute = |path: PathBuf| directory.join(path);
    host.ca = table
        .ca
        .map_or_else(Vec::new, OneOrMany::into_vec)
        .into_iter()
        .map(absolute)
        .collect();
    let pairs = table.client.map_or_else(Vec::new, OneOrMany::into_vec);
    host.client = pairs
        .into_iter()
        .map(|pair| match pair {
            ClientPair::Whole(file) => (absolute(file), None),
            ClientPair::Pair(certificate, key) => (absolute(certificate), Some(absolute(key))),
        })
        .collect();
    for (name, values) in table.header {
        let invalid = || Error::Invalid(format!("header {name:?} is not valid"));
        let key: HeaderName = name.parse().map_err(|_| invalid())?;
        for value in values.into_vec() {
            host.header
                .append(&key, HeaderValue::from_str(&value).map_err(|_| invalid())?);
        }
    }
    host.dial_timeout = match table.dial_timeout {
        Some(text) => Some(duration(&text).ok_or_else(|| {
            Error::Invalid(format!(
                "dial_timeout: {text:?} is no duration: it must read like 30s, 5m or 1m30s"
            ))
        })?),
        None => None,
    };
    Ok(host)
}

/// A duration as Go writes it, to the millisecond.
fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 4] = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..end].parse().ok()?;
        let (unit, seconds) = UNITS.iter().find(|(unit, _)| rest[end..].starts_with(unit))?;
        total += Duration::try_from_secs_f64(value * seconds).ok()?;
        rest = &rest[end + unit.len()..];
    }
    (!text.is_empty()).then_some(total)
}

fn capabilities(names: &[String]) -> Result<Capabilities> {
    let mut capabilities = Capabilities {
        pull: false,
        resolve: false,
        push: false,
    };
    for name in names {
        match name.to_lowercase().as_str() {
            "pull" => capabilities.pull = true,
            "resolve" => capabilities.resolve = true,
            "push" => capabilities.push = true,
            // The list of what refers to an image, which no transfer asks for.
            "referrers" => {}
            _ => {
                return Err(Error::Invalid(format!(
                    "the capability {name:?} is not known: there are pull, resolve and push"
                )));
            }
        }
    }
    Ok(capabilities)
}

fn port_of(host: &str) -> Option<&str> {
    host.rsplit_once(':')
        .map(|(_, port)| port)
        .filter(|port| !port.contains(']'))
}

/// Whether a registry is on this machine.
pub fn is_localhost(host: &str) -> bool {
    let name = port_of(host).map_or(host, |port| &host[..host.len() - port.len() - 1]);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
