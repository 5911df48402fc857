//! The devmapper snapshotter: every snapshot is a thin device in a pool of the device-mapper, with a file system of its own. A child starts as
//! the pool's snapshot of its parent, which copies nothing.
//!
//! ```text
//!   ROOT/metadata.redb        the records of snapshots
//!   ROOT/devices-POOL.redb    which device of the pool is which snapshot's
//!   ROOT/snapshots/ID         an empty directory: as long as it is there, so may the device be
//!   /dev/mapper/POOL-snap-ID  the device, while the snapshot is active, or a view
//! ```
//!
//! What is recorded, made and removed when is the SDK's business ([`orlop_plugin::snapshots`]); here are the devices ([`thin`]), their records
//! ([`devices`]), the pool they are in ([`pool`]) and the program that drives it ([`dmsetup`]). The pool is made by whoever runs the machine.

mod config;
#[cfg(test)]
mod conformance;
mod devices;
mod discard;
mod dmsetup;
mod pool;
mod thin;

use std::path::Path;
use std::sync::Arc;

use orlop_plugin::snapshots::{LayeredSnapshotter, Removal, plugin_root};
use orlop_plugin::{Error, InitContext, InitError, Instance, Registration, blocking, kind};

use config::Config;
use devices::Devices;
use thin::ThinDevices;

/// The way to the device-mapper.
const CONTROL: &str = "/dev/mapper/control";

/// What this library has to offer.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::SNAPSHOTTER, "devmapper", start)
            .host_platform()
            .config(&Config::default()),
    ]
}

async fn start(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    let settings = config.settings()?;
    if !Path::new(CONTROL).exists() {
        return Err(Error::failed_precondition(format!(
            "this machine has no device-mapper ({CONTROL} is not there), so no thin pool {:?}: `modprobe dm_thin_pool` may help, if its kernel \
             has it",
            settings.pool
        ))
        .into());
    }
    let root = plugin_root(&context, &config.root_path)?;
    let (place, discard) = (root.clone(), config.discard_blocks);
    let (devices, thin) = blocking(move || {
        let devices = Arc::new(Devices::open(&place, &settings.pool)?);
        let thin = ThinDevices::open(settings, Arc::clone(&devices), discard)?;
        Ok((devices, thin))
    })
    .await?;
    let removal = if config.async_remove {
        Removal::AtCleanup
    } else {
        Removal::AtOnce
    };
    let snapshotter = LayeredSnapshotter::open(&root, thin, removal).await?;
    let ended = snapshotter.clone();
    Ok(snapshotter.into_instance(&root).on_shutdown(move || async move {
        ended.close().await;
        // As above: it syncs once more, and a panic there leaves nothing to let go of.
        let _ = blocking(move || {
            devices.close();
            Ok(())
        })
        .await;
    }))
}

orlop_plugin::export_plugin!(registrations, "io.containerd.snapshotter.v1.devmapper");
