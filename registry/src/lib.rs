//! What everybody who speaks to a registry must know, apart from how: which hosts to ask ([`hosts`], and [`cri`] as Kubernetes' runtimes say it), whom to trust
//! ([`tls`]), what a host that answers 401 wants ([`challenge`]), and where it sends one ([`location`]).
//!
//! The daemon's transfers and the client stand on it. It opens no connection and depends on nothing of ours.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod challenge;
pub mod cri;
pub mod hosts;
pub mod location;
pub mod tls;

use std::fmt;

/// What is wrong with a configuration, or with what a host says.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a value that was given is not valid.
    #[error("{0}")]
    Invalid(String),
    /// The machine or the host is not as it must be.
    #[error("{0}")]
    Precondition(String),
    /// A file cannot be read.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
}

/// A result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

// === impl Error ===

impl Error {
    /// The same, with what it was about in front.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        match self {
            Self::Invalid(message) => Self::Invalid(format!("{what}: {message}")),
            Self::Precondition(message) => Self::Precondition(format!("{what}: {message}")),
            Self::Io(message, error) => Self::Io(format!("{what}: {message}"), error),
        }
    }
}

/// A URI without its query, which may hold secrets.
pub fn redacted(uri: &http::Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("http");
    let host = uri.authority().map_or("", http::uri::Authority::as_str);
    format!("{scheme}://{host}{}", uri.path())
}
