//! containerd's filters: an error that marks a place, or a filter that answers.
//!
//! Lines are filters; the last is the value that fields have.

#![no_main]

use libfuzzer_sys::fuzz_target;
use orlop_plugin::filter::Filters;

fuzz_target!(|text: &str| {
    let mut lines: Vec<&str> = text.split('\n').collect();
    let value = lines.pop().unwrap_or_default();
    match Filters::parse(&lines) {
        Ok(filters) => {
            let _ = filters.matches(|path| (path.len() % 2 == 1).then_some(value));
            let nothing = filters.matches(|_| None::<&str>);
            assert!(nothing || !filters.is_empty());
        }
        Err(error) => assert!(!error.message.is_empty()),
    }
});
