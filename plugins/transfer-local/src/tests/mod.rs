//! Whole transfers, through the plugin's contract, with the daemon in memory.

mod artifacts;
mod bad_input;
mod chunks;
mod export;
mod faults;
mod import;
mod push_faults;
mod registry;
mod side_by_side;
mod tls;
mod verify;

use containerd_client::types;
use containerd_client::types::transfer::{ImageReference, ImageStore, UnpackConfiguration};
use orlop_plugin::registration::host_platform;

/// The architecture of this machine, as images call it.
fn here() -> String {
    host_platform().split_once('/').expect("os/architecture").1.to_owned()
}

fn platform(architecture: &str) -> types::Platform {
    types::Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        ..types::Platform::default()
    }
}

/// What `ctr images import --base-name app` asks for.
fn unpacked() -> ImageStore {
    ImageStore {
        unpacks: vec![UnpackConfiguration {
            platform: Some(platform(&here())),
            snapshotter: String::new(),
        }],
        ..plain()
    }
}

/// The same with `--no-unpack --all-platforms`.
fn plain() -> ImageStore {
    ImageStore {
        extra_references: vec![ImageReference {
            name: "app".to_owned(),
            is_prefix: true,
            ..ImageReference::default()
        }],
        ..ImageStore::default()
    }
}
