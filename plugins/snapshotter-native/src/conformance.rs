//! The native snapshotter against the snapshotter contract, with real mounts.

#[test]
fn it_keeps_the_contract() {
    orlop_plugin::testkit::plugin(&crate::registrations()[0]);
}
