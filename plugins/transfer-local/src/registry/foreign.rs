//! Foreign layers: their licence forbids registries to have them, and their descriptor says where else they are.

use http::header::RANGE;
use http::uri::Scheme as UriScheme;
use http::{HeaderMap, Method, Uri};
use hyper::body::Incoming;
use orlop_plugin::{Error, Result, blocking};

use super::fetch::{begin_at, range_from};
use super::host::{Call, Payload, RegistryHost, Target};
use super::hosts::{HostConfig, Scheme};
use super::status::unexpected;
use super::{Registry, malformed};
use crate::oci::{Descriptor, media_type};

// === impl Registry ===

impl Registry {
    /// The bytes of a foreign layer from `offset` on, or from an earlier one, from the first of its URLs that has it; the failures go to
    /// `failures`. `None` when it is no foreign layer or nowhere.
    ///
    /// An image's author chooses the URLs: they are asked without credentials, client certificates and header fields of anybody
    /// (CVE-2020-15157).
    pub(super) async fn download_elsewhere(
        &self,
        descriptor: &Descriptor,
        offset: u64,
        failures: &mut Vec<Error>,
    ) -> Option<(RegistryHost, Incoming, u64)> {
        if !media_type::is_non_distributable(&descriptor.media_type) {
            return None;
        }
        for url in &descriptor.urls {
            match self.download_at(url, offset).await {
                Ok(found) => return Some(found),
                Err(error) => failures.push(error.context(format!("the foreign layer's {url}"))),
            }
        }
        None
    }

    async fn download_at(&self, url: &str, offset: u64) -> Result<(RegistryHost, Incoming, u64)> {
        let uri: Uri = url.parse().map_err(malformed)?;
        let scheme = match uri.scheme() {
            Some(scheme) if *scheme == UriScheme::HTTP => Scheme::Http,
            Some(scheme) if *scheme == UriScheme::HTTPS => Scheme::Https,
            _ => return Err(Error::invalid_argument("only http and https are followed")),
        };
        let authority = uri
            .authority()
            .ok_or_else(|| Error::invalid_argument("it names no host"))?;
        let (config, network) = (HostConfig::open(scheme, authority.as_str()), self.network.clone());
        let host = blocking(move || RegistryHost::new(config, &network, false)).await?;
        let mut headers = HeaderMap::new();
        if offset > 0 {
            headers.insert(RANGE, range_from(offset)?);
        }
        let call = Call {
            method: Method::GET,
            target: Target::Absolute(uri),
            headers,
            payload: Payload::Empty,
            scopes: &[],
        };
        let answer = host.exchange_openly(&call).await?;
        if !answer.response.status().is_success() {
            return Err(unexpected(&host.transport, answer.response).await);
        }
        let at = begin_at(&answer.response, offset)?;
        Ok((host, answer.response.into_body(), at))
    }
}
