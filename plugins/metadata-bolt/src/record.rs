//! The records as they are stored: protobuf messages, so that a field can be added without a migration. Names and ids are in the keys.
//!
//! Times are nanoseconds since 1970. A tag, once used, keeps its meaning.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orlop_plugin::Result;
use orlop_plugin::contract::{Any, Labels};

use crate::store::{Key, Kind, decode};

/// A namespace.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NamespaceRecord {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(crate) labels: Labels,
}

/// An image.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ImageRecord {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(crate) labels: Labels,
    #[prost(string, tag = "2")]
    pub(crate) media_type: String,
    #[prost(string, tag = "3")]
    pub(crate) digest: String,
    #[prost(uint64, tag = "4")]
    pub(crate) size: u64,
    #[prost(btree_map = "string, string", tag = "5")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[prost(int64, tag = "6")]
    pub(crate) created: i64,
    #[prost(int64, tag = "7")]
    pub(crate) updated: i64,
}

/// A container.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ContainerRecord {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(crate) labels: Labels,
    #[prost(string, tag = "2")]
    pub(crate) image: String,
    #[prost(string, tag = "3")]
    pub(crate) runtime: String,
    #[prost(message, optional, tag = "4")]
    pub(crate) runtime_options: Option<Any>,
    #[prost(message, optional, tag = "5")]
    pub(crate) spec: Option<Any>,
    #[prost(string, tag = "6")]
    pub(crate) snapshotter: String,
    #[prost(string, tag = "7")]
    pub(crate) snapshot_key: String,
    #[prost(btree_map = "string, message", tag = "8")]
    pub(crate) extensions: BTreeMap<String, Any>,
    #[prost(string, tag = "9")]
    pub(crate) sandbox: String,
    #[prost(int64, tag = "10")]
    pub(crate) created: i64,
    #[prost(int64, tag = "11")]
    pub(crate) updated: i64,
}

/// A lease.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LeaseRecord {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(crate) labels: Labels,
    #[prost(int64, tag = "2")]
    pub(crate) created: i64,
}

/// A blob, as a namespace sees it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct BlobRecord {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(crate) labels: Labels,
    #[prost(uint64, tag = "2")]
    pub(crate) size: u64,
    #[prost(int64, tag = "3")]
    pub(crate) created: i64,
    #[prost(int64, tag = "4")]
    pub(crate) updated: i64,
}

/// An ingest.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct IngestRecord {
    /// What the content store calls it.
    #[prost(string, tag = "1")]
    pub(crate) backend: String,
    /// A blob of the content store that it stands for without a byte being sent; empty for none.
    #[prost(string, tag = "2")]
    pub(crate) shares: String,
    /// When it may be collected; 0 while a lease holds it.
    #[prost(int64, tag = "3")]
    pub(crate) expires: i64,
}

/// A snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SnapshotRecord {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(crate) labels: Labels,
    /// What the snapshotter calls it.
    #[prost(string, tag = "2")]
    pub(crate) backend: String,
    /// The key of the snapshot underneath; empty for none.
    #[prost(string, tag = "3")]
    pub(crate) parent: String,
    #[prost(int64, tag = "4")]
    pub(crate) created: i64,
    #[prost(int64, tag = "5")]
    pub(crate) updated: i64,
    /// Set before the snapshotter is told to commit, so that a crash in between can be settled.
    #[prost(message, optional, tag = "6")]
    pub(crate) committing: Option<CommitIntent>,
}

/// What an active snapshot is about to become.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CommitIntent {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) backend: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) labels: Labels,
    /// The parent it gets by that, having stood on nothing.
    #[prost(string, tag = "4")]
    pub(crate) parent: String,
}

/// The last backend id that is reserved.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct SequenceRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) last: u64,
}

/// Whether what is stored under `key` can be read. `DataLoss` when it cannot.
pub(crate) fn check(key: &Key, value: &[u8]) -> Result<()> {
    match key.kind() {
        Kind::Namespace => decode::<NamespaceRecord>(key, value).map(drop),
        Kind::Image => decode::<ImageRecord>(key, value).map(drop),
        Kind::Container => decode::<ContainerRecord>(key, value).map(drop),
        Kind::Lease => decode::<LeaseRecord>(key, value).map(drop),
        Kind::Blob => decode::<BlobRecord>(key, value).map(drop),
        Kind::Ingest => decode::<IngestRecord>(key, value).map(drop),
        Kind::Snapshot => decode::<SnapshotRecord>(key, value).map(drop),
        Kind::Sequence => decode::<SequenceRecord>(key, value).map(drop),
        Kind::Adoption => decode::<AdoptionRecord>(key, value).map(drop),
        Kind::Child | Kind::LeaseResource => Ok(()),
    }
}

/// When the database was restored: what the backends have and it does not know of is adopted, not garbage.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct AdoptionRecord {
    #[prost(int64, tag = "1")]
    pub(crate) restored: i64,
}

/// Now, as stored.
pub(crate) fn now() -> i64 {
    nanos(SystemTime::now())
}

/// A time, as stored.
pub(crate) fn nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
    }
}

/// A stored time.
pub(crate) fn time(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    if nanos < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn times_survive(stored in any::<i64>().prop_filter("the clock's own range", |n| *n > i64::MIN)) {
            prop_assert_eq!(nanos(time(stored)), stored);
        }
    }
}
