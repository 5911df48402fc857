//! The microkernel: it reads a configuration, resolves a graph of plugins, loads them, connects them and serves them.
//!
//! What lives here: the graph ([`graph`]), where plugins come from ([`loader`]), starting and ending them ([`lifecycle`]), what they see
//! of the daemon ([`host`]), and the listeners ([`server`]). What does not: anything a user would call containerd. Snapshots, images,
//! tasks, garbage collection are plugins, and the core knows them only as rows of a graph. It names plugins in one place,
//! [`builtins`].

pub mod builtins;
pub mod cli;
pub mod daemon;
pub mod graph;
pub mod host;
pub mod introspection;
pub mod lifecycle;
pub mod loader;
pub mod log;
mod memory;
pub mod server;
