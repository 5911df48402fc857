//! `io.containerd.transfer.v1.local`: moves images between registries, archives and the stores of this machine, on the daemon's side.
//!
//! A client names the two ends of a transfer and opens a stream where bytes pass between it and us; everything else happens here:
//! speaking to registries ([`registry`]), reading and writing archives ([`archive`]), understanding the documents in them ([`oci`], [`walk`]), keeping them from garbage
//! collection ([`gc_labels`], [`lease`]) and unpacking them ([`unpack`]). The stores themselves, snapshotters and differs are the
//! daemon's, reached through its contracts.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod archive;
mod config;
mod content;
mod endpoint;
mod export;
mod gc_labels;
mod image_store;
mod import;
mod lease;
mod oci;
mod progress;
mod pull;
mod push;
mod registry;
mod stream;
mod unpack;
mod verify;
mod walk;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use containerd_client::types::transfer::ImageStore;
use orlop_plugin::contract::{Any, Contracts, Ctx, Transfer, async_trait};
use orlop_plugin::registration::kind;
use orlop_plugin::{Error, Host, InitContext, InitError, Instance, Registration, Result};

pub use config::{Config, UnpackConfig};
use endpoint::Endpoint;
use lease::Leased;
use oci::{Descriptor, Platform};
use progress::Progress;
use registry::Network;
use tokio::sync::Semaphore;
use unpack::KeyedLocks;

/// What this crate registers.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::TRANSFER, "local", start)
            .requires([kind::LEASE, kind::METADATA, kind::DIFFER, kind::IMAGE_VERIFIER])
            .config(&Config::default()),
    ]
}

async fn start(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    for entry in &config.unpack_config {
        let platform = entry.platform.parse::<Platform>();
        platform.map_err(|error| error.context("unpack_config"))?;
    }
    let transfer = LocalTransfer::new(context.host, config);
    Ok(Instance::new().with_contracts(Contracts::default().with_transfer(Arc::new(transfer))))
}

/// Transfers between the stores of this machine and the streams of clients.
pub struct LocalTransfer {
    host: Host,
    config: Config,
    locks: Arc<KeyedLocks>,
    /// Layers that are fetched at a time, by all transfers.
    downloads: Arc<Semaphore>,
    /// Layers that are sent at a time, by all transfers.
    uploads: Arc<Semaphore>,
    network: Network,
}

// === impl LocalTransfer ===

impl LocalTransfer {
    /// Transfers with the stores of `host`.
    pub fn new(host: Host, config: Config) -> Self {
        Self {
            downloads: Arc::new(Semaphore::new(limit_of(config.max_concurrent_downloads))),
            uploads: Arc::new(Semaphore::new(limit_of(config.max_concurrent_uploaded_layers))),
            host,
            config,
            locks: Arc::default(),
            network: Network::from_environment(),
        }
    }

    async fn run(&self, ctx: &Ctx, source: &Endpoint, destination: &Endpoint, progress: &Progress) -> Result<()> {
        match (source, destination) {
            (Endpoint::Import(archive), Endpoint::Store(store)) => {
                let import = import::Import {
                    host: &self.host,
                    config: &self.config,
                    locks: &self.locks,
                    progress,
                };
                import.run(ctx, archive, store).await
            }
            (Endpoint::Store(store), Endpoint::Export(archive)) => {
                export::export(&self.host, ctx, store, archive, progress).await
            }
            (Endpoint::Store(source), Endpoint::Store(destination)) => self.tag(ctx, source, destination).await,
            (Endpoint::Import(archive), Endpoint::Export(copy)) => {
                import::echo(&self.host, ctx, &archive.stream, &copy.stream).await
            }
            (Endpoint::Registry(registry), Endpoint::Store(store)) => {
                let pull = pull::Pull {
                    host: &self.host,
                    config: &self.config,
                    locks: &self.locks,
                    downloads: &self.downloads,
                    network: &self.network,
                    progress,
                };
                pull.run(ctx, registry, store).await
            }
            (Endpoint::Store(store), Endpoint::Registry(registry)) => {
                let push = push::Push {
                    host: &self.host,
                    config: &self.config,
                    uploads: &self.uploads,
                    network: &self.network,
                    progress,
                };
                push.run(ctx, store, registry).await
            }
            _ => Err(Error::unimplemented(format!(
                "cannot transfer from {} to {}",
                source.describe(),
                destination.describe()
            ))),
        }
    }

    /// Gives an image further names.
    async fn tag(&self, ctx: &Ctx, source: &ImageStore, destination: &ImageStore) -> Result<()> {
        let leased = Leased::new(&self.host, ctx).await?;
        let images = self.host.images()?;
        let tagged: Result<()> = async {
            let image = images.get(leased.ctx(), &source.name).await;
            let image = image.map_err(|error| error.context(format!("look up the image {:?}", source.name)))?;
            let target = Descriptor::from(image.target);
            let names = image_store::names(destination, &target);
            if names.is_empty() {
                return Err(Error::invalid_argument(
                    "the transfer gives no name to tag the image with",
                ));
            }
            for name in names {
                image_store::save(images.as_ref(), leased.ctx(), destination, &name, &target).await?;
            }
            Ok(())
        }
        .await;
        leased.release().await;
        tagged
    }
}

/// A limit of the configuration, where 0 is none.
fn limit_of(configured: u32) -> usize {
    match configured {
        0 => Semaphore::MAX_PERMITS,
        limit => limit as usize,
    }
}

#[async_trait]
impl Transfer for LocalTransfer {
    async fn transfer(&self, ctx: &Ctx, source: Any, destination: Any, progress: &str) -> Result<()> {
        let (source, destination) = (Endpoint::decode(&source)?, Endpoint::decode(&destination)?);
        let progress = Progress::join(&self.host, ctx, progress).await?;
        let done = self.run(ctx, &source, &destination, &progress).await;
        progress.close().await;
        done
    }
}

orlop_plugin::export_plugin!(registrations, "io.containerd.transfer.v1.local");
