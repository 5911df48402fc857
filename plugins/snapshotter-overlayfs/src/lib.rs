//! The overlayfs snapshotter
