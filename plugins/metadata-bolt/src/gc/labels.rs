//! The labels that garbage collection reads (containerd's `docs/garbage-collection.md`), and what each record refers to.
//!
//! ```text
//!   containerd.io/gc.root                                      it is a root (content, snapshots)
//!   containerd.io/gc.ref.{content,image}[.X | /X]              it refers to a blob, to an image
//!   containerd.io/gc.ref.snapshot.SNAPSHOTTER[/X]              it refers to a snapshot
//!   containerd.io/gc.bref.{content,image,container}[.X | /X]   what it names refers to it
//!   containerd.io/gc.bref.snapshot.SNAPSHOTTER[/X]
//!   containerd.io/gc.expire                                    from then on it is no root (leases, images)
//!   containerd.io/gc.flat                                      what a lease holds keeps nothing else
//!   containerd.io/gc.cond.snapshot.SNAPSHOTTER[/X]             it refers to a snapshot on a condition (`conditions`)
//!   containerd.io/gc.cond.value-usedat                         the value of a snapshot's condition
//! ```

use orlop_plugin::Result;
use orlop_plugin::contract::Labels;

use crate::record::{BlobRecord, ContainerRecord, ImageRecord, IngestRecord, SnapshotRecord};
use crate::store::{Key, Kind, decode};

/// See the module.
pub(crate) const EXPIRE: &str = "containerd.io/gc.expire";
pub(super) const FLAT: &str = "containerd.io/gc.flat";
const ROOT: &str = "containerd.io/gc.root";
const REFERENCE: &str = "containerd.io/gc.ref.";
const BACK_REFERENCE: &str = "containerd.io/gc.bref.";

/// Whether what is reached keeps what it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Depth {
    /// Only what it cannot be without: the snapshots underneath, the target of an image.
    Flat,
    /// Everything.
    Full,
}

/// Whether the labels make it a root.
pub(super) fn is_root(labels: &Labels) -> bool {
    // containerd takes any key that begins so.
    labels
        .range(ROOT.to_owned()..)
        .next()
        .is_some_and(|(key, _)| key.starts_with(ROOT))
}

/// Whether it expired before `now`. What is no RFC 3339 time is ignored.
pub(super) fn expired(labels: &Labels, now: i64) -> bool {
    let Some(value) = labels.get(EXPIRE) else { return false };
    let expires = rfc3339(value);
    if expires.is_none() {
        tracing::info!(label = EXPIRE, value, "ignoring what is no RFC 3339 time");
    }
    expires.is_some_and(|expires| expires < now)
}

/// An RFC 3339 time, in nanoseconds since 1970.
pub(super) fn rfc3339(value: &str) -> Option<i64> {
    // The parser is lenient about a missing time or zone, which RFC 3339 is not.
    let bytes = value.as_bytes();
    let zone = value.ends_with('Z') || bytes.len() > 6 && matches!(bytes[bytes.len() - 6], b'+' | b'-');
    if bytes.get(10) != Some(&b'T') || !zone {
        return None;
    }
    let time: prost_types::Timestamp = value.parse().ok()?;
    Some(
        time.seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(time.nanos)),
    )
}

/// What the labels of an object in `ns` refer to.
fn references(ns: &str, labels: &Labels, push: &mut dyn FnMut(Key)) {
    for (key, value) in after(labels, REFERENCE) {
        if let Some(target) = target(ns, key, value).filter(|target| target.kind() != Kind::Container) {
            push(target);
        }
    }
}

/// What refers to an object in `ns` by that object's own labels.
pub(super) fn back_references(ns: &str, labels: &Labels, push: &mut dyn FnMut(Key)) {
    for (key, value) in after(labels, BACK_REFERENCE) {
        if let Some(target) = target(ns, key, value) {
            push(target);
        }
    }
}

/// The labels that begin with `prefix`, without it.
pub(super) fn after<'a>(labels: &'a Labels, prefix: &'static str) -> impl Iterator<Item = (&'a str, &'a str)> {
    labels
        .range(prefix.to_owned()..)
        .map_while(move |(key, value)| key.strip_prefix(prefix).map(|key| (key, value.as_str())))
}

/// What the rest of a reference's key and its value name.
fn target(ns: &str, key: &str, value: &str) -> Option<Key> {
    if let Some(snapshotter) = key.strip_prefix("snapshot.") {
        let snapshotter = snapshotter.split('/').next().unwrap_or_default();
        return Some(Key::snapshot(ns, snapshotter, value));
    }
    let kind = key.split(['.', '/']).next().unwrap_or_default();
    match kind {
        "content" => Some(Key::blob(ns, value)),
        "image" => Some(Key::image(ns, value)),
        "container" => Some(Key::container(ns, value)),
        _ => None,
    }
}

