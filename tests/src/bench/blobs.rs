//! Many small blobs: how quickly they come in, and how quickly they are collected again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use orlop_plugin::bytes::Bytes;
use orlop_plugin::channel::socket;
use orlop_plugin::contract::{CommitOptions, ContentStore, Ctx, Labels, Leases, Namespace, WriterOptions};
use orlop_plugin::rpc;

use crate::peer::{Peer, Place};

const CLIENTS: usize = 16;
const SIZE: usize = 1 << 10;

/// What became of the blobs.
pub struct Figures {
    /// Ingested a second, by 16 clients.
    pub rate: f64,
    /// The collection of all of them.
    pub collection: Duration,
    /// The longest that a write took meanwhile.
    pub stall: Duration,
}

/// Ingests `count` blobs, and collects them.
pub async fn measure(place: &Place, peer: Peer, count: usize) -> anyhow::Result<Figures> {
    let daemon = place.start(peer)?;
    let ctx = Ctx::new(Namespace::new(daemon.namespace.as_str())?);
    let leases = rpc::leases::connect(socket::connect(&daemon.address));
    // Until it is removed it keeps what no image keeps.
    leases.create(&ctx, Some("keeper"), Labels::new()).await?;
    let held = ctx.clone().with_lease("keeper");

    let next = Arc::new(AtomicUsize::new(0));
    let begin = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let content = rpc::content::connect(socket::connect(&daemon.address));
        let (next, held) = (next.clone(), held.clone());
        clients.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                ingest(&*content, &held, number)
                    .await
                    .with_context(|| format!("blob {number}"))?;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();

    let ended = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_until(
        rpc::leases::connect(socket::connect(&daemon.address)),
        ctx.clone(),
        ended.clone(),
    ));
    let begin = Instant::now();
    leases.delete(&ctx, "keeper", true).await?;
    let collection = begin.elapsed();
    ended.store(true, Ordering::Relaxed);
    Ok(Figures {
        rate,
        collection,
        stall: writer.await??,
    })
}

async fn ingest(content: &dyn ContentStore, ctx: &Ctx, number: usize) -> anyhow::Result<()> {
    let mut data = vec![0; SIZE];
    data[..8].copy_from_slice(&(number as u64).to_le_bytes());
    let options = WriterOptions {
        reference: format!("blob-{number}"),
        total: SIZE as u64,
        ..WriterOptions::default()
    };
    let mut writer = content.writer(ctx, options).await?;
    writer.write(Bytes::from(data)).await?;
    writer.commit(CommitOptions::default()).await?;
    Ok(())
}

/// Makes leases one after the other, and says what the slowest took.
async fn write_until(leases: Arc<dyn Leases>, ctx: Ctx, ended: Arc<AtomicBool>) -> anyhow::Result<Duration> {
    let mut slowest = Duration::ZERO;
    let mut number = 0;
    while !ended.load(Ordering::Relaxed) {
        let begin = Instant::now();
        leases.create(&ctx, Some(&format!("w{number}")), Labels::new()).await?;
        slowest = slowest.max(begin.elapsed());
        number += 1;
    }
    Ok(slowest)
}
