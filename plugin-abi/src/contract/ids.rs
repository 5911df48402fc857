//! Names that cannot hold nonsense.

use std::fmt;
use std::str::FromStr;

/// The longest identifier containerd accepts, in bytes (`pkg/identifiers`).
const MAX_IDENTIFIER: usize = 76;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// An identifier breaks containerd's grammar.
    #[error("identifier {0:?} must match [A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))* and be at most 76 bytes long")]
    Identifier(String),
    /// A digest breaks the OCI grammar, or its hex has the wrong length.
    #[error("digest {0:?} must be `sha256:` followed by 64, or `sha512:` followed by 128, lower-case hex digits")]
    Digest(String),
}

/// Checks a namespace or container id against containerd's grammar: alphanumeric runs joined by single `.`, `_` or `-`.
pub fn validate_identifier(id: &str) -> Result<(), InvalidId> {
    let runs_are_fine = id
        .split(['.', '_', '-'])
        .all(|run| !run.is_empty() && run.bytes().all(|b| b.is_ascii_alphanumeric()));
    if id.len() <= MAX_IDENTIFIER && runs_are_fine {
        Ok(())
    } else {
        Err(InvalidId::Identifier(id.to_owned()))
    }
}

/// A namespace: a valid identifier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(String);

/// A content digest, `sha256:…` or `sha512:…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

// === impl Namespace ===

impl Namespace {
    /// Parses a namespace name.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidId> {
        let name = name.into();
        validate_identifier(&name)?;
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Namespace {
    type Err = InvalidId;
    fn from_str(name: &str) -> Result<Self, InvalidId> {
        Self::new(name)
    }
}

// === impl Digest ===

impl Digest {
    /// Parses a digest.
    pub fn new(digest: impl Into<String>) -> Result<Self, InvalidId> {
        let digest = digest.into();
        let length = match digest.split_once(':') {
            Some(("sha256", _)) => 64,
            Some(("sha512", _)) => 128,
            _ => return Err(InvalidId::Digest(digest)),
        };
        let hex = &digest[digest.len().min(7)..];
        if hex.len() == length && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(digest))
        } else {
            Err(InvalidId::Digest(digest))
        }
    }

    /// The digest of 32 bytes that sha256 made.
    pub fn from_sha256(bytes: impl AsRef<[u8]>) -> Self {
        use fmt::Write;
        let mut digest = String::with_capacity(71);
        digest.push_str("sha256:");
        for byte in bytes.as_ref() {
            // Writing to a String cannot fail.
            let _ = write!(digest, "{byte:02x}");
        }
        Self(digest)
    }

    /// `sha256:…`, whole.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part in front of the colon.
    pub fn algorithm(&self) -> &str {
        &self.0[..6]
    }

    /// The part behind the colon.
    pub fn hex(&self) -> &str {
        &self.0[7..]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = InvalidId;
    fn from_str(digest: &str) -> Result<Self, InvalidId> {
        Self::new(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_containerds_grammar() {
        for good in ["default", "k8s.io", "a", "A-b_c.d9", &"x".repeat(76)] {
            assert!(Namespace::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "-a", "a-", "a/b", "ä", "a b", "..", &"x".repeat(77)] {
            assert!(Namespace::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn digests_know_their_length() {
        let hex = "0123456789abcdef".repeat(4);
        let digest = Digest::new(format!("sha256:{hex}")).expect("valid");
        assert_eq!((digest.algorithm(), digest.hex()), ("sha256", hex.as_str()));
        assert!(Digest::new(format!("sha512:{hex}{hex}")).is_ok());
        for bad in [
            "",
            "sha256:",
            "sha256",
            "md5:00",
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha512:{hex}"),
            "sha256:../../etc/passwd",
        ] {
            assert!(Digest::new(bad).is_err(), "{bad}");
        }
    }
}
