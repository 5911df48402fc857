//! End-to-end tests: real daemons, real clients, real runc. They run as root, in parallel, each with directories of its own.

// A path in quotes is a string of TOML.
#![allow(clippy::unnecessary_debug_formatting)]
// A test that cannot unwrap has failed.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod client_path;
mod clients;
mod config;
mod conformance;
mod crash;
mod damage;
mod garbage;
mod plugins;
mod processors;
mod progress;
mod registry;
mod server;
mod snapshotters;
mod tree;
mod vendor;
mod verifiers;
