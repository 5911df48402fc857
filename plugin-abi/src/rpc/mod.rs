//! The contracts over channels: one file a contract, with `serve` (a trait object as gRPC services) and `connect` (a channel as a trait
//! object), and nothing else.
//!
//! Each is the service that containerd's API has for it, the same on the wire, or one of Orlop's own where containerd has none. What all
//! of them share: [`server`] and [`client`] move bytes (once in a library, whatever the contract), [`codec`] turns messages into them,
//! [`convert`] parses names and times at the edge. Errors keep their code and message; streams move as fast as they are read; dropping a
//! call or a stream cancels it on the other side.

mod client;
mod codec;
pub mod containers;
pub mod content;
mod convert;
pub mod diff;
pub mod events;
pub mod gc;
pub mod images;
mod ingest;
pub mod leases;
pub mod namespaces;
mod server;
pub mod snapshotter;
pub mod streaming;
pub mod tasks;
pub mod transfer;
pub mod verifier;

pub use codec::MessageLimits;

use std::sync::Arc;

use crate::channel::Channel;
use crate::contract::{
    Collector, Containers, ContentStore, Differ, Events, GarbageCollector, ImageVerifier, Images, Leases, Namespaces,
    Snapshotter, Snapshotters, Streaming, Tasks, Transfer,
};
use crate::{Contracts, Error, Result, Services};

macro_rules! contracts {
    ($($field:ident, $with:ident: $contract:ident, $serve:expr, $connect:expr;)*) => {
        /// What contracts are called where they are listed: the names of the fields of [`Contracts`].
        pub const CONTRACT_NAMES: &[&str] = &[$(stringify!($field)),*];

        /// The names of those that are there.
        pub fn contract_names(contracts: &Contracts) -> Vec<&'static str> {
            let mut names = Vec::new();
            $(if contracts.$field.is_some() {
                names.push(stringify!($field));
            })*
            names
        }

        impl Contracts {
            $(
                /// The same, with this contract offered.
                pub fn $with(mut self, contract: Arc<dyn $contract>) -> Self {
                    self.served.push((stringify!($field), $serve(Arc::clone(&contract))));
                    self.$field = Some(contract);
                    self
                }
            )*
        }

        /// Serves all that are there, for whoever cannot know which those are: it brings the code of every contract along. Of
        /// `snapshotter` and `snapshotters`, which are one service, the latter wins.
        pub fn serve_all(contracts: &Contracts) -> Services {
            let mut services = Services::new();
            $(if let Some(contract) = &contracts.$field {
                services.merge($serve(Arc::clone(contract)));
            })*
            services
        }

        impl Reach {
            $(
                /// This contract, if it is offered.
                pub fn $field(&self) -> Option<Arc<dyn $contract>> {
                    match &self.0 {
                        Place::Here(contracts) => contracts.$field.clone(),
                        Place::Far { channel, offered, id } if offered.iter().any(|name| name == stringify!($field)) => {
                            Some($connect(channel.clone(), id))
                        }
                        Place::Far { .. } => None,
                    }
                }
            )*
        }

        /// Connects those called `names` (others are for later daemons) at the far end of `channel`; a single snapshotter is called `id`.
        pub fn connect_all(channel: Channel, names: &[&str], id: &str) -> Contracts {
            let mut contracts = Contracts::default();
            for name in names {
                match *name {
                    $(stringify!($field) => contracts = contracts.$with($connect(channel.clone(), id)),)*
                    _ => {}
                }
            }
            contracts
        }
    };
}

contracts! {
    content, with_content: ContentStore, content::serve, |channel, _| content::connect(channel);
    snapshotter, with_snapshotter: Snapshotter, snapshotter::serve, snapshotter::connect;
    snapshotters, with_snapshotters: Snapshotters, snapshotter::serve_all, |channel, _| snapshotter::connect_all(channel);
    differ, with_differ: Differ, diff::serve, |channel, _| diff::connect(channel);
    images, with_images: Images, images::serve, |channel, _| images::connect(channel);
    containers, with_containers: Containers, containers::serve, |channel, _| containers::connect(channel);
    leases, with_leases: Leases, leases::serve, |channel, _| leases::connect(channel);
    namespaces, with_namespaces: Namespaces, namespaces::serve, |channel, _| namespaces::connect(channel);
    events, with_events: Events, events::serve, |channel, _| events::connect(channel);
    tasks, with_tasks: Tasks, tasks::serve, |channel, _| tasks::connect(channel);
    transfer, with_transfer: Transfer, transfer::serve, |channel, _| transfer::connect(channel);
    streaming, with_streaming: Streaming, |streams| both_ends(&streams), |channel, _| streaming::connect(channel);
    gc, with_gc: GarbageCollector, gc::serve, |channel, _| gc::connect(channel);
    collector, with_collector: Collector, gc::serve_collector, |channel, _| gc::connect_collector(channel);
    image_verifier, with_image_verifier: ImageVerifier, verifier::serve, |channel, _| verifier::connect(channel);
}

/// Serves what a plugin offers, by what [`Contracts`]' `with_…` made of it.
///
/// Fails with `Internal` where a contract was put into its field directly: it would silently not be there for anybody else.
pub fn serve_offered(contracts: &Contracts) -> Result<Services> {
    let mut services = Services::new();
    for name in contract_names(contracts) {
        let Some((_, served)) = contracts.served.iter().rev().find(|(served, _)| *served == name) else {
            return Err(Error::internal(format!(
                "the plugin set the contract {name} directly: it is offered with `Contracts::with_{name}`"
            )));
        };
        services.merge(served.clone());
    }
    Ok(services)
}

/// Contracts in this library or process, or at the far end of a channel. There only what is asked for is connected, so that a library has
/// code to call only for what it uses.
#[derive(Clone)]
pub struct Reach(Place);

#[derive(Clone)]
enum Place {
    Here(Contracts),
    Far {
        channel: Channel,
        offered: Vec<String>,
        id: String,
    },
}

// === impl Reach ===

impl Reach {
    /// The contracts called `offered` at the far end of `channel`; a single snapshotter there is called `id`.
    pub fn far(channel: Channel, offered: Vec<String>, id: impl Into<String>) -> Self {
        Self(Place::Far {
            channel,
            offered,
            id: id.into(),
        })
    }

    /// What is offered, by the names of [`CONTRACT_NAMES`].
    pub fn names(&self) -> Vec<String> {
        match &self.0 {
            Place::Here(contracts) => contract_names(contracts).into_iter().map(str::to_owned).collect(),
            Place::Far { offered, .. } => offered.clone(),
        }
    }
}

impl From<Contracts> for Reach {
    fn from(contracts: Contracts) -> Self {
        Self(Place::Here(contracts))
    }
}

fn both_ends(streams: &Arc<dyn crate::contract::Streaming>) -> Services {
    let mut services = streaming::serve(streams.clone());
    services.merge(streaming::serve_ends(streams.clone()));
    services
}
