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

use std::sync::Arc;

use crate::channel::Channel;
use crate::{Contracts, Services};

macro_rules! contracts {
    ($($field:ident: $serve:expr, $connect:expr;)*) => {
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

        /// Serves all that are there. Of `snapshotter` and `snapshotters`, which are one service, the latter wins.
        pub fn serve_all(contracts: &Contracts) -> Services {
            let mut services = Services::new();
            $(if let Some(contract) = &contracts.$field {
                services.merge($serve(Arc::clone(contract)));
            })*
            services
        }

        /// Connects those called `names` (others are for later daemons) at the far end of `channel`; a single snapshotter is called `id`.
        pub fn connect_all(channel: Channel, names: &[&str], id: &str) -> Contracts {
            let mut contracts = Contracts::default();
            for name in names {
                match *name {
                    $(stringify!($field) => contracts.$field = Some($connect(channel.clone(), id)),)*
                    _ => {}
                }
            }
            contracts
        }
    };
}

contracts! {
    content: content::serve, |channel, _| content::connect(channel);
    snapshotter: snapshotter::serve, snapshotter::connect;
    snapshotters: snapshotter::serve_all, |channel, _| snapshotter::connect_all(channel);
    differ: diff::serve, |channel, _| diff::connect(channel);
    images: images::serve, |channel, _| images::connect(channel);
    containers: containers::serve, |channel, _| containers::connect(channel);
    leases: leases::serve, |channel, _| leases::connect(channel);
    namespaces: namespaces::serve, |channel, _| namespaces::connect(channel);
    events: events::serve, |channel, _| events::connect(channel);
    tasks: tasks::serve, |channel, _| tasks::connect(channel);
    transfer: transfer::serve, |channel, _| transfer::connect(channel);
    streaming: |streams| both_ends(&streams), |channel, _| streaming::connect(channel);
    gc: gc::serve, |channel, _| gc::connect(channel);
    collector: gc::serve_collector, |channel, _| gc::connect_collector(channel);
}

fn both_ends(streams: &Arc<dyn crate::contract::Streaming>) -> Services {
    let mut services = streaming::serve(streams.clone());
    services.merge(streaming::serve_ends(streams.clone()));
    services
}