/// What the record of `key` refers to when it is reached at `depth`.
pub(super) fn record_references(key: &Key, value: &[u8], depth: Depth, push: &mut dyn FnMut(Key, Depth)) -> Result<()> {
    let ns = key.namespace();
    let labels = match key.kind() {
        Kind::Blob => decode::<BlobRecord>(key, value)?.labels,
        Kind::Snapshot => {
            let record: SnapshotRecord = decode(key, value)?;
            if !record.parent.is_empty() {
                let [_, snapshotter, _] = key.parts();
                push(Key::snapshot(ns, snapshotter, &record.parent), depth);
            }
            record.labels
        }
        Kind::Image => {
            let record: ImageRecord = decode(key, value)?;
            push(Key::blob(ns, &record.digest), depth);
            record.labels
        }
        Kind::Container => {
            let record: ContainerRecord = decode(key, value)?;
            if !record.snapshotter.is_empty() {
                push(
                    Key::snapshot(ns, &record.snapshotter, &record.snapshot_key),
                    Depth::Full,
                );
            }
            record.labels
        }
        Kind::Ingest => {
            let record: IngestRecord = decode(key, value)?;
            if !record.shares.is_empty() {
                push(Key::blob(ns, &record.shares), Depth::Full);
            }
            return Ok(());
        }
        Kind::Adoption | Kind::Child | Kind::Lease | Kind::Namespace | Kind::Sequence | Kind::LeaseResource => {
            return Ok(());
        }
    };
    if depth == Depth::Full {
        references(ns, &labels, &mut |target| push(target, Depth::Full));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn references_are_read_as_containerd_reads_them() {
        let labels = labels(&[
            ("containerd.io/gc.ref.content", "a"),
            ("containerd.io/gc.ref.content.0", "b"),
            ("containerd.io/gc.ref.content/x.y", "c"),
            ("containerd.io/gc.ref.contents", "no"),
            ("containerd.io/gc.ref.container", "no"),
            ("containerd.io/gc.ref.image", "docker.io/x:1"),
            ("containerd.io/gc.ref.image.base", "y"),
            ("containerd.io/gc.ref.snapshot.overlayfs", "s1"),
            ("containerd.io/gc.ref.snapshot.overlayfs/extra", "s2"),
            ("containerd.io/gc.ref.snapshot", "no"),
            ("containerd.io/gc.refs.content", "no"),
            ("containerd.io/gc.bref.content", "no"),
        ]);
        let mut found = Vec::new();
        references("ns", &labels, &mut |key| found.push(key));
        found.sort();
        let mut wanted = vec![
            Key::blob("ns", "a"),
            Key::blob("ns", "b"),
            Key::blob("ns", "c"),
            Key::image("ns", "docker.io/x:1"),
            Key::image("ns", "y"),
            Key::snapshot("ns", "overlayfs", "s1"),
            Key::snapshot("ns", "overlayfs", "s2"),
        ];
        wanted.sort();
        assert_eq!(found, wanted);
    }

    #[test]
    fn back_references_may_name_containers() {
        let labels = labels(&[
            ("containerd.io/gc.bref.container.a", "c"),
            ("containerd.io/gc.bref.snapshot.native", "s"),
            ("containerd.io/gc.ref.content", "no"),
        ]);
        let mut found = Vec::new();
        back_references("ns", &labels, &mut |key| found.push(key));
        assert_eq!(found, [Key::container("ns", "c"), Key::snapshot("ns", "native", "s")]);
    }

    #[test]
    fn only_rfc3339_expires() {
        let at = |value: &str| expired(&labels(&[(EXPIRE, value)]), 1_000_000_000_000_000_000);
        assert!(at("2001-09-09T01:46:39Z") && at("2001-09-09T03:46:39.5+02:00") && at("1970-01-01T00:00:00Z"));
        assert!(!at("2001-09-09T01:46:40Z") && !at("2001-09-09T01:46:39-00:01") && !at("9999-01-01T00:00:00Z"));
        for nonsense in [
            "",
            "soon",
            "2001-01-01",
            "2001-01-01T00:00:00",
            "2001-01-01 00:00:00Z",
            "1",
        ] {
            assert!(!at(nonsense), "{nonsense}");
        }
    }

    #[test]
    fn roots_are_told_by_the_label() {
        assert!(is_root(&labels(&[("containerd.io/gc.root", "x"), ("z", "")])));
        assert!(!is_root(&labels(&[
            ("containerd.io/gc.ref.content", "x"),
            ("containerd.io/gc.roo", "x")
        ])));
    }
}
