//! What several contracts convert: on whose behalf a call is made, times, descriptors, mounts.
//!
//! Names are parsed here, at the edge: one that is none is `InvalidArgument` before any contract sees it.

use std::collections::{BTreeMap, HashMap};
use std::time::{Instant, SystemTime};

use containerd_client::types;
use http::HeaderMap;
use prost_types::{FieldMask, Timestamp};
use tonic::metadata::MetadataValue;

use crate::channel::timeout;
use crate::contract::{Ctx, Descriptor, Digest, Mount, Namespace};
use crate::{Error, Result};

const NAMESPACE: &str = "containerd-namespace";
const LEASE: &str = "containerd-lease";

/// The seconds of Go's zero time, which is how containerd says "never" in a timestamp.
const NEVER: i64 = -62_135_596_800;

/// On whose behalf the call with these headers is made.
pub(super) fn ctx(headers: &HeaderMap) -> Result<Ctx> {
    let text = |name: &str| -> Result<Option<&str>> {
        let Some(value) = headers.get(name) else {
            return Ok(None);
        };
        match std::str::from_utf8(value.as_bytes()) {
            Ok("") => Ok(None),
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Error::invalid_argument(format!("the metadata {name} is no UTF-8"))),
        }
    };
    Ok(Ctx {
        namespace: text(NAMESPACE)?.map(Namespace::new).transpose()?,
        lease: text(LEASE)?.map(str::to_owned),
        deadline: timeout(headers).and_then(|timeout| Instant::now().checked_add(timeout)),
    })
}

/// Says on whose behalf `request` is made.
pub(super) fn metadata<T>(ctx: &Ctx, request: &mut tonic::Request<T>) -> Result<()> {
    for (key, value) in [
        (NAMESPACE, ctx.namespace.as_ref().map(Namespace::as_str)),
        (LEASE, ctx.lease.as_deref()),
    ] {
        if let Some(value) = value {
            let value = MetadataValue::try_from(value).map_err(|_| {
                Error::invalid_argument(format!("{value:?} cannot be sent as {key}: it is not plain ASCII"))
            })?;
            request.metadata_mut().insert(key, value);
        }
    }
    if let Some(deadline) = ctx.deadline {
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// A field that a message must have.
pub(super) fn required<T>(field: Option<T>, name: &str) -> Result<T> {
    field.ok_or_else(|| Error::invalid_argument(format!("{name} is required")))
}

/// The name of an object, which must not be empty.
pub(super) fn named<'a>(name: &'a str, field: &str) -> Result<&'a str> {
    if name.is_empty() {
        return Err(Error::invalid_argument(format!("{field} required")));
    }
    Ok(name)
}

/// The fields of an update mask; none for all.
pub(super) fn fields(mask: Option<FieldMask>) -> Vec<String> {
    mask.map(|mask| mask.paths).unwrap_or_default()
}

/// The update mask of fields; none for all.
pub(super) fn mask(fields: &[String]) -> Option<FieldMask> {
    (!fields.is_empty()).then(|| FieldMask { paths: fields.to_vec() })
}

/// An ordered map as protobuf's.
pub(super) fn unordered<V>(map: BTreeMap<String, V>) -> HashMap<String, V> {
    map.into_iter().collect()
}

/// Protobuf's map in order.
pub(super) fn ordered<V>(map: HashMap<String, V>) -> BTreeMap<String, V> {
    map.into_iter().collect()
}

/// A digest that may be missing.
pub(super) fn digest_or_none(digest: &str) -> Result<Option<Digest>> {
    match digest {
        "" => Ok(None),
        digest => Ok(Some(Digest::new(digest)?)),
    }
}

/// A digest that may be missing, on the wire.
pub(super) fn digest_or_empty(digest: Option<&Digest>) -> String {
    digest.map(ToString::to_string).unwrap_or_default()
}

/// A size; negative ones, which Go's clients use for "unknown", are 0.
pub(super) fn size(size: i64) -> u64 {
    u64::try_from(size).unwrap_or(0)
}

/// A size on the wire.
pub(super) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A time on the wire.
#[expect(clippy::unnecessary_wraps, reason = "every field of a message is optional")]
pub(super) fn stamp(time: SystemTime) -> Option<Timestamp> {
    Some(time.into())
}

/// A time that is set; the epoch when the other side left it out.
pub(super) fn time(stamp: Option<Timestamp>) -> SystemTime {
    stamp
        .and_then(|stamp| stamp.try_into().ok())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A time that may be missing, on the wire as containerd sends it.
#[expect(clippy::unnecessary_wraps, reason = "every field of a message is optional")]
pub(super) fn stamp_or_never(time: Option<SystemTime>) -> Option<Timestamp> {
    Some(time.map_or(
        Timestamp {
            seconds: NEVER,
            nanos: 0,
        },
        Timestamp::from,
    ))
}

/// A time that may be missing, or may say "never".
pub(super) fn time_or_never(stamp: Option<Timestamp>) -> Option<SystemTime> {
    stamp
        .filter(|stamp| stamp.seconds != NEVER)
        .and_then(|stamp| stamp.try_into().ok())
}

impl From<Descriptor> for types::Descriptor {
    fn from(descriptor: Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type,
            digest: descriptor.digest.to_string(),
            size: signed(descriptor.size),
            annotations: unordered(descriptor.annotations),
        }
    }
}

impl TryFrom<types::Descriptor> for Descriptor {
    type Error = Error;

    fn try_from(descriptor: types::Descriptor) -> Result<Self> {
        Ok(Self {
            media_type: descriptor.media_type,
            digest: Digest::new(descriptor.digest)?,
            size: size(descriptor.size),
            annotations: ordered(descriptor.annotations),
        })
    }
}

impl From<Mount> for types::Mount {
    fn from(mount: Mount) -> Self {
        Self {
            r#type: mount.kind,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        }
    }
}

impl From<types::Mount> for Mount {
    fn from(mount: types::Mount) -> Self {
        Self {
            kind: mount.r#type,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        }
    }
}

/// Each converted.
pub(super) fn all<A: Into<B>, B>(items: Vec<A>) -> Vec<B> {
    items.into_iter().map(Into::into).collect()
}

/// Each converted, or the first that cannot be.
pub(super) fn try_all<A: TryInto<B, Error = Error>, B>(items: Vec<A>) -> Result<Vec<B>> {
    items.into_iter().map(TryInto::try_into).collect()
}
