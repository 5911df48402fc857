//! Decides when garbage is collected.
//!
//! The decision is a state machine without clocks or I/O ([`Schedule`]); [`run`] is the thin loop that feeds it the metadata
//! store's mutations, the requests of clients and the time, and that lets the store collect.

mod config;
mod run;
mod schedule;

use std::sync::Arc;

use orlop_plugin::contract::{Contracts, Ctx};
use orlop_plugin::{InitContext, InitError, Instance, Registration, kind};

pub use config::{Config, Policy};
pub use run::Scheduler;
pub use schedule::Schedule;

/// What this library offers.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::GC, "scheduler", init)
            .requires([kind::METADATA])
            .config(&Config::default()),
    ]
}

async fn init(context: InitContext) -> Result<Instance, InitError> {
    let policy = context.config::<Config>()?.policy()?;
    let collector = context.host.collector()?;
    let mutations = collector.mutations(&Ctx::daemon()).await?;
    let (scheduler, running) = Scheduler::start(policy, context.host, mutations);
    let instance = Instance::new()
        .with_contracts(Contracts::default().with_gc(Arc::new(scheduler)))
        .export("PauseThreshold", policy.pause_threshold)
        .export("DeletionThreshold", policy.deletion_threshold)
        .export("MutationThreshold", policy.mutation_threshold)
        .export("ScheduleDelay", policy.schedule_delay)
        .on_shutdown(move || async move { running.abort() });
    Ok(instance)
}

orlop_plugin::export_plugin!(registrations, "io.containerd.gc.v1.scheduler");
