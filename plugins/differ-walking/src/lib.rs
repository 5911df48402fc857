//! Applies layers to mounts and makes layers out of two mounts
