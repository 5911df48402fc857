//! The labels by which garbage collection finds the children of a document (containerd's `images.ChildGCLabels`).

use std::collections::BTreeMap;

use orlop_plugin::contract::Labels;

use crate::oci::{Descriptor, media_type};

const CONTENT: &str = "containerd.io/gc.ref.content";

/// The labels of a document with `children`: `….m.0` and so on for manifests, `….l.0` for layers, `….config`, and `….0` for what
/// is none of them.
pub fn child_labels(children: &[&Descriptor]) -> Labels {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut labels = Labels::new();
    for child in children {
        let kind = kind_of(&child.media_type);
        let nth = counts.entry(kind).or_default();
        let key = match (kind, *nth) {
            ("config", 0) => format!("{CONTENT}.config"),
            (kind, nth) => format!("{CONTENT}.{kind}{nth}"),
        };
        *nth += 1;
        labels.insert(key, child.digest.to_string());
    }
    labels
}

fn kind_of(kind: &str) -> &'static str {
    if media_type::is_known_config(kind) {
        "config"
    } else if media_type::is_manifest(kind) {
        "m."
    } else if media_type::is_layer(kind) {
        "l."
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest_of;

    #[test]
    fn children_are_numbered_by_their_kind() {
        let child = |kind: &str, content: &[u8]| Descriptor::new(kind, digest_of(content), 1);
        let children = [
            child(media_type::CONFIG, b"c"),
            child(media_type::DOCKER_LAYER_GZIP, b"l0"),
            child("application/vnd.oci.image.layer.v1.tar", b"l1"),
            child(media_type::MANIFEST, b"m"),
            child(media_type::INDEX, b"i"),
            child("text/plain", b"t"),
            child(media_type::DOCKER_CONFIG, b"c1"),
        ];
        let labels = child_labels(&children.iter().collect::<Vec<_>>());
        let keys: Vec<&str> = labels
            .keys()
            .map(|key| key.strip_prefix(CONTENT).expect("prefixed"))
            .collect();
        assert_eq!(keys, [".0", ".1", ".config", ".config1", ".l.0", ".l.1", ".m.0"]);
        assert_eq!(labels["containerd.io/gc.ref.content.l.1"], digest_of(b"l1").to_string());
    }
}
