//! From the content store to a registry. Only one host takes pushes: the first that may.

use std::sync::Arc;

use bytes::Bytes;
use form_urlencoded::Serializer;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use orlop_plugin::contract::{Code, Digest};
use orlop_plugin::{Error, Result};
use tokio::time::sleep;

use super::chunks::{Stopped, Upload};
use super::host::{Answer, Payload, RegistryHost, Target};
use super::reference::mount_candidate;
use super::referrers::SUBJECT;
use super::resolve::CONTENT_DIGEST;
use super::status::{is_worth_a_retry, unexpected};
use super::{Call, Registry};
use crate::content::Content;
use crate::oci::Descriptor;

pub(super) const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// How a blob came to be in a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was sent.
    Now,
    /// It was there, in this repository or in another from which it was mounted.
    Before,
}

// === impl Registry ===

impl Registry {
    /// Pushes a blob of `content`; `on_sent` is told of every piece that is on its way.
    pub async fn push_blob(
        &self,
        content: &Content,
        descriptor: &Descriptor,
        on_sent: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<Pushed> {
        let doing = |error: Error| error.context(format!("push {} to {}", descriptor.digest, self.reference.host));
        let host = self.push_host()?;
        let scopes = [self.reference.scope(true)];
        let path = format!("blobs/{}", descriptor.digest);
        let head = self.call(host, Method::HEAD, &path, &scopes);
        if self.is_there(host, &head).await.map_err(doing)?.is_some() {
            return Ok(Pushed::Before);
        }
        let sources = content.check(descriptor).await.map_err(doing)?.labels;
        let sources = sources.get(&self.reference.source_label()).map_or("", String::as_str);
        let mut from = mount_candidate(sources, &self.reference.repository);
        let mut tries = 0;
        let mut pause = self.patience.backoff;
        let mut whole = false;
        loop {
            let Some(upload) = self.begin_upload(host, descriptor, from.take()).await.map_err(doing)? else {
                return Ok(Pushed::Before);
            };
            let chunk = upload.chunk(descriptor.size, self.network.chunks).filter(|_| !whole);
            let sent = if let Some(chunk) = chunk {
                match self
                    .send_chunks(host, content, descriptor, upload.location, chunk, &on_sent)
                    .await
                {
                    Err(Stopped::NoChunks) => {
                        whole = true;
                        continue;
                    }
                    Err(Stopped::Failed(error)) => Err(error),
                    Ok(answer) => Ok(answer),
                }
            } else {
                let mut put = self.call(host, Method::PUT, "", &scopes);
                put.target = Target::Absolute(with_digest(&upload.location, &descriptor.digest).map_err(doing)?);
                put.payload = Payload::Blob {
                    content: content.clone(),
                    digest: descriptor.digest.clone(),
                    offset: 0,
                    size: descriptor.size,
                    on_sent: on_sent.clone(),
                };
                put.headers.insert(CONTENT_TYPE, OCTETS);
                self.exchange(host, &put, false).await
            };
            // An upload that broke is begun anew, as its session may have seen a part of it.
            let error = match sent {
                Ok(answer) if tries < self.patience.retries && is_worth_a_retry(&answer.response) => {
                    unexpected(&host.transport, answer.response).await
                }
                Ok(answer) => return self.stored(host, answer, &descriptor.digest).await.map_err(doing),
                Err(error)
                    if tries < self.patience.retries
                        && matches!(error.code, Code::Unavailable | Code::DeadlineExceeded) =>
                {
                    error
                }
                Err(error) => return Err(doing(error)),
            };
            tracing::debug!(digest = %descriptor.digest, %error, "an upload broke off and is begun anew");
            sleep(pause).await;
            (tries, pause) = (tries + 1, pause * 2);
        }
    }

    /// Pushes a manifest or an index, whose children must be there; under the image's tag if it is the `root`.
    pub async fn push_document(&self, descriptor: &Descriptor, bytes: Vec<u8>, root: bool) -> Result<Pushed> {
        let doing = |error: Error| error.context(format!("push {} to {}", descriptor.digest, self.reference.host));
        let host = self.push_host()?;
        let scopes = [self.reference.scope(true)];
        let tag = self.reference.tag.as_deref().filter(|_| root);
        let path = format!("manifests/{}", tag.unwrap_or(descriptor.digest.as_str()));
        let kind = HeaderValue::from_str(&descriptor.media_type).map_err(super::malformed)?;
        let mut call = self.call(host, Method::HEAD, &path, &scopes);
        call.headers.insert(ACCEPT, kind.clone());
        if let Some(there) = self.is_there(host, &call).await.map_err(doing)?
            && (tag.is_none() || digest_in(&there) == Some(descriptor.digest.as_str()))
        {
            return Ok(Pushed::Before);
        }
        call.method = Method::PUT;
        call.headers.remove(ACCEPT);
        call.headers.insert(CONTENT_TYPE, kind);
        let bytes = Bytes::from(bytes);
        call.payload = Payload::Bytes(bytes.clone());
        let answer = self.exchange(host, &call, true).await.map_err(doing)?;
        let noted = answer.response.headers().contains_key(SUBJECT);
        let pushed = self.stored(host, answer, &descriptor.digest).await.map_err(doing)?;
        if !noted {
            let listed = self.refer(host, descriptor, &bytes).await;
            listed.map_err(|error| doing(error.context("list it among the referrers of its subject")))?;
        }
        Ok(pushed)
    }

    fn push_host(&self) -> Result<&RegistryHost> {
        let hosts = self.hosts_for("be pushed to", |can| can.push)?;
        Ok(hosts[0].0)
    }

    /// The head of what is there; `None` for what is not.
    async fn is_there(&self, host: &RegistryHost, head: &Call<'_>) -> Result<Option<HeaderMap>> {
        let answer = self.exchange(host, head, true).await?;
        match answer.response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(answer.response.into_parts().0.headers)),
            _ => Err(unexpected(&host.transport, answer.response).await),
        }
    }

    /// Where to send a blob; `None` when the registry has it, mounted from the repository `from`.
    async fn begin_upload(&self, host: &RegistryHost, blob: &Descriptor, from: Option<&str>) -> Result<Option<Upload>> {
        let mut scopes = vec![self.reference.scope(true)];
        let mut mounted = None;
        if let Some(from) = from {
            let query = Serializer::new(String::new())
                .append_pair("mount", blob.digest.as_str())
                .append_pair("from", from)
                .finish();
            scopes.push(format!("repository:{from}:pull"));
            let call = self.call(host, Method::POST, &format!("blobs/uploads/?{query}"), &scopes);
            // That repository may be none of ours: then the blob is sent.
            match self.exchange(host, &call, true).await {
                Ok(answer) if answer.response.status().is_success() => mounted = Some(answer),
                Ok(answer) => {
                    tracing::debug!(from, status = %answer.response.status(), "a blob is not mounted but sent");
                }
                Err(error) => tracing::debug!(from, %error, "a blob is not mounted but sent"),
            }
        }
        let answer = if let Some(answer) = mounted {
            answer
        } else {
            let call = self.call(host, Method::POST, "blobs/uploads/", &scopes[..1]);
            self.exchange(host, &call, true).await?
        };
        match answer.response.status() {
            StatusCode::CREATED => return Ok(None),
            status if status.is_success() => {}
            _ => return Err(unexpected(&host.transport, answer.response).await),
        }
        Upload::of(&answer, host).map(Some)
    }

    /// Whether the answer to a PUT says that `digest` is stored.
    async fn stored(&self, host: &RegistryHost, answer: Answer, digest: &Digest) -> Result<Pushed> {
        if !answer.response.status().is_success() {
            return Err(unexpected(&host.transport, answer.response).await);
        }
        match digest_in(answer.response.headers()) {
            Some(said) if said != digest.as_str() => Err(Error::failed_precondition(format!(
                "{} has stored {said} in its place",
                host.config.authority
            ))),
            _ => Ok(Pushed::Now),
        }
    }
}

/// Where an upload is ended, of a blob that is `digest`.
pub(super) fn with_digest(location: &Uri, digest: &Digest) -> Result<Uri> {
    let query = Serializer::new(location.query().unwrap_or_default().to_owned())
        .append_pair("digest", digest.as_str())
        .finish();
    super::with_query(location, &query)
}

fn digest_in(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_DIGEST).and_then(|value| value.to_str().ok())
}
