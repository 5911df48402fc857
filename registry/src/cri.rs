//! Registries as CRI's configuration describes them: the tables `registry.mirrors`, `registry.configs` and `registry.auths` of containerd 1.x,
//! `registry.headers`, and `registry.config_path`, which leads to [`hosts`](crate::hosts). Specified by containerd's `docs/cri/registry.md` and
//! `internal/cri/server/images/image_pull.go`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, Uri};
use serde::Deserialize;

use crate::hosts::{self, Capabilities, HostConfig};
use crate::{Error, Result};

/// The table `registry` of CRI's image service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Registry {
    /// Directories of `hosts.toml` files, separated by colons. It excludes `mirrors` and `configs.*.tls`.
    pub config_path: String,
    /// Mirrors by registry; `*` for all others.
    pub mirrors: BTreeMap<String, Mirror>,
    /// What is special about hosts, by host and port.
    pub configs: BTreeMap<String, Config>,
    /// Credentials by URL: the older way to say `configs.HOST.auth`.
    pub auths: BTreeMap<String, Auth>,
    /// Header fields for every host.
    pub headers: BTreeMap<String, Vec<String>>,
}

/// `registry.mirrors.REGISTRY`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Mirror {
    /// URLs, in the order in which to ask them.
    pub endpoint: Vec<String>,
}

/// `registry.configs.HOST`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Who we are there.
    pub auth: Option<Auth>,
    /// Whom to trust there.
    pub tls: Option<Tls>,
}

/// `registry.configs.HOST.tls`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// Whether any certificate will do.
    pub insecure_skip_verify: bool,
    /// A PEM file with certificates to trust.
    pub ca_file: PathBuf,
    /// Our certificate.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// Credentials, said in one of three ways. The first that is there counts.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct Auth {
    /// A name, with a password.
    pub username: String,
    /// The password of `username`.
    pub password: String,
    /// A token that tokens are got with.
    pub identitytoken: String,
    /// `NAME:PASSWORD` in base64, as Docker's configuration has it.
    pub auth: String,
}

/// What proves who we are.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name; empty where `secret` is a token to get tokens with.
    pub username: String,
    /// The password or the token.
    pub secret: String,
}

// === impl Registry ===

impl Registry {
    /// Whether its parts go together. `Invalid` says which do not.
    pub fn validate(&self) -> Result<()> {
        if self.config_path.is_empty() {
            return Ok(());
        }
        if !self.mirrors.is_empty() {
            return Err(Error::Invalid(
                "registry.mirrors and registry.config_path are both set: say the mirrors in a hosts.toml".to_owned(),
            ));
        }
        match self.configs.iter().find(|(_, config)| config.tls.is_some()) {
            Some((host, _)) => Err(Error::Invalid(format!(
                "registry.configs.{host:?}.tls and registry.config_path are both set: say the certificates in a hosts.toml"
            ))),
            None => Ok(()),
        }
    }

    /// The hosts for the registry `host`, in the order in which to ask them. Blocks: it may read files.
    pub fn hosts(&self, host: &str) -> Result<Vec<HostConfig>> {
        self.validate()?;
        let mut found = if self.config_path.is_empty() {
            self.endpoints(host)?
        } else {
            hosts::load(host, &self.config_path, "")?
        };
        for (name, values) in &self.headers {
            let invalid = || Error::Invalid(format!("registry.headers: {name:?} is not valid"));
            let key: HeaderName = name.parse().map_err(|_| invalid())?;
            for value in values {
                let value = HeaderValue::from_str(value).map_err(|_| invalid())?;
                for host in &mut found {
                    host.header.append(&key, value.clone());
                }
            }
        }
        Ok(found)
    }

