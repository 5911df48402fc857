//! Referrers (OCI distribution-spec 1.1): manifests with a `subject`, such as signatures, are found by the manifest they refer to. A registry
//! that keeps no such list itself is given one: an index under a tag that is made of the subject's digest.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use orlop_plugin::contract::Digest;
use orlop_plugin::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Registry;
use super::host::{Payload, RegistryHost};
use super::status::unexpected;
use crate::oci::{Descriptor, MAX_DOCUMENT, media_type};

/// The header field in which a registry says that it has noted the subject.
pub(super) const SUBJECT: &str = "oci-subject";

/// What of a manifest its referrer's entry is made of.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referrer {
    subject: Option<Descriptor>,
    #[serde(default)]
    artifact_type: String,
    config: Option<Descriptor>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

// === impl Registry ===

impl Registry {
    /// Adds the manifest `document`, if it has a subject, to the list of those that refer to that.
    pub(super) async fn refer(&self, host: &RegistryHost, document: &Descriptor, bytes: &[u8]) -> Result<()> {
        let referrer: Referrer = serde_json::from_slice(bytes)
            .map_err(|error| Error::invalid_argument(format!("{}: {error}", document.digest)))?;
        let Some(subject) = &referrer.subject else {
            return Ok(());
        };
        let path = format!("manifests/{}", tag_of(&subject.digest));
        let scopes = [self.reference.scope(true)];
        let kind = HeaderValue::from_static(media_type::INDEX);
        let mut call = self.call(host, Method::GET, &path, &scopes);
        call.headers.insert(ACCEPT, kind.clone());
        let answer = self.exchange(host, &call, true).await?;
        let list = match answer.response.status() {
            StatusCode::NOT_FOUND => None,
            status if status.is_success() => {
                let body = answer.response.into_body();
                Some(host.transport.read_all(body, MAX_DOCUMENT).await?)
            }
            _ => return Err(unexpected(&host.transport, answer.response).await),
        };
        let Some(list) = with(list.as_deref(), &referrer, document)? else {
            return Ok(());
        };
        call.method = Method::PUT;
        call.headers.remove(ACCEPT);
        call.headers.insert(CONTENT_TYPE, kind);
        call.payload = Payload::Bytes(Bytes::from(list));
        let answer = self.exchange(host, &call, true).await?;
        if answer.response.status().is_success() {
            return Ok(());
        }
        Err(unexpected(&host.transport, answer.response).await)
    }
}

/// The tag under which the referrers of `subject` are listed.
fn tag_of(subject: &Digest) -> String {
    let (algorithm, encoded) = subject.as_str().split_once(':').unwrap_or((subject.as_str(), ""));
    let cut = |text: &str, length| text.chars().take(length).collect::<String>();
    format!("{}-{}", cut(algorithm, 32), cut(encoded, 64))
}

/// `list` with `document` in it; `None` when it is in it already.
fn with(list: Option<&[u8]>, referrer: &Referrer, document: &Descriptor) -> Result<Option<Vec<u8>>> {
    let none = || json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": []});
    // As it comes, so that nothing of it is lost that others wrote.
    let mut list: Value = match list {
        Some(list) => serde_json::from_slice(list)
            .map_err(|error| Error::failed_precondition(format!("the registry's list of referrers: {error}")))?,
        None => none(),
    };
    let manifests = list
        .get_mut("manifests")
        .and_then(Value::as_array_mut)
        .ok_or_else(|| Error::failed_precondition("the registry's list of referrers is no index"))?;
    let digest = document.digest.as_str();
    if manifests.iter().any(|entry| entry["digest"] == digest) {
        return Ok(None);
    }
    let mut entry = Descriptor::new(&document.media_type, document.digest.clone(), document.size);
    entry.annotations = referrer.annotations.clone();
    entry.artifact_type = match (&*referrer.artifact_type, &referrer.config) {
        ("", Some(config)) => config.media_type.clone(),
        (kind, _) => kind.to_owned(),
    };
    let written = |error: serde_json::Error| Error::internal(format!("write the list of referrers: {error}"));
    manifests.push(serde_json::to_value(entry).map_err(written)?);
    serde_json::to_vec(&list).map(Some).map_err(written)
}
