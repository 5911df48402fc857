//! What one call costs, by the way it takes: a built-in's function, a library's channel, a socket to another process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orlop_core::host::Registry;
use orlop_core::loader;
use orlop_plugin::contract::{Ctx, Mount, Namespace, Snapshotter};
use orlop_plugin::snapshots::{Directories, LayeredSnapshotter, Layers, Removal, Snapshot};
use orlop_plugin::{Host, InitContext, Registration, kind};
use orlop_tests::{build_directory, built};

use crate::peer::Place;

const CALLS: u32 = 20_000;

pub async fn report(place: &Place) -> anyhow::Result<()> {
    let registry = Registry::new();
    let direct = Arc::new(LayeredSnapshotter::open(&place.path().join("direct"), Nothing, Removal::AtOnce).await?);
    println!("{:<58} {:>14.2}", "a unary call to a built-in, µs", cost(direct).await?);

    let config = orlop_config::Config {
        plugin_dir: build_directory(),
        ..Default::default()
    };
    let found = loader::dylib::load(&config, &registry).await;
    let library = found
        .loaded
        .into_iter()
        .map(|loaded| loaded.registration)
        .find(is_native);
    let library = library.ok_or_else(|| anyhow::anyhow!("the native snapshotter's library was not built"))?;
    let library = init(&registry, library, place, "library").await?;
    println!(
        "{:<58} {:>14.2}",
        "a unary call into a library, µs",
        cost(library).await?
    );

    let socket = place.path().join("proxy.sock");
    let mut server = std::process::Command::new(built("orlopd"))
        .args(["plugin", "serve", "--socket"])
        .arg(&socket)
        .arg("--data")
        .arg(socket.with_extension("root"))
        .arg(build_directory().join("liborlop_snapshotter_native.so"))
        .spawn()?;
    let proxy = orlop_plugin::rpc::snapshotter::connect(orlop_plugin::channel::socket::connect(&socket), "native");
    while tokio::net::UnixStream::connect(&socket).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let cost = cost(proxy).await;
    server.kill()?;
    server.wait()?;
    println!("{:<58} {:>14.2}", "a unary call over a proxy, µs", cost?);
    Ok(())
}

/// A snapshotter without layers: its records are those of every other.
struct Nothing;

impl Layers for Nothing {
    fn make(&self, _: &Directories, _: &Snapshot) -> orlop_plugin::Result<()> {
        Ok(())
    }

    fn mounts(&self, _: &Directories, _: &Snapshot) -> orlop_plugin::Result<Vec<Mount>> {
        Ok(Vec::new())
    }
}

fn is_native(registration: &Registration) -> bool {
    registration.uri.kind == kind::SNAPSHOTTER && registration.uri.id == "native"
}

async fn init(
    registry: &Arc<Registry>,
    registration: Registration,
    place: &Place,
    name: &str,
) -> anyhow::Result<Arc<dyn Snapshotter>> {
    let context = InitContext {
        uri: registration.uri.clone(),
        root_path: place.path().join(name),
        state_path: place.path().join(format!("{name}-state")),
        config: registration.config.clone(),
        address: String::new(),
        ttrpc_address: String::new(),
        timeouts: std::collections::BTreeMap::new(),
        stream_processors: Vec::new(),
        host: Host::new(registry.clone()),
    };
    let instance = registration
        .init(context)
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    instance
        .contracts
        .snapshotter
        .ok_or_else(|| anyhow::anyhow!("it offers no snapshotter"))
}

/// µs a call: `stat` of a snapshot that exists.
async fn cost(snapshotter: Arc<dyn Snapshotter>) -> anyhow::Result<f64> {
    let ctx = Ctx::new(Namespace::new("bench")?);
    snapshotter
        .prepare(&ctx, "key", "", std::collections::BTreeMap::new())
        .await?;
    for _ in 0..CALLS / 10 {
        snapshotter.stat(&ctx, "key").await?;
    }
    let begin = Instant::now();
    for _ in 0..CALLS {
        snapshotter.stat(&ctx, "key").await?;
    }
    let each = begin.elapsed() / CALLS;
    snapshotter.remove(&ctx, "key").await?;
    Ok(each.as_secs_f64() * 1e6)
}
