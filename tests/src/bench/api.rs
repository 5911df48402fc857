//! Figures over the API, without a client's own start in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateRequest, GetContainerRequest, container,
};
use orlop_plugin::channel::{Channel, socket};

use crate::peer::{Peer, Place};

/// How long a rate is measured.
const WINDOW: Duration = Duration::from_secs(3);
/// A specification's size.
const SPEC: usize = 8 << 10;

/// From `exec` to the first answered call.
pub async fn cold_start(place: &Place, peer: Peer) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let daemon = place.spawn(peer)?;
    loop {
        if VersionClient::new(socket::connect(&daemon.address))
            .version(())
            .await
            .is_ok()
        {
            return Ok(begin.elapsed());
        }
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(20), "{peer:?} does not answer");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

fn within<T>(namespace: &str, message: T) -> anyhow::Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    request
        .metadata_mut()
        .insert("containerd-namespace", namespace.parse()?);
    Ok(request)
}

/// Calls of `what` a second with `clients` connections.
pub async fn rate(place: &Place, peer: Peer, what: &'static str, clients: usize) -> anyhow::Result<f64> {
    let daemon = place.start(peer)?;
    let channel = socket::connect(&daemon.address);
    if what == "Containers.Get" {
        call(&channel, &daemon.namespace, "Containers.Create", 0).await?;
    }
    let count = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let channel = socket::connect(&daemon.address);
        let (count, namespace) = (count.clone(), daemon.namespace.clone());
        tasks.spawn(async move {
            while begin.elapsed() < WINDOW {
                call(&channel, &namespace, what, count.fetch_add(1, Ordering::Relaxed) + 1).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended?.with_context(|| format!("{what} on {peer:?}"))?;
    }
    Ok(count.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64())
}

async fn call(channel: &Channel, namespace: &str, what: &str, number: u64) -> anyhow::Result<()> {
    match what {
        "Version" => {
            VersionClient::new(channel.clone()).version(()).await?;
        }
        "Containers.Create" => {
            let container = Container {
                id: format!("c{number}"),
                runtime: Some(container::Runtime {
                    name: "io.containerd.runc.v2".into(),
                    options: None,
                }),
                spec: Some(prost_types::Any {
                    type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
                    value: vec![b' '; SPEC],
                }),
                ..Container::default()
            };
            let request = CreateContainerRequest {
                container: Some(container),
            };
            ContainersClient::new(channel.clone())
                .create(within(namespace, request)?)
                .await?;
        }
        "Containers.Get" => {
            let request = GetContainerRequest { id: "c0".into() };
            ContainersClient::new(channel.clone())
                .get(within(namespace, request)?)
                .await?;
        }
        "Leases.Create" => {
            let request = CreateRequest {
                id: format!("l{number}"),
                ..CreateRequest::default()
            };
            LeasesClient::new(channel.clone())
                .create(within(namespace, request)?)
                .await?;
        }
        other => anyhow::bail!("there is no figure {other}"),
    }
    Ok(())
}
