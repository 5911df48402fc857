//! Media types: which kind of document or blob a descriptor speaks of.

/// An OCI index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// An OCI layer, zstd.
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker's index.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's layer.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker's layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.";
const DOCKER_FOREIGN_LAYERS: [&str; 2] = [
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];
const CHECKPOINT: [&str; 2] = [
    "application/vnd.containerd.container.criu.checkpoint.criu.tar",
    "application/vnd.containerd.container.checkpoint.config.v1+proto",
];

/// Whether it is a manifest.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, MANIFEST | DOCKER_MANIFEST)
}

/// Whether it is an index.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, INDEX | DOCKER_INDEX)
}

/// Whether it is an image configuration.
pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, CONFIG | DOCKER_CONFIG)
}

/// Whether it is a configuration of an image or of a checkpoint.
pub fn is_known_config(media_type: &str) -> bool {
    is_config(media_type) || CHECKPOINT.contains(&media_type)
}

/// Whether it is a layer, however compressed or encrypted.
pub fn is_layer(media_type: &str) -> bool {
    let base = media_type.split_once('+').map_or(media_type, |(base, _)| base);
    media_type.starts_with("application/vnd.oci.image.layer.")
        || matches!(base, DOCKER_LAYER | DOCKER_LAYER_GZIP)
        || DOCKER_FOREIGN_LAYERS.contains(&base)
}

/// Whether its licence forbids passing it on, so that an image may lack it.
pub fn is_non_distributable(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with(DOCKER_FOREIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_known_whatever_wraps_them() {
        for layer in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            DOCKER_LAYER,
            "application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            assert!(is_layer(layer), "{layer}");
        }
        for other in [MANIFEST, CONFIG, DOCKER_CONFIG, "application/json", ""] {
            assert!(!is_layer(other), "{other}");
        }
        assert!(is_non_distributable(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        ));
        assert!(!is_non_distributable(DOCKER_LAYER_GZIP));
    }
}
