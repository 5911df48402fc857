//! The lease manager
