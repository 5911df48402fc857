//! The walking differ as the daemon sees it: its registration started over a content store, layers applied to real mounts and made
//! of them. As root.

mod apply;
mod compare;
mod processors;
mod store;
mod support;
