//! `orlopd publish`: what older shims call to tell of an event when they have no ttrpc connection.

use std::io::Read;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use orlop_plugin::channel::socket;
use orlop_plugin::contract::{Any, Ctx, Namespace};
use prost::Message;

use super::Flags;

/// No event comes near this size; what is larger is a mistake at the other end of the pipe.
const MAX_EVENT: u64 = 4 << 20;

#[derive(Args)]
pub(super) struct Publish {
    /// Namespace to publish to
    #[arg(long)]
    namespace: String,
    /// Topic of the event
    #[arg(long)]
    topic: String,
}

// === impl Publish ===

impl Publish {
    pub(super) fn run(self, flags: &Flags) -> anyhow::Result<ExitCode> {
        let mut bytes = Vec::new();
        std::io::stdin()
            .take(MAX_EVENT)
            .read_to_end(&mut bytes)
            .context("read the event from standard input")?;
        let event = Any::decode(bytes.as_slice()).context("standard input holds no protobuf Any")?;
        let address = match &flags.address {
            Some(address) => address.clone(),
            None => flags.load()?.config.grpc.address,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let events = orlop_plugin::rpc::events::connect(socket::connect(&address));
            events
                .publish(&Ctx::new(Namespace::new(self.namespace)?), &self.topic, event)
                .await
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
