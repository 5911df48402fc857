//! The lease manager: what the daemon as a whole and its clients know as its leases.
//!
//! The records are the metadata store's, in whose transactions leases and what they hold change together. This plugin puts them under
//! the type where clients and plugins of containerd look for them, `io.containerd.lease.v1`.

use orlop_plugin::{Contracts, Error, Instance, Registration, kind};

/// The registration of `io.containerd.lease.v1.manager`.
pub fn registrations() -> Vec<Registration> {
    let manager = Registration::new(kind::LEASE, "manager", |context| async move {
        let stores = context.host.plugins(kind::METADATA).await?;
        let leases = stores.into_iter().find_map(|store| store.contracts.leases()).ok_or_else(|| {
            Error::unavailable(
                "no running metadata store (io.containerd.metadata.v1.bolt) has leases: see `ctr plugins ls` for why",
            )
        })?;
        Ok(Instance::new().with_contracts(Contracts::default().with_leases(leases)))
    });
    // The scheduler, too: deleting a lease may wait for a collection.
    vec![manager.requires([kind::METADATA, kind::GC])]
}

#[cfg(test)]
mod tests;
