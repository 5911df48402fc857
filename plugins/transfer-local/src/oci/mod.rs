//! The documents an image consists of (OCI image-spec, and Docker's schema 2 that it came from): types and rules, no I/O.

mod descriptor;
mod document;
pub mod media_type;
mod platform;

pub use descriptor::{Descriptor, digest_of, reference_key};
pub use document::{
    Document, ImageConfig, Index, Manifest, check_nesting, check_size, parse_config, parse_document, to_json,
};
pub use platform::{Platform, PlatformFilter};

/// The largest manifest, index or configuration that is read: what registries accept is 4 MiB, and these are held in memory.
pub const MAX_DOCUMENT: u64 = 8 << 20;

/// How many indexes may stand one in the other: two are in the wild.
pub const MAX_NESTING: usize = 16;

/// The full name of an image, on its descriptor.
pub const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";
/// The tag of an image, on its descriptor.
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
