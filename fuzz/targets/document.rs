//! Manifests, indexes and configurations of images: never two things at once, and what is read is written and read as the same.
//!
//! The first byte chooses the media type that the descriptor says.

#![no_main]
#![allow(dead_code, unused_imports, reason = "a plugin library's modules, of which a part is called here")]

use libfuzzer_sys::fuzz_target;

#[path = "../../plugins/transfer-local/src/oci/mod.rs"]
mod oci;

use oci::{Descriptor, Document, digest_of, media_type, parse_config, parse_document, to_json};

const KINDS: [&str; 4] = [
    media_type::MANIFEST,
    media_type::INDEX,
    media_type::DOCKER_MANIFEST,
    media_type::DOCKER_INDEX,
];

fuzz_target!(|input: &[u8]| {
    let Some((&how, bytes)) = input.split_first() else {
        return;
    };
    let digest = digest_of(bytes);
    let parse = |kind: &str, bytes: &[u8]| parse_document(&Descriptor::new(kind, digest.clone(), bytes.len() as u64), bytes);
    let kind = KINDS[usize::from(how) % KINDS.len()];
    if let Ok(Some(document)) = parse(kind, bytes) {
        let other = if media_type::is_index(kind) { media_type::MANIFEST } else { media_type::INDEX };
        assert!(parse(other, bytes).is_err(), "a manifest and an index at once");
        let written = match &document {
            Document::Manifest(manifest) => to_json(manifest),
            Document::Index(index) => to_json(index),
        };
        let again = parse(kind, &written.expect("written")).expect("read again");
        assert_eq!(again, Some(document));
    }
    if let Ok(config) = parse_config(&digest, bytes) {
        let _ = config.platform.normalized().to_string();
    }
});
