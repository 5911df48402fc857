//! Garbage collection, while the API goes on.
//!
//! ```text
//!   journal on ▶ mark over a view ▶ sweep: small transactions, referrers first ▶ journal off ▶ clean the backends
//!                                    │ each first marks, from its own draft, what the journal says was stored meanwhile
//! ```
//!
//! - **Marking** follows roots (leases, images, containers, ingests, `gc.root`) along references, over a view that never changes.
//! - **Writers go on.** Whatever they store is noted in a journal; a transaction of the sweep takes it up before it removes anything, so
//!   what was referred to meanwhile is spared with all it refers to. What is dead is removed together with, or after, all that refers to it:
//!   no moment shows an object that could still be taken up again but has lost a part.
//! - **Backends** lose what no namespace has a record of: each name is claimed, the records are looked at again, then it is removed
//!   ([`crate::in_flight`]). Only backends that may have something are looked at.

mod backends;
mod conditions;
mod labels;
mod mark;
mod order;
mod sweep;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::{StreamExt, stream};
use orlop_plugin::Result;
use orlop_plugin::contract::{BoxStream, Collector, Ctx, GcStats, Mutation, async_trait};

use crate::record;
use crate::shared::{Shared, detached};
pub(crate) use labels::EXPIRE;
use mark::Marks;

/// The collections of this run of the daemon: one at a time, shared by all who wait for one.
#[derive(Default)]
pub(crate) struct Collections {
    /// The number of the collection that began last.
    begun: AtomicU64,
    last: tokio::sync::Mutex<Last>,
}

/// The last collection that succeeded.
#[derive(Default)]
struct Last {
    number: u64,
    stats: GcStats,
}

/// Collects when told; tells what changes.
pub(crate) struct MetadataCollector(pub(crate) Arc<Shared>);

/// Notes what is stored until this is dropped.
struct Journal<'a>(&'a Shared);

// === impl Collections ===

impl Collections {
    /// Waits for the collection under way, if there is one.
    pub(crate) async fn wait(&self) {
        drop(self.last.lock().await);
    }
}

// === impl Journal ===

impl<'a> Journal<'a> {
    async fn start(shared: &'a Shared) -> Result<Self> {
        let journal = Self(shared);
        shared
            .store
            .write_quietly(|draft| {
                draft.start_journal();
                Ok(())
            })
            .await?;
        Ok(journal)
    }
}

impl Drop for Journal<'_> {
    fn drop(&mut self) {
        self.0.store.stop_journal();
    }
}

/// Returns after a collection that began after this call. Callers that wait together share one, and it runs to its end even when
/// they go away.
pub(crate) async fn collect_now(shared: &Arc<Shared>, _ctx: &Ctx) -> Result<GcStats> {
    let before = shared.collections.begun.load(Ordering::SeqCst);
    let shared = Arc::clone(shared);
    detached(async move {
        let mut last = shared.collections.last.lock().await;
        if last.number <= before {
            let number = shared.collections.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let stats = collect(&shared).await?;
            *last = Last { number, stats };
        }
        Ok(last.stats)
    })
    .await
}

async fn collect(shared: &Arc<Shared>) -> Result<GcStats> {
    let begun = Instant::now();
    let journal = Journal::start(shared).await?;
    let now = record::now();
    let (marks, dead) = shared
        .store
        .read(move |view| {
            let (marks, dead) = Marks::of(view, now)?;
            let dead = order::referrers_first(dead, |key, push| marks.references(view, key, push))?;
            Ok((marks, dead))
        })
        .await?;
    let swept = sweep::sweep(shared, marks, dead).await?;
    drop(journal);
    let stats = GcStats {
        elapsed: begun.elapsed(),
        blocked: swept.blocked,
        removed: swept.removed,
    };
    backends::clean(shared).await;
    tracing::debug!(removed = stats.removed, elapsed = ?stats.elapsed, blocked = ?stats.blocked, "collected garbage");
    Ok(stats)
}

#[async_trait]
impl Collector for MetadataCollector {
    async fn collect(&self, ctx: &Ctx) -> Result<GcStats> {
        collect_now(&self.0, ctx).await
    }

    async fn mutations(&self, _ctx: &Ctx) -> Result<BoxStream<Mutation>> {
        let totals = self.0.store.totals();
        let seen = *totals.borrow();
        Ok(stream::unfold((totals, seen), |(mut totals, seen)| async move {
            // The end of the store ends the stream.
            totals.changed().await.ok()?;
            let now = *totals.borrow_and_update();
            let news = Mutation {
                mutations: now.mutations - seen.mutations,
                deletions: now.deletions - seen.deletions,
            };
            Some((Ok(news), (totals, now)))
        })
        .boxed())
    }
}

#[cfg(test)]
mod tests;