    /// The mirrors, and the registry itself at the end unless it is among them.
    fn endpoints(&self, host: &str) -> Result<Vec<HostConfig>> {
        let mirror = self.mirrors.get(host).or_else(|| self.mirrors.get("*"));
        let mut found = Vec::new();
        for endpoint in mirror.into_iter().flat_map(|mirror| &mirror.endpoint) {
            let url = if endpoint.contains("://") {
                endpoint.clone()
            } else {
                let name = endpoint.split('/').next().unwrap_or_default();
                let scheme = if hosts::is_localhost(name) { "http" } else { "https" };
                format!("{scheme}://{endpoint}")
            };
            let named = HostConfig::named(&url, true, false);
            let mut named = named.map_err(|error| error.context(format!("registry.mirrors.{host:?}")))?;
            if named.path.is_empty() {
                "/v2".clone_into(&mut named.path);
            }
            found.push(named);
        }
        let own = HostConfig::of_name(host, "")?;
        if !found
            .iter()
            .any(|mirror| [host, &own.authority].contains(&mirror.authority.as_str()))
        {
            found.push(own);
        }
        for host in &mut found {
            host.capabilities = Capabilities {
                pull: true,
                resolve: true,
                push: false,
            };
            if let Some(tls) = self.configs.get(&host.authority).and_then(|config| config.tls.as_ref()) {
                tls.apply(host)?;
            }
        }
        Ok(found)
    }

    /// Who we are at the host `authority`, where a pull does not say it itself.
    pub fn credentials(&self, authority: &str) -> Result<Option<Credentials>> {
        let of_url = || {
            let mut auths = self.auths.iter();
            auths.find_map(|(url, auth)| {
                let uri: Uri = url.parse().ok()?;
                (uri.authority()?.as_str() == authority).then_some(auth)
            })
        };
        let auth = of_url().or_else(|| self.configs.get(authority)?.auth.as_ref());
        let credentials = auth.map(Auth::credentials).transpose();
        let credentials = credentials.map_err(|error| error.context(format!("the credentials for {authority}")))?;
        Ok(credentials.flatten())
    }
}

// === impl Tls ===

impl Tls {
    fn apply(&self, host: &mut HostConfig) -> Result<()> {
        let set = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
        host.skip_verify |= self.insecure_skip_verify;
        host.ca.extend(set(&self.ca_file));
        match (set(&self.cert_file), set(&self.key_file)) {
            (Some(certificate), Some(key)) => host.client.push((certificate, Some(key))),
            (None, None) => {}
            _ => {
                return Err(Error::Invalid(format!(
                    "registry.configs.{:?}.tls: cert_file and key_file belong together",
                    host.authority
                )));
            }
        }
        Ok(())
    }
}

// === impl Auth ===

