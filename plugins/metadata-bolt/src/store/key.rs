//! The keys of the one table: a letter for the kind, then the parts, with a NUL between them.
//!
//! ```text
//!   N ns                          a namespace            B ns digest                 a blob
//!   I ns name                     an image               G ns reference              an ingest
//!   C ns id                       a container            S ns snapshotter key        a snapshot
//!   L ns id                       a lease                K ns snapshotter parent key a child of a snapshot
//!   R ns lease type id            what a lease holds     Q                           the last reserved backend id
//!   A backend                     a backend whose unknown objects were adopted since the database was restored; with no name: it was
//! ```
//!
//! A namespace cannot hold a NUL; of the other parts all but the last are checked by who takes them from a client ([`no_nul`]), so
//! that no key is a prefix of a stranger's. The keys of objects are the nodes of the garbage collection's graph as well.

use std::fmt;

use orlop_plugin::contract::Namespace;
use orlop_plugin::{Error, Result};

/// What a record is. The letters order the kinds in the table; `Lease` comes before `LeaseResource`, which marking relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Adoption,
    Blob,
    Container,
    Ingest,
    Image,
    Child,
    Lease,
    Namespace,
    Sequence,
    LeaseResource,
    Snapshot,
}

/// The key of a record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(Box<str>);

/// The keys that begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefix(Box<str>);

// === impl Kind ===

impl Kind {
    const fn letter(self) -> char {
        match self {
            Self::Adoption => 'A',
            Self::Blob => 'B',
            Self::Container => 'C',
            Self::Ingest => 'G',
            Self::Image => 'I',
            Self::Child => 'K',
            Self::Lease => 'L',
            Self::Namespace => 'N',
            Self::Sequence => 'Q',
            Self::LeaseResource => 'R',
            Self::Snapshot => 'S',
        }
    }

    fn of_letter(letter: char) -> Option<Self> {
        Some(match letter {
            'A' => Self::Adoption,
            'B' => Self::Blob,
            'C' => Self::Container,
            'G' => Self::Ingest,
            'I' => Self::Image,
            'K' => Self::Child,
            'L' => Self::Lease,
            'N' => Self::Namespace,
            'Q' => Self::Sequence,
            'R' => Self::LeaseResource,
            'S' => Self::Snapshot,
            _ => return None,
        })
    }
}

// === impl Key ===

impl Key {
    fn new(kind: Kind, parts: &[&str]) -> Self {
        let mut key = String::with_capacity(1 + parts.iter().map(|p| p.len() + 1).sum::<usize>());
        key.push(kind.letter());
        for (i, part) in parts.iter().enumerate() {
            if i > 0 {
                key.push('\0');
            }
            key.push_str(part);
        }
        Self(key.into_boxed_str())
    }

    pub(crate) fn namespace_record(ns: &str) -> Self {
        Self::new(Kind::Namespace, &[ns])
    }

    pub(crate) fn image(ns: &str, name: &str) -> Self {
        Self::new(Kind::Image, &[ns, name])
    }

    pub(crate) fn container(ns: &str, id: &str) -> Self {
        Self::new(Kind::Container, &[ns, id])
    }

    pub(crate) fn lease(ns: &str, id: &str) -> Self {
        Self::new(Kind::Lease, &[ns, id])
    }

    pub(crate) fn lease_resource(ns: &str, lease: &str, kind: &str, id: &str) -> Self {
        Self::new(Kind::LeaseResource, &[ns, lease, kind, id])
    }

    pub(crate) fn blob(ns: &str, digest: &str) -> Self {
        Self::new(Kind::Blob, &[ns, digest])
    }

    pub(crate) fn ingest(ns: &str, reference: &str) -> Self {
        Self::new(Kind::Ingest, &[ns, reference])
    }

    pub(crate) fn snapshot(ns: &str, snapshotter: &str, key: &str) -> Self {
        Self::new(Kind::Snapshot, &[ns, snapshotter, key])
    }

