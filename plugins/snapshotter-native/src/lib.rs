//! The native snapshotter: plain directory copies
