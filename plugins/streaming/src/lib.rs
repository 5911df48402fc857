//! Named streams: a client opens one and names it in a request, and the plugin that serves the request attaches to it.
//!
//! ```text
//!   open(id, up) ─▶ Waiting ── attach(id, down) ─▶ Joined ─▶ (none, once the client's end is gone)
//!        │ the client goes ▶ (none)
//!
//!   client ── up ──▶ what attach returned
//!          ◀─ down ─ what open returned
//! ```
//!
//! Nothing is buffered here: each end polls the other's stream, so that who reads slowly slows the sender down. Each direction may end
//! by itself. The stream as a whole ends for the client when the plugin has ended both; for the plugin it ends in an error when the
//! client goes before it has said its last word, so that half an upload never passes for a whole one.
//!
//! Specified by containerd's `plugins/streaming` and `services/streaming`.

mod ends;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use orlop_plugin::{Contracts, Instance, Registration, kind};

pub use ends::Streams;

/// The registration of `io.containerd.streaming.v1.manager`.
pub fn registrations() -> Vec<Registration> {
    let manager = Registration::new(kind::STREAMING, "manager", |_| async {
        Ok(Instance::new().with_contracts(Contracts::default().with_streaming(Arc::new(Streams::default()))))
    });
    vec![manager.requires([kind::METADATA])]
}
