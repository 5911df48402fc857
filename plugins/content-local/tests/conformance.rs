//! The content store against the contract of content stores.
#![allow(missing_docs)]

#[test]
fn it_keeps_the_contract() {
    orlop_plugin::testkit::plugin(&orlop_content_local::registrations()[0]);
}
