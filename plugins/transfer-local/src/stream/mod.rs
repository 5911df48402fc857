//! The byte streams between a client and this plugin (`containerd.types.transfer.Data` and `WindowUpdate` on a named stream).
//!
//! ```text
//!   import:  client ── Data ───────────▶ receive::receive   each WindowUpdate lets the sender send that many bytes more
//!            client ◀── WindowUpdate ──
//!   export:  ByteSink ── Data ─────────▶ client
//!            ByteSink ◀── WindowUpdate ─ client
//! ```
//!
//! Either side ends a stream by closing its direction. A transfer that failed says so in its answer; an export that failed ends
//! its stream with the error too, so that half an archive never looks like a whole one.

mod attached;
mod receive;
mod send;

pub use attached::Attached;
pub use receive::receive;
pub use send::ByteSink;

use containerd_client::types::transfer::{Data, WindowUpdate};
use orlop_plugin::contract::Any;
use orlop_plugin::{Error, Result};
use prost::Message;

/// What travels on a byte stream.
#[derive(Debug, PartialEq, Eq)]
enum Frame {
    Data(Vec<u8>),
    WindowUpdate(i32),
    /// Something a later version may have added.
    Unknown(String),
}

impl Frame {
    fn decode(any: Any) -> Result<Self> {
        let broken = |error| Error::invalid_argument(format!("a message of the byte stream does not decode: {error}"));
        match any.type_url.rsplit('/').next() {
            Some("containerd.types.transfer.Data") => Data::decode(any.value.as_slice())
                .map(|data| Self::Data(data.data))
                .map_err(broken),
            Some("containerd.types.transfer.WindowUpdate") => WindowUpdate::decode(any.value.as_slice())
                .map(|window| Self::WindowUpdate(window.update))
                .map_err(broken),
            _ => Ok(Self::Unknown(any.type_url)),
        }
    }
}

#[cfg(test)]
mod tests;
