//! The OCI runtime specification that a container made by this client gets.
//!
//! The data flows one way: flags ([`flags::SpecFlags`]), the image's configuration ([`image::ImageConfig`]) and the
//! users of its root file system ([`users::Users`]) go into [`build::build`], a [`model::Spec`] comes out. Everything is
//! pure but [`rootfs`], which reads the user database out of a snapshot, [`device`], which looks at device nodes, and
//! the few facts of the host that [`host`] reads. Creating containers with the result is not done here.

pub mod build;
pub mod caps;
pub mod command;
pub mod default;
pub mod device;
pub mod flags;
pub mod host;
pub mod image;
pub mod model;
pub mod parse;
pub mod rootfs;
pub mod seccomp;
pub mod users;

#[cfg(test)]
mod tests;

/// The type URL under which containerd stores a container's specification (JSON, not protobuf).
pub const SPEC_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The type URL of one process of a specification, as `exec` sends it.
pub const PROCESS_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
