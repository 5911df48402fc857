//! From a name to a descriptor, and from a descriptor to its bytes.

use super::host::{Call, Host, Stream, read_all};
use super::{Registry, unexpected};
use crate::content::store;
use crate::digest;
use crate::image::model::Descriptor;
use anyhow::{Context, Result, anyhow, bail, ensure};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

/// What we understand, and whatever else there is.
const ACCEPTED: HeaderValue = HeaderValue::from_static(
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*",
);

/// The header field in which a registry says the digest of what it sends.
pub(super) const CONTENT_DIGEST: &str = "docker-content-digest";

impl Registry {
    /// The descriptor of the image, from the first host that has it.
    pub async fn resolve(&self) -> Result<Descriptor> {
        let by_digest = self.place.digest.is_some();
        let hosts = self.able("resolve names", |can| can.resolve || (by_digest && can.pull))?;
        let object = self.place.digest.as_ref().or(self.place.tag.as_ref());
        let object = object.with_context(|| format!("{:?} has neither a tag nor a digest", self.name))?;
        let path = format!("{}/manifests/{object}", self.place.repository);
        let found = first(hosts, async |host| self.resolve_at(host, &path).await).await;
        found.with_context(|| format!("failed to resolve reference {:?}", self.name))
    }

    async fn resolve_at(&self, host: &Host, path: &str) -> Result<Descriptor> {
        let call = |method| Ok::<_, anyhow::Error>(Call::new(method, host.uri(path)?).header(ACCEPT, ACCEPTED));
        let (uri, head) = host.send(call(Method::HEAD)?).await?;
        if matches!(head.status(), StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED) {
            return Err(unexpected(&Method::HEAD, &uri, head.status(), &[]).into());
        }
        if head.status().is_success()
            && let Some(descriptor) = self.described(head.headers())?
        {
            return Ok(descriptor);
        }
        // A registry need not say everything in the head, and says why it refuses in a body only.
        let (_, answer) = host.ask(call(Method::GET)?).await?;
        let (parts, body) = answer.into_parts();
        let bytes = read_all(body, store::MAX_DOCUMENT as usize).await?;
        let found = store::sha256(&bytes);
        let digest = self.place.digest.clone().unwrap_or_else(|| found.clone());
        ensure!(
            digest == found || !digest.starts_with("sha256:"),
            "the registry sent {found} in the place of {digest}"
        );
        Ok(Descriptor {
            media_type: media_type(&parts.headers),
            digest,
            size: bytes.len() as i64,
            ..Descriptor::default()
        })
    }

    /// What the head of an answer says of a manifest, if it says it all.
    fn described(&self, headers: &HeaderMap) -> Result<Option<Descriptor>> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let said = text(CONTENT_DIGEST).map(digest::parse).transpose();
        let said = said.context("the registry says a digest that is none")?;
        if let (Some(wanted), Some(said)) = (self.place.digest.as_deref(), said) {
            ensure!(wanted == said, "the registry has {said} in the place of {wanted}");
        }
        let size = text(CONTENT_LENGTH.as_str()).and_then(|size| size.parse().ok());
        let found = self.place.digest.as_deref().or(said).zip(size.filter(|size| *size > 0));
        let media_type = media_type(headers);
        Ok(found
            .filter(|_| !media_type.is_empty())
            .map(|(digest, size)| Descriptor {
                media_type,
                digest: digest.to_owned(),
                size,
                ..Descriptor::default()
            }))
    }

    /// The bytes of a descriptor from `offset` on, from the first host that has them.
    pub async fn fetch(&self, descriptor: &Descriptor, offset: i64) -> Result<Stream> {
        let document = descriptor.is_manifest() || descriptor.is_index();
        let folder = if document { "manifests" } else { "blobs" };
        let accept = if descriptor.media_type.is_empty() {
            HeaderValue::from_static("*/*")
        } else {
            let wanted = format!("{}, */*", descriptor.media_type);
            HeaderValue::from_str(&wanted).context("the media type does not fit a header field")?
        };
        let path = format!("{}/{folder}/{}", self.place.repository, descriptor.digest);
        let hosts = self.able("be pulled from", |can| can.pull)?;
        let found = first(hosts, async |host| {
            let mut call = Call::new(Method::GET, host.uri(&path)?).header(ACCEPT, accept.clone());
            if offset > 0 {
                call = call.header(RANGE, HeaderValue::from_str(&format!("bytes={offset}-"))?);
            }
            let (_, answer) = host.ask(call).await?;
            if offset > 0 {
                let range = answer
                    .headers()
                    .get(CONTENT_RANGE)
                    .and_then(|range| range.to_str().ok());
                let begins = range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")));
                ensure!(
                    begins,
                    "{} cannot send a blob from its middle on",
                    host.config.authority
                );
            }
            Ok(Stream::new(answer.into_body()))
        });
        found
            .await
            .with_context(|| format!("failed to fetch {}", descriptor.digest))
    }

    /// The bytes of a digest of which nobody knows what it is: a blob, or else a manifest.
    pub async fn fetch_digest(&self, digest: &str, media_type: &str) -> Result<Stream> {
        let mut wanted = Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.to_owned(),
            ..Descriptor::default()
        };
        match self.fetch(&wanted, 0).await {
            Err(error) if media_type.is_empty() && crate::image::walk::is_not_found(&error) => {
                crate::image::model::OCI_MANIFEST.clone_into(&mut wanted.media_type);
                // The first answer says more when it is neither.
                self.fetch(&wanted, 0).await.map_err(|_| error)
            }
            done => done,
        }
    }
}

fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = value.unwrap_or_default().split(';').next().unwrap_or_default();
    kind.trim().to_owned()
}

/// The first success; of failures, the worst: that something is nowhere only if it is nowhere.
async fn first<'a, T>(hosts: Vec<&'a Host>, ask: impl AsyncFn(&'a Host) -> Result<T>) -> Result<T> {
    let mut worst: Option<anyhow::Error> = None;
    for host in hosts {
        match ask(host).await {
            Ok(found) => return Ok(found),
            Err(error) => {
                let replaces = worst.as_ref().is_none_or(crate::image::walk::is_not_found);
                if replaces {
                    worst = Some(error);
                }
            }
        }
    }
    match worst {
        Some(error) => Err(error),
        None => bail!(anyhow!("no host was asked")),
    }
}
