//! containerd's `config.toml`: one typed schema for its versions 1 to 4, imports and merging, checking with
//! positions, and rendering in the form each release prints.
//!
//! A file goes through four rooms. [`load()`] reads it and what it imports; `version` lifts each file's table to the
//! newest form (bare plugin ids become URIs, CRI is split, listeners move); `merge` lays the files over the
//! defaults as containerd does; and [`Config`] is what comes out, the same whatever version the operator wrote.
//! [`check()`] reads the *text* instead, because only text has lines and columns.
//!
//! What a plugin's own table means is the plugin's business: here it stays a raw [`toml::Table`] under its URI.
//! Command lines, sockets and plugin loading live in the daemon.

// A test that cannot unwrap has failed.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod check;
pub mod duration;
mod error;
mod imports;
mod load;
mod merge;
mod render;
mod schema;
mod selector;
mod version;

pub use check::{Problem, ProblemKind, check};
pub use duration::GoDuration;
pub use error::ConfigError;
pub use load::{Loaded, load, load_or_default};
pub use merge::overlay;
pub use render::{dump, migrate, render_default};
pub use schema::*;
pub use selector::PluginSelector;
pub use version::{LATEST_VERSION, canonical_uri};

/// Plugin tables by URI (`io.containerd.gc.v1.scheduler`): a plugin's defaults, or what an operator set.
pub type PluginTables = std::collections::BTreeMap<String, toml::Table>;
