//! Blobs from a registry into the content store, resumed where they broke off.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use orlop_plugin::contract::Labels;
use orlop_plugin::{Error, Result};
use tokio::time::sleep;

use super::Registry;
use super::host::RegistryHost;
use super::resolve::{ACCEPTED, worst};
use super::status::unexpected;
use crate::content::{Content, Ingest};
use crate::oci::{Descriptor, media_type, reference_key};

/// Whether a blob had to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// It was, now.
    Now,
    /// It was there.
    Before,
}

/// Why a download ended before its end.
enum Broken {
    /// What came so far counts; another try may bring the rest.
    Off(Error),
    /// It will be the same next time.
    Finally(Error),
}

// === impl Registry ===

impl Registry {
    /// Stores the blob that `descriptor` names, with `labels` if it is new; `on_offset` is told how far it is. `FailedPrecondition`
    /// when what comes is not that blob.
    pub async fn fetch(
        &self,
        content: &Content,
        descriptor: &Descriptor,
        labels: Labels,
        on_offset: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<Fetched> {
        let doing = |error: Error| error.context(format!("fetch {} from {}", descriptor.digest, self.reference.host));
        // The name is containerd's, so that what one client left another goes on with.
        let reference = reference_key(descriptor);
        let Some((mut ingest, mut offset)) = content.resume(reference, descriptor).await.map_err(doing)? else {
            return Ok(Fetched::Before);
        };
        let mut fruitless = 0;
        let mut pause = self.patience.backoff;
        while offset < descriptor.size {
            on_offset(offset);
            let before = offset;
            let broken = match self
                .download(
                    descriptor,
                    &mut ingest,
                    &mut offset,
                    on_offset.as_ref(),
                    fruitless as usize,
                )
                .await
            {
                Ok(()) => continue,
                Err(broken) => broken,
            };
            // Dropped, the ingest stays for the next pull; what is not yet written of it would be lost.
            ingest.flush().await.map_err(doing)?;
            let error = match broken {
                Broken::Finally(error) => return Err(doing(error)),
                Broken::Off(error) => error,
            };
            if offset > before {
                (fruitless, pause) = (0, self.patience.backoff);
            }
            if fruitless == self.patience.retries {
                return Err(doing(error));
            }
            fruitless += 1;
            tracing::debug!(digest = %descriptor.digest, offset, %error, "a download broke off and is resumed");
            sleep(pause).await;
            pause *= 2;
        }
        on_offset(offset);
        ingest.commit(descriptor.size, labels).await.map_err(doing)?;
        Ok(Fetched::Now)
    }

    /// Appends what is missing, from the first host that has it. The first `passed_over` have brought nothing and come last.
    async fn download(
        &self,
        descriptor: &Descriptor,
        ingest: &mut Ingest,
        offset: &mut u64,
        on_offset: &(dyn Fn(u64) + Send + Sync),
        passed_over: usize,
    ) -> Result<(), Broken> {
        let hosts = self.hosts_for("be pulled from", |can| can.pull);
        let hosts = hosts.map_err(Broken::Finally)?;
        let count = hosts.len();
        let mut failures = Vec::new();
        for nth in 0..count {
            let (host, last) = (hosts[(passed_over + nth) % count].0, nth + 1 == count);
            match self.download_from(host, descriptor, *offset, last).await {
                Ok((body, at)) => {
                    let sink = Sink {
                        ingest,
                        offset,
                        size: descriptor.size,
                        on_offset,
                    };
                    return sink.fill(host, body, at).await;
                }
                Err(error) => failures.push(error.context(&host.config.authority)),
            }
        }
        if let Some((host, body, at)) = self.download_elsewhere(descriptor, *offset, &mut failures).await {
            let sink = Sink {
                ingest,
                offset,
                size: descriptor.size,
                on_offset,
            };
            return sink.fill(&host, body, at).await;
        }
        Err(Broken::Finally(worst(failures)))
    }

    /// The blob's bytes from `offset` on, or from an earlier one: with which it begins.
    async fn download_from(
        &self,
        host: &RegistryHost,
        descriptor: &Descriptor,
        offset: u64,
        last: bool,
    ) -> Result<(Incoming, u64)> {
        let kind = &descriptor.media_type;
        let document = media_type::is_manifest(kind) || media_type::is_index(kind);
        let folder = if document { "manifests" } else { "blobs" };
        let scopes = [self.reference.scope(false)];
        let mut call = self.call(host, Method::GET, &format!("{folder}/{}", descriptor.digest), &scopes);
        if document {
            call.headers.insert(ACCEPT, ACCEPTED);
        }
        if offset > 0 {
            call.headers.insert(RANGE, range_from(offset)?);
        }
        let mut answer = self.exchange(host, &call, last).await?;
        if answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE && offset > 0 {
            call.headers.remove(RANGE);
            answer = self.exchange(host, &call, last).await?;
        }
        if !answer.response.status().is_success() {
            return Err(unexpected(&host.transport, answer.response).await);
        }
        let at = begin_at(&answer.response, offset)?;
        Ok((answer.response.into_body(), at))
    }
}

/// Where a download goes.
struct Sink<'a> {
    ingest: &'a mut Ingest,
    offset: &'a mut u64,
    size: u64,
    on_offset: &'a (dyn Fn(u64) + Send + Sync),
}

// === impl Sink ===

impl Sink<'_> {
    /// Writes `body`, whose first byte is the blob's byte `at`.
    async fn fill(self, host: &RegistryHost, mut body: Incoming, mut at: u64) -> Result<(), Broken> {
        while let Some(piece) = host.transport.next_piece(&mut body).await.map_err(Broken::Off)? {
            // A host that knows no ranges sends what we have once more.
            let end = at + piece.len() as u64;
            let new = skip(piece, self.offset.saturating_sub(at));
            at = end;
            let length = new.len() as u64;
            if *self.offset + length > self.size {
                return Err(Broken::Finally(Error::failed_precondition(format!(
                    "{} sends more than the {} bytes that the blob has",
                    host.config.authority, self.size
                ))));
            }
            self.ingest.write(new).await.map_err(Broken::Finally)?;
            *self.offset += length;
            (self.on_offset)(*self.offset);
        }
        if *self.offset == self.size {
            return Ok(());
        }
        Err(Broken::Off(Error::unavailable(format!(
            "{} sent {} of {} bytes",
            host.config.authority, self.offset, self.size
        ))))
    }
}

fn skip(mut piece: Bytes, count: u64) -> Bytes {
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(piece.len());
    piece.split_off(count)
}

/// Asks for what comes from `offset` on.
pub(super) fn range_from(offset: u64) -> Result<HeaderValue> {
    HeaderValue::from_str(&format!("bytes={offset}-")).map_err(super::malformed)
}

/// Where an answer begins that was to begin at `offset` at the latest: one that knows no ranges begins at 0.
pub(super) fn begin_at(answer: &Response<Incoming>, offset: u64) -> Result<u64> {
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(0);
    }
    begin_of(answer.headers())
        .filter(|at| *at <= offset)
        .ok_or_else(|| Error::failed_precondition(format!("it sent another range than the one from {offset} on")))
}

/// Where a partial answer begins: `Content-Range: bytes 5-9/10`.
fn begin_of(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
