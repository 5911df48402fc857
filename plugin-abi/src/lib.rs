//! The plugin contract, ABI and SDK of Orlop: the only crate a plugin needs.
//!
//! A plugin implements one or more traits of [`contract`], describes itself in a [`Registration`] and, when it is a library of its
//! own, ends in [`export_plugin!`]. The daemon gives its `init` an [`InitContext`] and takes an [`Instance`] back. Neither side
//! knows how the other is reached: linked in, loaded from a `*.so`, or on a socket ([`channel`], [`rpc`]).
//!
//! What lives here: the traits and their types, what carries them, and grounds that several plugins stand on (`layer`, `mount`, …, each
//! behind a feature). What does not: any plugin, and anything that only the daemon needs.

pub mod api;
pub mod channel;
pub mod contract;
#[cfg(feature = "database")]
pub mod database;
#[cfg(all(feature = "layer", feature = "mount"))]
pub mod differ;
pub mod duration;
#[cfg(feature = "erofs")]
pub mod erofs;
pub mod export;
pub mod filter;
#[cfg(any(feature = "mount", feature = "snapshots"))]
mod id_map;
#[cfg(feature = "layer")]
pub mod layer;
mod library;
mod log;
#[cfg(feature = "mount")]
pub mod mount;
pub mod program;
pub mod registration;
pub mod rpc;
#[cfg(feature = "serve")]
pub mod serve;
pub mod services;
#[cfg(feature = "snapshots")]
pub mod snapshots;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use contract::{Contracts, Ctx, Error, Result};
pub use registration::{Host, HostApi, HostPlugin, InitContext, InitError, Instance, PluginUri, Registration, kind};
pub use rpc::Reach;
pub use services::Services;

/// What the contracts and the configuration are made of, so that a plugin needs no dependency but this one.
pub use {bytes, futures_util, tokio, toml, tracing};

/// Runs `work`, which may block, on the blocking pool of this library's runtime (the daemon's, for a built-in).
///
/// The caller's worker polls a plugin's futures, so whatever fsyncs, walks directories, mounts or spawns belongs in here.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => Err(Error::cancelled("the blocking pool is shutting down")),
        Err(error) => Err(Error::internal(format!(
            "blocking work panicked: {}",
            panic_message(&*error.into_panic())
        ))),
    }
}

/// What a caught panic said.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
