//! References on a condition, from content and images to snapshots (containerd 2.3):
//!
//! ```text
//!   containerd.io/gc.cond.snapshot.SNAPSHOTTER[/X] = usedat<24h[,usedat>…]|KEY     on the content or the image
//!   containerd.io/gc.cond.value-usedat             = 2026-01-02T03:04:05Z          on the snapshot KEY
//! ```
//!
//! It counts while one of the conditions holds of the snapshot's value: `usedat<24h` while it was last used less than a day ago. What
//! cannot be read is no condition, and a snapshot without a value fulfils none.

use orlop_plugin::contract::Labels;
use orlop_plugin::duration::GoDuration;

use super::labels::{after, rfc3339};
use crate::store::Key;

const SNAPSHOT: &str = "containerd.io/gc.cond.snapshot";
const USED_AT_VALUE: &str = "containerd.io/gc.cond.value-usedat";
const USED_AT: &str = "usedat";

/// How long ago something was used, at most or at least, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    LessThan(i64),
    MoreThan(i64),
}

// === impl Condition ===

impl Condition {
    /// `usedat<24h`; nothing else is known.
    fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(USED_AT)?;
        let span = |text: &str| text.parse().ok().map(GoDuration::as_nanos);
        match rest.split_at_checked(1)? {
            ("<", text) => span(text).map(Self::LessThan),
            (">", text) => span(text).map(Self::MoreThan),
            _ => None,
        }
    }

    /// Whether it holds of what was used at `used_at`. Both are nanoseconds since 1970.
    pub(super) fn holds(self, used_at: i64, now: i64) -> bool {
        let ago = now.saturating_sub(used_at);
        match self {
            Self::LessThan(span) => ago < span,
            Self::MoreThan(span) => ago > span,
        }
    }
}

/// The snapshots that an object in `ns` refers to on a condition; one with several conditions is there for each.
pub(super) fn references(ns: &str, labels: &Labels, push: &mut dyn FnMut(Key, Condition)) {
    for (key, value) in after(labels, SNAPSHOT) {
        let snapshotter = key.trim_start_matches(['.', '/']).split('/').next().unwrap_or_default();
        let Some((conditions, name)) = value.split_once('|') else {
            continue;
        };
        for condition in conditions.split(',').filter_map(Condition::parse) {
            push(Key::snapshot(ns, snapshotter, name), condition);
        }
    }
}

/// When a snapshot was last used, by its label.
pub(super) fn used_at(labels: &Labels) -> Option<i64> {
    labels.get(USED_AT_VALUE).and_then(|value| rfc3339(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    fn read(key: &str, value: &str) -> Vec<(Key, Condition)> {
        let labels = [(key.to_owned(), value.to_owned())].into();
        let mut found = Vec::new();
        references("ns", &labels, &mut |snapshot, condition| {
            found.push((snapshot, condition));
        });
        found
    }

    #[test]
    fn conditions_are_read_as_containerd_reads_them() {
        let snapshot = |name| Key::snapshot("ns", "overlayfs", name);
        for key in [
            "containerd.io/gc.cond.snapshot.overlayfs",
            "containerd.io/gc.cond.snapshot.overlayfs/x.y",
            "containerd.io/gc.cond.snapshot/overlayfs",
        ] {
            let found = read(key, "usedat<24h|sha256:a|b");
            assert_eq!(
                found,
                [(snapshot("sha256:a|b"), Condition::LessThan(24 * HOUR))],
                "{key}"
            );
        }
        let key = "containerd.io/gc.cond.snapshot.overlayfs";
        let found = read(key, "size>3,usedat>1h30m,usedat<1m|s");
        assert_eq!(
            found,
            [
                (snapshot("s"), Condition::MoreThan(HOUR * 3 / 2)),
                (snapshot("s"), Condition::LessThan(HOUR / 60))
            ]
        );
        for nonsense in [
            "usedat<24h",
            "usedat|s",
            "usedat<=1h|s",
            "usedat=1h|s",
            "usedat<day|s",
            "|s",
            "",
        ] {
            assert_eq!(read(key, nonsense), [], "{nonsense}");
        }
        assert_eq!(read("containerd.io/gc.ref.snapshot.overlayfs", "usedat<24h|s"), []);
    }

    #[test]
    fn they_hold_of_the_time_since() {
        assert!(Condition::LessThan(HOUR).holds(0, HOUR - 1) && !Condition::LessThan(HOUR).holds(0, HOUR));
        assert!(Condition::MoreThan(HOUR).holds(0, HOUR + 1) && !Condition::MoreThan(HOUR).holds(0, HOUR));
        assert!(Condition::LessThan(HOUR).holds(2 * HOUR, HOUR), "used in the future");
    }
}
