//! The overlayfs snapshotter (`io.containerd.snapshotter.v1.overlayfs`): a layer is a directory, a snapshot a stack of them.
//!
//! ```text
//!   ROOT/snapshots/ID/fs     the layer: upperdir of an active snapshot, one of the lowerdirs of what stands on a committed one
//!   ROOT/snapshots/ID/work   workdir of an active snapshot
//! ```
//!
//! `config` has the settings, `layers` what a snapshot is and how it is mounted, `probe` what the kernel can do here. Records and directories
//! are the SDK's ([`orlop_plugin::snapshots`]).

mod config;
mod layers;
mod probe;

#[cfg(test)]
mod tests;

use orlop_plugin::contract::Contracts;
use orlop_plugin::snapshots::{LayeredSnapshotter, Removal, plugin_root};
use orlop_plugin::{InitContext, InitError, Instance, Registration, blocking, kind};
use std::sync::Arc;

use config::Config;
use layers::Overlay;

/// What this library registers.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::SNAPSHOTTER, "overlayfs", init)
            .host_platform()
            .config(&Config::default()),
    ]
}

async fn init(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    let root = plugin_root(&context, &config.root_path)?;
    let probed = root.clone();
    let kernel = blocking(move || Ok(probe::probe(&probed)))
        .await?
        .map_err(|reason| InitError::Skip(format!("overlayfs does not work on {}: {reason}", root.display())))?;
    let removal = if config.sync_remove {
        Removal::AtOnce
    } else {
        Removal::AtCleanup
    };
    let overlay = Overlay::new(&config, kernel);
    let snapshotter = LayeredSnapshotter::open(&root, overlay, removal).await?;
    let closed = snapshotter.clone();
    let instance = Instance::new()
        .with_contracts(Contracts {
            snapshotter: Some(Arc::new(snapshotter)),
            ..Contracts::default()
        })
        .export("root", root.display())
        .on_shutdown(move || async move { closed.close() });
    Ok(instance)
}

orlop_plugin::export_plugin!(registrations, "io.containerd.snapshotter.v1.overlayfs");
