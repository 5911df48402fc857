//! Names of images, digests and namespaces: what is normal is a fixed point, and what is taken apart holds nothing that could lead a
//! URL or a path elsewhere.

#![no_main]
#![allow(dead_code, unused_imports, reason = "a plugin library's modules, of which a part is called here")]

use libfuzzer_sys::fuzz_target;
use orlop_plugin::contract::{Digest, Namespace};

#[path = "."]
mod archive {
    #[path = "../../plugins/transfer-local/src/archive/reference.rs"]
    pub mod reference;
}
#[path = "../../plugins/transfer-local/src/registry/reference.rs"]
mod registry;

use archive::reference::{familiarize, normalize, object_of, under_prefix};
use registry::Reference;

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        for part in [&reference.host, &reference.repository].into_iter().chain(&reference.tag) {
            assert!(!part.is_empty() && !part.contains(['@', '?', '#', '%', '\\', ' ', '\n']), "{part:?}");
            assert!(part.split('/').all(|component| !matches!(component, "" | "." | "..")), "{part:?}");
        }
        let _ = (reference.object(), reference.source_label(), reference.scope(true));
    }
    if let Ok(full) = normalize(text) {
        assert_eq!(normalize(&full).as_ref(), Ok(&full));
        let parsed = Reference::parse(&full).unwrap_or_else(|error| panic!("{full:?}: {error}"));
        assert_eq!(parsed.full, full);
        let short = familiarize(&full).expect("a full name has a short one");
        assert_eq!(normalize(&short).as_ref(), Ok(&full), "{short:?}");
        let _ = object_of(&full);
    }
    let _ = object_of(text);
    let (prefix, rest) = text.split_at(text.floor_char_boundary(text.len() / 2));
    let _ = (under_prefix(prefix, rest, false), under_prefix(prefix, rest, true));
    if let Ok(digest) = Digest::new(text) {
        assert!(!digest.hex().contains(['/', '.']));
    }
    if let Ok(namespace) = Namespace::new(text) {
        assert!(!namespace.as_str().contains('/') && namespace.as_str().len() <= 76);
    }
});
