//! The local content store
