//! Large blobs in pieces (OCI distribution-spec, "pushing a blob in chunks"): what breaks off goes on where the registry says it is.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use orlop_plugin::contract::Code;
use orlop_plugin::{Error, Result};
use tokio::time::sleep;

use super::Registry;
use super::host::{Answer, Payload, RegistryHost, Target};
use super::location::follow;
use super::push::{OCTETS, with_digest};
use super::status::{is_worth_a_retry, unexpected};
use crate::content::Content;
use crate::oci::Descriptor;

/// Which blobs are sent in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Chunks {
    /// Those that are so large: what many registries do not take at all is not worth it for less.
    pub from: u64,
    /// The size of a piece, where the registry does not want larger ones.
    pub size: u64,
}

impl Default for Chunks {
    fn default() -> Self {
        Self {
            from: 256 << 20,
            size: 64 << 20,
        }
    }
}

/// The header field in which a registry says how small a piece may be.
const MIN_LENGTH: &str = "oci-chunk-min-length";

/// An upload that was begun.
pub(super) struct Upload {
    /// Where its bytes go.
    pub(super) location: Uri,
    /// The smallest piece the registry takes, where it says that it takes any.
    min_length: Option<u64>,
}

// === impl Upload ===

impl Upload {
    /// The upload that `answer`, to a request to begin one, speaks of.
    pub(super) fn of(answer: &Answer, host: &RegistryHost) -> Result<Self> {
        let headers = answer.response.headers();
        let location = headers.get(LOCATION).ok_or_else(|| {
            Error::failed_precondition(format!("{} does not say where to send a blob", host.config.authority))
        })?;
        let min_length = headers
            .get(MIN_LENGTH)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Ok(Self {
            location: follow(&answer.uri, location)?,
            min_length,
        })
    }

    /// How large the pieces are in which to send a blob of `size` bytes; `None` to send it whole.
    pub(super) fn chunk(&self, size: u64, chunks: Chunks) -> Option<u64> {
        match self.min_length {
            Some(least) => {
                let chunk = least.max(chunks.size);
                (size > chunk).then_some(chunk)
            }
            None => (size >= chunks.from).then_some(chunks.size),
        }
    }
}

/// Why pieces did not lead to the end.
pub(super) enum Stopped {
    /// The registry takes none.
    NoChunks,
    /// Another upload may do better, or not, as the code says.
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

// === impl Registry ===

impl Registry {
    /// Sends a blob to `location` in pieces of `chunk` bytes; the answer is that to the request which ends the upload.
    pub(super) async fn send_chunks(
        &self,
        host: &RegistryHost,
        content: &Content,
        blob: &Descriptor,
        mut location: Uri,
        chunk: u64,
        on_sent: &Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<Answer, Stopped> {
        let scopes = [self.reference.scope(true)];
        let (mut offset, mut fruitless, mut pause) = (0, 0, self.patience.backoff);
        while offset < blob.size {
            let end = blob.size.min(offset + chunk);
            let mut patch = self.call(host, Method::PATCH, "", &scopes);
            patch.target = Target::Absolute(location.clone());
            patch.headers.insert(CONTENT_TYPE, OCTETS);
            let range = HeaderValue::from_str(&format!("{offset}-{}", end - 1)).map_err(super::malformed)?;
            patch.headers.insert(CONTENT_RANGE, range);
            patch.payload = Payload::Blob {
                content: content.clone(),
                digest: blob.digest.clone(),
                offset,
                size: end - offset,
                on_sent: on_sent.clone(),
            };
            let error = match self.exchange(host, &patch, false).await {
                Ok(answer) if answer.response.status().is_success() => {
                    location = next(&answer, location)?;
                    // It may have kept less than it got.
                    let kept = end_of(answer.response.headers()).unwrap_or(end);
                    if kept <= offset || kept > end {
                        return Err(wrong_end(host, kept, offset, end).into());
                    }
                    (offset, fruitless, pause) = (kept, 0, self.patience.backoff);
                    continue;
                }
                Ok(answer) if offset == 0 && refuses_chunks(answer.response.status()) => return Err(Stopped::NoChunks),
                Ok(answer) => {
                    let transient = is_worth_a_retry(&answer.response)
                        || answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE;
                    let error = unexpected(&host.transport, answer.response).await;
                    if !transient {
                        return Err(error.into());
                    }
                    error
                }
                Err(error) if matches!(error.code, Code::Unavailable | Code::DeadlineExceeded) => error,
                Err(error) => return Err(error.into()),
            };
            if fruitless == self.patience.retries {
                return Err(error.into());
            }
            tracing::debug!(digest = %blob.digest, offset, %error, "an upload broke off and is resumed");
            sleep(pause).await;
            // Without it nobody knows what of the piece has come.
            let Some((at, there)) = self.progress_of(host, &scopes, location).await? else {
                return Err(Error::unavailable(format!("{error}; and the upload is gone")).into());
            };
            if there > end {
                return Err(wrong_end(host, there, offset, end).into());
            }
            (fruitless, pause) = if there > offset {
                (0, self.patience.backoff)
            } else {
                (fruitless + 1, pause * 2)
            };
            (location, offset) = (at, there);
        }
        let mut put = self.call(host, Method::PUT, "", &scopes);
        put.target = Target::Absolute(with_digest(&location, &blob.digest)?);
        put.headers.insert(CONTENT_TYPE, OCTETS);
        put.payload = Payload::Bytes(Bytes::new());
        Ok(self.exchange(host, &put, true).await?)
    }

    /// Where to go on with an upload, and how much of it is there; `None` when there is no such upload any more.
    async fn progress_of(&self, host: &RegistryHost, scopes: &[String], location: Uri) -> Result<Option<(Uri, u64)>> {
        let mut get = self.call(host, Method::GET, "", scopes);
        get.target = Target::Absolute(location.clone());
        let answer = self.exchange(host, &get, true).await?;
        if !answer.response.status().is_success() {
            return Ok(None);
        }
        let there = end_of(answer.response.headers()).unwrap_or(0);
        Ok(Some((next(&answer, location)?, there)))
    }
}

/// Where an answer says to go on; where it does not say, the place stays.
fn next(answer: &Answer, before: Uri) -> Result<Uri> {
    match answer.response.headers().get(LOCATION) {
        Some(location) => Ok(follow(&answer.uri, location)?),
        None => Ok(before),
    }
}

/// How many bytes an upload has: `Range: 0-1023`. Nothing is `0-0`, as registries say it.
fn end_of(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(RANGE)?.to_str().ok()?;
    let last: u64 = range
        .trim_start_matches("bytes=")
        .strip_prefix("0-")?
        .trim()
        .parse()
        .ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}

/// Whether a registry means by it that it takes no pieces.
fn refuses_chunks(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 404 | 405 | 411 | 415 | 416 | 501)
}

fn wrong_end(host: &RegistryHost, said: u64, offset: u64, end: u64) -> Error {
    Error::failed_precondition(format!(
        "{} says that it has {said} bytes of an upload, where it can have {offset} to {end}",
        host.config.authority
    ))
}
