//! How a record is kept: a protobuf message, so that later fields break nobody.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;

use super::records::Stored;
use crate::contract::{Labels, SnapshotInfo, SnapshotKind, Usage};
use crate::filter::{self, Filters};
use crate::{Error, Result};

/// What the database holds under a snapshot's name.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(enumeration = "Kind", tag = "2")]
    pub(super) kind: i32,
    #[prost(string, tag = "3")]
    pub(super) parent: String,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(super) labels: Labels,
    /// Nanoseconds since the epoch.
    #[prost(int64, tag = "5")]
    pub(super) created: i64,
    /// Nanoseconds since the epoch.
    #[prost(int64, tag = "6")]
    pub(super) updated: i64,
    #[prost(uint64, tag = "7")]
    pub(super) inodes: u64,
    /// Bytes.
    #[prost(uint64, tag = "8")]
    pub(super) size: u64,
}

/// containerd's numbers (`containerd.services.snapshots.v1.Kind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Kind {
    Unknown = 0,
    View = 1,
    Active = 2,
    Committed = 3,
}

// === impl Record ===

impl Record {
    /// What is recorded of a snapshot.
    pub(super) fn of(id: u64, info: &SnapshotInfo, usage: Usage) -> Self {
        Self {
            id,
            kind: Kind::from(info.kind) as i32,
            parent: info.parent.clone(),
            labels: info.labels.clone(),
            created: nanoseconds(info.created),
            updated: nanoseconds(info.updated),
            inodes: usage.inodes,
            size: usage.size,
        }
    }

    pub(super) fn decode_from(name: &str, bytes: &[u8]) -> Result<Self> {
        Self::decode(bytes)
            .map_err(|error| Error::data_loss(format!("the record of snapshot {name} is damaged: {error}")))
    }

    pub(super) fn snapshot_kind(&self) -> SnapshotKind {
        match self.kind() {
            Kind::View => SnapshotKind::View,
            Kind::Committed => SnapshotKind::Committed,
            Kind::Active | Kind::Unknown => SnapshotKind::Active,
        }
    }

    pub(super) fn stored(self, name: &str) -> Stored {
        Stored {
            id: self.id,
            usage: Usage {
                inodes: self.inodes,
                size: self.size,
            },
            info: SnapshotInfo {
                kind: self.snapshot_kind(),
                name: name.to_owned(),
                parent: self.parent,
                labels: self.labels,
                created: time(self.created),
                updated: time(self.updated),
            },
        }
    }
}

// === impl Kind ===

impl From<SnapshotKind> for Kind {
    fn from(kind: SnapshotKind) -> Self {
        match kind {
            SnapshotKind::View => Self::View,
            SnapshotKind::Active => Self::Active,
            SnapshotKind::Committed => Self::Committed,
        }
    }
}

/// An empty value is no label, as in containerd: that is how an update with a field mask takes one away.
pub(super) fn without_empty(mut labels: Labels) -> Labels {
    labels.retain(|_, value| !value.is_empty());
    labels
}

/// Whether any of `filters` chooses the snapshot: by `name`, `parent`, `kind` or `labels.KEY`.
pub(super) fn chosen(filters: &Filters, info: &SnapshotInfo) -> bool {
    filters.matches(|path| match path {
        ["name"] => Some(info.name.as_str()),
        ["parent"] => Some(info.parent.as_str()),
        ["kind"] => Some(match info.kind {
            SnapshotKind::View => "view",
            SnapshotKind::Active => "active",
            SnapshotKind::Committed => "committed",
        }),
        ["labels", key @ ..] => filter::label(&info.labels, key),
        _ => None,
    })
}

/// Nanoseconds since the epoch, the precision of a record.
pub(super) fn nanoseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The time that [`nanoseconds`] stands for.
pub(super) fn time(nanoseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}
