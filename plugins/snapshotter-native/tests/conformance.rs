//! The native snapshotter against the snapshotter contract, with real mounts.
#![allow(missing_docs)]

#[test]
fn it_keeps_the_contract() {
    orlop_plugin::testkit::plugin(&orlop_snapshotter_native::registrations()[0]);
}