    pub(crate) fn child(ns: &str, snapshotter: &str, parent: &str, key: &str) -> Self {
        Self::new(Kind::Child, &[ns, snapshotter, parent, key])
    }

    /// That the database was restored, or, with a name, that this backend was looked at since.
    pub(crate) fn adoption(backend: &str) -> Self {
        Self::new(Kind::Adoption, &[backend])
    }

    pub(crate) fn sequence() -> Self {
        Self::new(Kind::Sequence, &[])
    }

    /// A stored key. `DataLoss` when it is none of ours.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        std::str::from_utf8(bytes)
            .ok()
            .filter(|key| key.chars().next().and_then(Kind::of_letter).is_some())
            .map(|key| Self(key.into()))
            .ok_or_else(|| {
                Error::data_loss(format!(
                    "the metadata holds a key that is none: {}",
                    bytes.escape_ascii()
                ))
            })
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub(crate) fn kind(&self) -> Kind {
        // Every way to make a key puts a kind's letter first.
        self.0
            .chars()
            .next()
            .and_then(Kind::of_letter)
            .unwrap_or(Kind::Sequence)
    }

    /// The first `N` parts, the last of which takes the rest.
    pub(crate) fn parts<const N: usize>(&self) -> [&str; N] {
        let mut parts = self.0[1..].splitn(N, '\0');
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    }

    pub(crate) fn namespace(&self) -> &str {
        let [ns, _] = self.parts();
        ns
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.replace('\0', " "))
    }
}

// === impl Prefix ===

impl Prefix {
    /// Everything.
    pub(crate) fn all() -> Self {
        Self("".into())
    }

    /// All records of a kind whose first parts are these.
    pub(crate) fn of(kind: Kind, parts: &[&str]) -> Self {
        let Key(mut prefix) = Key::new(kind, parts);
        if !parts.is_empty() {
            prefix = format!("{prefix}\0").into_boxed_str();
        }
        Self(prefix)
    }

    /// All of a kind in a namespace.
    pub(crate) fn in_namespace(kind: Kind, ns: &Namespace) -> Self {
        Self::of(kind, &[ns.as_str()])
    }

    /// Where its keys begin.
    pub(crate) fn start(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The first key behind them; `None` when nothing can be. A prefix ends in ASCII, so its successor is one more.
    pub(crate) fn end(&self) -> Option<Vec<u8>> {
        let mut end = self.0.as_bytes().to_vec();
        *end.last_mut()? += 1;
        Some(end)
    }
}

/// Refuses a NUL in what becomes a part of a key, naming it.
pub(crate) fn no_nul(what: &str, value: &str) -> Result<()> {
    if value.contains('\0') {
        return Err(Error::invalid_argument(format!(
            "{what} {value:?} must not contain a NUL"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_prefix_holds_its_own_keys_and_no_other(
            ns in "[a-c]{1,2}", other in "[a-c]{1,2}", a in "[ -~]{0,3}", b in "[\0-~]{0,3}"
        ) {
            let prefix = Prefix::of(Kind::Snapshot, &[&ns]);
            let key = Key::snapshot(&other, &a, &b);
            let within = key.as_bytes() >= prefix.start() && prefix.end().is_none_or(|end| key.as_bytes() < end.as_slice());
            prop_assert_eq!(within, ns == other);
            prop_assert_eq!(key.parts::<3>(), [other.as_str(), a.as_str(), b.as_str()]);
            prop_assert_eq!(Key::from_bytes(key.as_bytes()).expect("ours"), key);
        }
    }

    #[test]
    fn leases_come_before_what_they_hold() {
        assert!(Key::lease("z", "z") < Key::lease_resource("a", "a", "content", "x"));
    }

    #[test]
    fn foreign_keys_are_data_loss() {
        for bytes in [&b""[..], b"x", b"\xff"] {
            assert_eq!(
                Key::from_bytes(bytes).expect_err("no key").code,
                orlop_plugin::contract::Code::DataLoss
            );
        }
    }
}
