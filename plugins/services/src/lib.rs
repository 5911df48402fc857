//! containerd's services, as clients call them: gRPC on the public socket over the contracts of whatever plugins run.
//!
//! containerd has two rows for most of them, `io.containerd.service.v1.X-service` for other plugins and `io.containerd.grpc.v1.X` for
//! clients, and clients look for both; so do we. Two have something to do: the diff service chooses a differ ([`diff`]), the tasks
//! service checks what it is asked ([`tasks`]). For the rest the contract is the service. What is behind a service is found when it is
//! called ([`late`]).
//!
//! The daemon's own services (introspection, version, health) are the core's.

mod diff;
mod late;
mod tasks;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use orlop_plugin::{Contracts, Host, Instance, Registration, Services, kind, rpc};

use diff::Ordered;
use late::Late;
use tasks::Checked;

/// containerd's type of what watches tasks; Orlop's row of that name may be any plugin's.
const MONITOR: &str = "io.containerd.monitor.v1";

/// Every service.
pub fn registrations() -> Vec<Registration> {
    let mut all = services();
    all.extend(grpc());
    all
}

/// The services as other plugins wait for them.
fn services() -> Vec<Registration> {
    let row = |id: &str, requires: &[&str]| {
        Registration::new(kind::SERVICE, id, |_| async { Ok(Instance::new()) }).requires(requires.iter().copied())
    };
    let diff = Registration::new(kind::SERVICE, "diff-service", |context| async move {
        let config = context.config()?;
        Ok(Instance::new()
            .with_contracts(Contracts::default().with_differ(Arc::new(Ordered::new(context.host, config)))))
    });
    let tasks = Registration::new(kind::SERVICE, "tasks-service", |context| async move {
        context.config::<tasks::Config>()?.warn();
        Ok(Instance::new())
    });
    vec![
        row("containers-service", &[kind::EVENT, kind::METADATA]),
        row("content-service", &[kind::METADATA]),
        diff.requires([kind::DIFFER]).config(&diff::Config::default()),
        row("images-service", &[kind::METADATA, kind::GC]),
        row("namespaces-service", &[kind::EVENT, kind::METADATA]),
        row("snapshots-service", &[kind::METADATA]),
        tasks
            .requires([kind::EVENT, kind::RUNTIME, kind::METADATA, MONITOR])
            .config(&tasks::Config::default()),
    ]
}

/// The services as clients call them.
fn grpc() -> Vec<Registration> {
    type Serve = fn(Late) -> Services;
    let row = |id: &str, requires: &[&str], serve: Serve| {
        let start = move |host: Host| Instance::new().with_grpc(serve(Late(host)));
        Registration::new(kind::GRPC, id, move |context| async move { Ok(start(context.host)) })
            .requires(requires.iter().copied())
    };
    let service = |id: &str, serve: Serve| row(id, &[kind::SERVICE], serve);
    vec![
        service("containers", |late| rpc::containers::serve(Arc::new(late))),
        service("content", |late| rpc::content::serve(Arc::new(late))),
        service("diff", |late| rpc::diff::serve(Arc::new(late))),
        service("images", |late| rpc::images::serve(Arc::new(late))),
        service("namespaces", |late| rpc::namespaces::serve(Arc::new(late))),
        service("snapshots", |late| rpc::snapshotter::serve_all(Arc::new(late))),
        service("tasks", |late| rpc::tasks::serve(Arc::new(Checked(late)))),
        row("events", &[kind::EVENT], |late| rpc::events::serve(Arc::new(late))),
        row("leases", &[kind::LEASE], |late| rpc::leases::serve(Arc::new(late))),
        row("streaming", &[kind::STREAMING], |late| {
            rpc::streaming::serve(Arc::new(late))
        }),
        row("transfer", &[kind::TRANSFER, kind::STREAMING], |late| {
            rpc::transfer::serve(Arc::new(late))
        }),
    ]
}
