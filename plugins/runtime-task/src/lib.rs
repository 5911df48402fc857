//! The v2 task runtime: starts shims, talks to them, and notices when they die.
//!
//! A task is a container that runs. The daemon does not run it: a shim does, a process of its own that outlives the daemon and that
//! is spoken to over ttrpc. What lives here: from a container's record to a bundle on disk, a shim and a connection ([`shims`]), the
//! same after a restart ([`load`]), and the requests in between ([`service`]). What does not: anything about namespaces, cgroups or
//! mounts, which is the shim's, and most events, which shims send themselves.
//!
//! ```text
//!  create ─▶ name taken (table) ─▶ bundle ─▶ `shim start` (binary) ─▶ connection ─▶ Create ─▶ task
//!  exit, and its event ◀── shim
//!  delete ─▶ Delete ─▶ Shutdown ─▶ bundle removed ─▶ name free once the shim has ended
//!  the shim dies ─▶ `shim delete` ─▶ bundle removed ─▶ events ─▶ name free
//! ```

mod binary;
mod bootstrap;
mod bundle;
mod checkpoint;
mod connection;
mod convert;
mod events;
mod load;
mod rootfs;
mod service;
mod shim_log;
mod shims;
mod table;
mod task;
#[cfg(test)]
mod tests;
mod timeouts;

use std::sync::Arc;

use orlop_plugin::contract::Contracts;
use orlop_plugin::{InitContext, InitError, Instance, Registration, blocking, kind};
use serde::{Deserialize, Serialize};

use binary::Daemon;
use service::TaskService;
use shims::Shims;
use timeouts::Timeouts;

/// `[plugins."io.containerd.runtime.v2.task"]`, with the keys and defaults of containerd 1.7.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The platforms whose containers the shims can run.
    pub platforms: Vec<String>,
    /// Whether shims put themselves into a core scheduling group.
    pub sched_core: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            platforms: vec![orlop_plugin::registration::host_platform()],
            sched_core: false,
        }
    }
}

/// What this library offers.
pub fn registrations() -> Vec<Registration> {
    vec![
        Registration::new(kind::RUNTIME, "task", init)
            .requires([kind::EVENT, kind::METADATA])
            .host_platform()
            .config(&Config::default()),
    ]
}

async fn init(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    let timeouts = Timeouts::read(&context.timeouts)?;
    let (root, state) = {
        let context = context.clone();
        blocking(move || Ok((context.root()?.to_owned(), context.state()?.to_owned()))).await?
    };
    let shims = Arc::new(Shims {
        root,
        state,
        daemon: Daemon {
            address: context.address,
            ttrpc_address: context.ttrpc_address,
            sched_core: config.sched_core,
        },
        timeouts,
        host: context.host,
        table: Arc::default(),
    });
    shims.load().await?;
    let released = shims.clone();
    let instance = Instance::new()
        .with_contracts(Contracts::default().with_tasks(Arc::new(TaskService(shims.clone()))))
        .export("root", shims.root.display())
        .export("state", shims.state.display())
        .on_shutdown(move || async move { released.release() });
    Ok(instance)
}

orlop_plugin::export_plugin!(registrations, "io.containerd.runtime.v2.task");
