//! Layers: from a tar to a directory ([`apply`]) and from two directories to a tar ([`make`]).
//!
//! ```text
//!   apply:  compressed bytes ─▶ decompress ─▶ sha256 (diff_id) ─▶ tar ─▶ files under a root that no path leaves
//!            (a [`Feed`])        a thread       a thread           the caller's thread
//!   make:   two directories ─▶ changes ─▶ tar ─▶ sha256 (diff_id) ─▶ compress ─▶ bytes (an [`Outlet`])
//!                                     the caller's thread             a thread
//! ```
//!
//! What lives here: the rules of OCI layers (image-spec, layer.md) as containerd reads them. What does not: where the bytes come
//! from (the content store) and where the root is mounted ([`crate::mount`]).
//!
//! Everything here blocks: call it in [`crate::blocking`].

mod apply;
mod changes;
mod compression;
mod feed;
mod make;
mod metadata;
mod remove;
mod root;
mod stages;
mod tar;
mod unpack;
mod whiteout;

pub use apply::{Applied, ApplyOptions, Whiteouts, apply, in_user_namespace, read_tar};
pub use changes::{Change, ChangeKind, changes};
pub use compression::Compression;
pub use feed::{Feed, Feeder, Outlet, feed, outlet};
pub use make::{Made, MakeOptions, make};
pub use stages::Expansion;

use std::io;

use crate::Error;

/// The media type of a layer that is a bare tar: what applying any layer comes down to.
pub const MEDIA_TYPE_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The label on a compressed layer's blob that names its diff_id.
pub const LABEL_UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// The longest path the kernel takes, its NUL included.
const PATH_MAX: usize = 4096;

/// How deep a directory tree may be before it is refused: each level holds a descriptor and a stack frame.
const MAX_DEPTH: usize = 512;

/// An I/O error as people and clients shall see it. An [`Error`] that travelled inside an `io::Error` keeps its code.
fn explain(doing: impl std::fmt::Display, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(inner) => inner.context(doing),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            Error::invalid_argument(format!("{doing}: {error}"))
        }
        // `Unimplemented` would send the layer on to the next differ, which is not what a file system's refusal means.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Error::unknown(format!("{doing}: {error}")),
        Err(error) => Error::io(doing, &error),
    }
}

/// An error of the archive itself.
fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

/// A path for people: bytes that are no UTF-8 shown as such, the middle of a very long one left out.
fn shown(path: &[u8]) -> String {
    const LONG: usize = 256;
    if path.len() <= LONG {
        return String::from_utf8_lossy(path).into_owned();
    }
    let (start, end) = (&path[..LONG / 2], &path[path.len() - LONG / 4..]);
    format!("{}…{}", String::from_utf8_lossy(start), String::from_utf8_lossy(end))
}
