//! From a name to a descriptor.

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use orlop_plugin::contract::Digest;
use orlop_plugin::{Error, Result};
use serde::Deserialize;

use super::host::RegistryHost;
use super::status::unexpected;
use super::{Call, Registry};
use crate::oci::{Descriptor, MAX_DOCUMENT, digest_of, media_type};

/// What we understand, and whatever else there is.
pub(super) const ACCEPTED: HeaderValue = HeaderValue::from_static(
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*",
);

/// The header field in which a registry says the digest of what it sends.
pub(super) const CONTENT_DIGEST: &str = "docker-content-digest";

/// What a manifest says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    #[serde(default)]
    media_type: String,
}

// === impl Registry ===

impl Registry {
    /// The descriptor of the image, from the first host that has it. `NotFound` when none has.
    pub async fn resolve(&self) -> Result<Descriptor> {
        let by_digest = self.reference.digest.is_some();
        let hosts = self.hosts_for("resolve names", |can| can.resolve || (by_digest && can.pull))?;
        let mut failures: Vec<Error> = Vec::new();
        for (host, last) in hosts {
            match self.resolve_at(host, last).await {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => {
                    let error = error.context(format!("{} at {}", self.reference.full, host.config.authority));
                    tracing::debug!(%error, "a host did not resolve an image");
                    failures.push(error);
                }
            }
        }
        Err(worst(failures).context("resolve"))
    }

    async fn resolve_at(&self, host: &RegistryHost, last: bool) -> Result<Descriptor> {
        let scopes = [self.reference.scope(false)];
        let path = format!("manifests/{}", self.reference.object());
        let mut call = self.call(host, Method::HEAD, &path, &scopes);
        call.headers.insert(ACCEPT, ACCEPTED);
        let answer = self.exchange(host, &call, last).await?;
        let status = answer.response.status();
        if status.is_success() {
            if let Some(descriptor) = self.described(answer.response.headers())? {
                return Ok(descriptor);
            }
        } else if matches!(status, StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED) {
            return Err(unexpected(&host.transport, answer.response).await);
        }
        // A registry need not say everything in the head, and says why it refuses in a body only.
        call.method = Method::GET;
        self.resolve_whole(host, &call, last).await
    }

    /// What the head of an answer says of a manifest, if it says it all.
    fn described(&self, headers: &HeaderMap) -> Result<Option<Descriptor>> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let said = match text(CONTENT_DIGEST) {
            Some(digest) => Some(Digest::new(digest).map_err(|error| {
                Error::failed_precondition(format!("the registry says a digest that is none: {error}"))
            })?),
            None => None,
        };
        if let (Some(wanted), Some(said)) = (&self.reference.digest, &said)
            && wanted.algorithm() == said.algorithm()
            && wanted != said
        {
            return Err(Error::failed_precondition(format!(
                "the registry has {said} in the place of {wanted}"
            )));
        }
        let kind = kind_of(headers);
        let size = text(CONTENT_LENGTH.as_str())
            .and_then(|length| length.parse().ok())
            .filter(|size| *size > 0);
        Ok(match (self.reference.digest.clone().or(said), size) {
            (Some(digest), Some(size)) if is_document(&kind) => Some(Descriptor::new(&kind, digest, size)),
            _ => None,
        })
    }

    async fn resolve_whole(&self, host: &RegistryHost, call: &Call<'_>, last: bool) -> Result<Descriptor> {
        let answer = self.exchange(host, call, last).await?;
        if !answer.response.status().is_success() {
            return Err(unexpected(&host.transport, answer.response).await);
        }
        let (head, body) = answer.response.into_parts();
        let bytes = host.transport.read_all(body, MAX_DOCUMENT).await?;
        let digest = match &self.reference.digest {
            // Of another algorithm: verified when it is stored.
            Some(wanted) if wanted.algorithm() != "sha256" => wanted.clone(),
            wanted => {
                let found = digest_of(&bytes);
                if let Some(wanted) = wanted.as_ref().filter(|wanted| **wanted != found) {
                    return Err(Error::failed_precondition(format!(
                        "the registry sent {found} in the place of {wanted}"
                    )));
                }
                found
            }
        };
        let mut kind = kind_of(&head.headers);
        if !is_document(&kind) {
            kind = serde_json::from_slice::<Typed>(&bytes).map_or(kind, |typed| typed.media_type);
        }
        if !is_document(&kind) {
            return Err(Error::invalid_argument(format!(
                "it is neither a manifest nor an index but {kind:?}: Docker's schema 1 and other old formats are not supported"
            )));
        }
        Ok(Descriptor::new(&kind, digest, bytes.len() as u64))
    }
}

/// Of the failures of several hosts, what to report: that an image is nowhere only if it is nowhere.
pub(super) fn worst(failures: Vec<Error>) -> Error {
    let mut failures = failures.into_iter();
    let Some(mut worst) = failures.next() else {
        return Error::internal("no host was asked");
    };
    for failure in failures {
        let message = format!("{}; {}", worst.message, failure.message);
        if worst.is_not_found() {
            worst = failure;
        }
        worst.message = message;
    }
    worst
}

fn kind_of(headers: &HeaderMap) -> String {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_owned()
}

fn is_document(kind: &str) -> bool {
    media_type::is_manifest(kind) || media_type::is_index(kind)
}