impl Auth {
    /// What it says; `None` when it says nothing.
    pub fn credentials(&self) -> Result<Option<Credentials>> {
        let credentials = |username: &str, secret: &str| {
            Some(Credentials {
                username: username.to_owned(),
                secret: secret.to_owned(),
            })
        };
        if !self.username.is_empty() {
            return Ok(credentials(&self.username, &self.password));
        }
        if !self.identitytoken.is_empty() {
            return Ok(credentials("", &self.identitytoken));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        // What it is must not be told to the log.
        let invalid = || Error::Invalid("auth is not NAME:PASSWORD in base64".to_owned());
        let decoded = STANDARD.decode(self.auth.trim()).map_err(|_| invalid())?;
        let text = String::from_utf8(decoded).map_err(|_| invalid())?;
        let (name, password) = text.split_once(':').ok_or_else(invalid)?;
        // Docker pads with NULs.
        Ok(credentials(name, password.trim_matches('\0')))
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::Scheme;

    const TABLES: &str = r#"
        [mirrors."docker.io"]
        endpoint = ["https://mirror.example:5000/hub/v2/", "localhost:5001", "https://registry-1.docker.io"]
        [mirrors."own.example"]
        endpoint = ["http://own.example"]
        [mirrors."*"]
        endpoint = ["https://catch-all.example"]
        [configs."mirror.example:5000".tls]
        ca_file = "/ca.pem"
        cert_file = "/cert.pem"
        key_file = "/key.pem"
        [configs."catch-all.example".tls]
        insecure_skip_verify = true
        [configs."mirror.example:5000".auth]
        username = "me"
        password = "secret"
        [configs."token.example".auth]
        identitytoken = "token"
        [auths."https://docker.example:443/v1/"]
        auth = "bmFtZTpwYXNzOndvcmQ="
        [headers]
        X-Meta-Source = ["a", "b"]
    "#;

    fn tables() -> Registry {
        toml::from_str(TABLES).unwrap()
    }

    fn urls(hosts: &[HostConfig]) -> Vec<String> {
        let url = |host: &HostConfig| format!("{:?} {}{}", host.scheme, host.authority, host.path);
        hosts.iter().map(url).collect()
    }

    #[test]
    fn mirrors_come_first_and_the_registry_itself_last() {
        let hosts = tables().hosts("docker.io").unwrap();
        assert_eq!(
            urls(&hosts),
            [
                "Https mirror.example:5000/hub/v2",
                "Http localhost:5001/v2",
                "Https registry-1.docker.io/v2",
            ]
        );
        assert!(
            hosts
                .iter()
                .all(|host| !host.capabilities.push && host.capabilities.resolve)
        );
        assert_eq!(hosts[0].ca, [PathBuf::from("/ca.pem")]);
        assert_eq!(hosts[0].client, [("/cert.pem".into(), Some("/key.pem".into()))]);
        assert!(hosts[1].ca.is_empty() && !hosts[1].skip_verify);
        let values: Vec<_> = hosts[2].header.get_all("x-meta-source").iter().collect();
        assert_eq!(values, ["a", "b"]);

        assert_eq!(urls(&tables().hosts("own.example").unwrap()), ["Http own.example/v2"]);
        let others = tables().hosts("other.example").unwrap();
        assert_eq!(urls(&others), ["Https catch-all.example/v2", "Https other.example/v2"]);
        assert!(others[0].skip_verify && !others[1].skip_verify);
        let plain = Registry::default().hosts("other.example").unwrap();
        assert_eq!((plain.len(), plain[0].scheme), (1, Scheme::Https));
    }

    #[test]
    fn credentials_are_found_by_host() {
        let of = |authority: &str| {
            let found = tables().credentials(authority).unwrap();
            found.map(|credentials| (credentials.username, credentials.secret))
        };
        let pair = |name: &str, secret: &str| Some((name.to_owned(), secret.to_owned()));
        assert_eq!(of("mirror.example:5000"), pair("me", "secret"));
        assert_eq!(of("token.example"), pair("", "token"));
        assert_eq!(of("docker.example:443"), pair("name", "pass:word"));
        assert_eq!(of("mirror.example"), None);
        for odd in ["not base64", "bm9jb2xvbg=="] {
            let auth = Auth {
                auth: odd.to_owned(),
                ..Auth::default()
            };
            let error = auth.credentials().unwrap_err().to_string();
            assert!(!error.contains(odd), "{error}");
        }
        assert!(!format!("{:?}", tables()).contains("secret"));
    }

    #[test]
    fn a_config_path_excludes_the_tables() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("own.example");
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("hosts.toml"), "[host.\"https://mirror.example\"]").unwrap();
        let mut registry = Registry {
            config_path: directory.path().display().to_string(),
            ..Registry::default()
        };
        let hosts = registry.hosts("own.example").unwrap();
        assert_eq!(urls(&hosts), ["Https mirror.example/v2", "Https own.example/v2"]);
        registry.configs = tables().configs;
        assert!(registry.hosts("own.example").unwrap_err().to_string().contains("tls"));
        registry.mirrors = tables().mirrors;
        assert!(
            registry
                .validate()
                .unwrap_err()
                .to_string()
                .contains("registry.mirrors")
        );
    }

    #[test]
    fn what_makes_no_host_is_refused() {
        let with = |text: &str| {
            toml::from_str::<Registry>(text)
                .unwrap()
                .hosts("own.example")
                .unwrap_err()
                .to_string()
        };
        assert!(with("[mirrors.'own.example']\nendpoint = ['ftp://x']").contains("ftp"));
        assert!(with("[configs.'own.example'.tls]\ncert_file = '/c'").contains("belong together"));
        assert!(with("[headers]\n'a b' = ['x']").contains("a b"));
    }
}
