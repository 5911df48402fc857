//! The v2 task runtime: starts and supervises shims
