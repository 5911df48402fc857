//! Namespaced metadata over redb, and the mark and sweep of garbage collection
