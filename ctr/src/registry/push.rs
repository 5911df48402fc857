//! From the content store to a registry. Only one host takes pushes: the first that may.

use super::Registry;
use super::fetch::CONTENT_DIGEST;
use super::host::{Body, Call, Payload, with_query};
use crate::image::model::Descriptor;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use form_urlencoded::Serializer;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

impl Registry {
    /// Pushes a blob, that `content` begins to read when the registry wants it; `false` when it had it.
    pub async fn push_blob(&self, blob: &Descriptor, content: impl AsyncFnOnce() -> Result<Body>) -> Result<bool> {
        let failed = || format!("failed to push {}", blob.digest);
        self.push_blob_to(blob, content).await.with_context(failed)
    }

    async fn push_blob_to(&self, blob: &Descriptor, content: impl AsyncFnOnce() -> Result<Body>) -> Result<bool> {
        let host = self.able("be pushed to", |can| can.push)?[0];
        let repository = &self.place.repository;
        let head = Call::new(Method::HEAD, host.uri(&format!("{repository}/blobs/{}", blob.digest))?);
        if self.present(head).await?.is_some() {
            return Ok(false);
        }
        let begin = Call::new(Method::POST, host.uri(&format!("{repository}/blobs/uploads/"))?);
        let (uri, answer) = host.ask(begin).await?;
        let location = answer.headers().get(LOCATION);
        let location = location.with_context(|| format!("{} does not say where to send it", host.config.authority))?;
        let uri = orlop_registry::location::follow(&uri, location)?;
        let query = Serializer::new(uri.query().unwrap_or_default().to_owned())
            .append_pair("digest", &blob.digest)
            .finish();
        let mut put = Call::new(Method::PUT, with_query(&uri, &query)?)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .header(CONTENT_LENGTH, HeaderValue::from(blob.size));
        put.payload = Payload::Once(content().await?);
        let (_, answer) = host.ask(put).await?;
        stored(answer.headers(), &blob.digest)?;
        Ok(true)
    }

    /// Pushes a manifest or an index, whose children must be there; under the image's tag if it is the `root`. `false` when
    /// the registry had it.
    pub async fn push_document(&self, document: &Descriptor, bytes: Vec<u8>, root: bool) -> Result<bool> {
        let failed = || format!("failed to push {}", document.digest);
        self.push_document_to(document, bytes, root).await.with_context(failed)
    }

    async fn push_document_to(&self, document: &Descriptor, bytes: Vec<u8>, root: bool) -> Result<bool> {
        let host = self.able("be pushed to", |can| can.push)?[0];
        let tag = self
            .place
            .tag
            .as_deref()
            .filter(|_| root && self.place.digest.is_none());
        let object = tag.unwrap_or(&document.digest);
        let uri = host.uri(&format!("{}/manifests/{object}", self.place.repository))?;
        let kind = HeaderValue::from_str(&document.media_type).context("the media type does not fit a header field")?;
        let head = Call::new(Method::HEAD, uri.clone()).header(ACCEPT, kind.clone());
        if let Some(headers) = self.present(head).await?
            && headers
                .get(CONTENT_DIGEST)
                .is_some_and(|found| found.as_bytes() == document.digest.as_bytes())
        {
            return Ok(false);
        }
        let mut put = Call::new(Method::PUT, uri).header(CONTENT_TYPE, kind);
        put.payload = Payload::Bytes(Bytes::from(bytes));
        let (_, answer) = host.ask(put).await?;
        stored(answer.headers(), &document.digest)?;
        Ok(true)
    }

    /// The head of what is there.
    async fn present(&self, head: Call) -> Result<Option<HeaderMap>> {
        let host = self.able("be pushed to", |can| can.push)?[0];
        let (uri, answer) = host.send(head).await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(answer.into_parts().0.headers)),
            status => Err(super::unexpected(&Method::HEAD, &uri, status, &[]).into()),
        }
    }
}

/// Fails when the registry says that it has something else.
fn stored(headers: &HeaderMap, digest: &str) -> Result<()> {
    let said = headers.get(CONTENT_DIGEST).and_then(|said| said.to_str().ok());
    ensure!(
        said.is_none_or(|said| said == digest),
        "the registry stored {} in its place",
        said.unwrap_or_default()
    );
    Ok(())
}
