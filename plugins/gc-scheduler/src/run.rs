//! The loop around the schedule: it has the clock, the mutations, those who wait, and the way to the collector.

use std::time::Duration;

use futures_util::StreamExt;
use orlop_plugin::contract::{BoxStream, Ctx, GarbageCollector, GcStats, Mutation, async_trait};
use orlop_plugin::{Error, Host, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::{Policy, Schedule};

/// How long to wait before asking a store that went away for its mutations again.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

type Waiter = oneshot::Sender<Result<GcStats>>;

/// The scheduler as others see it.
pub struct Scheduler(mpsc::UnboundedSender<Waiter>);

// === impl Scheduler ===

impl Scheduler {
    /// Starts the loop. It ends when the handle is aborted.
    pub fn start(policy: Policy, host: Host, mutations: BoxStream<Mutation>) -> (Self, AbortHandle) {
        let (sender, waiters) = mpsc::unbounded_channel();
        let running: JoinHandle<()> = tokio::spawn(run(policy, host, mutations, waiters));
        (Self(sender), running.abort_handle())
    }
}

#[async_trait]
impl GarbageCollector for Scheduler {
    async fn schedule_and_wait(&self, _: &Ctx) -> Result<GcStats> {
        let ended = || Error::unavailable("the garbage collection scheduler has been shut down: try again");
        let (waiter, stats) = oneshot::channel();
        self.0.send(waiter).map_err(|_| ended())?;
        stats.await.map_err(|_| ended())?
    }
}

async fn run(
    policy: Policy,
    host: Host,
    mut mutations: BoxStream<Mutation>,
    mut arrivals: mpsc::UnboundedReceiver<Waiter>,
) {
    let mut schedule = Schedule::new(policy, Instant::now());
    let mut waiters = Vec::new();
    let mut subscribed = true;
    let mut resubscribe_at = Instant::now();
    loop {
        let next = schedule.next();
        tokio::select! {
            Some(waiter) = arrivals.recv() => {
                waiters.push(waiter);
                // Those who came while the last collection ran: one collection serves them all.
                while let Ok(waiter) = arrivals.try_recv() {
                    waiters.push(waiter);
                }
                schedule.trigger(Instant::now());
            }
            mutation = mutations.next(), if subscribed => match mutation {
                Some(Ok(mutation)) => schedule.mutated(Instant::now(), mutation),
                Some(Err(error)) => tracing::warn!(%error, "the metadata store stopped telling its mutations"),
                None => {
                    subscribed = false;
                    resubscribe_at = Instant::now() + RESUBSCRIBE;
                }
            },
            () = tokio::time::sleep_until(resubscribe_at), if !subscribed => match subscribe(&host).await {
                Ok(stream) => {
                    mutations = stream;
                    subscribed = true;
                    // What was missed may have been anything.
                    schedule.mutated(Instant::now(), Mutation { mutations: 1, deletions: 1 });
                }
                Err(error) => {
                    tracing::debug!(%error, "the metadata store does not tell its mutations yet");
                    resubscribe_at = Instant::now() + RESUBSCRIBE;
                }
            },
            () = sleep_until(next) => {
                if schedule.due() {
                    collect(&host, &mut schedule, &mut waiters).await;
                }
            }
        }
    }
}

async fn sleep_until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}

async fn subscribe(host: &Host) -> Result<BoxStream<Mutation>> {
    host.collector()?.mutations(&Ctx::daemon()).await
}

/// Collects once, for all who waited before it began.
async fn collect(host: &Host, schedule: &mut Schedule, waiters: &mut Vec<Waiter>) {
    let result = match host.collector() {
        Ok(collector) => collector.collect(&Ctx::daemon()).await,
        Err(error) => Err(error),
    };
    match &result {
        Ok(stats) => {
            tracing::debug!(elapsed = ?stats.elapsed, removed = stats.removed, "garbage collected");
            schedule.collected(Instant::now(), stats.elapsed);
        }
        Err(error) => {
            tracing::error!(%error, "garbage collection failed");
            schedule.failed(Instant::now());
        }
    }
    for waiter in waiters.drain(..) {
        // One that has given up is not interested.
        let _ = waiter.send(
            result
                .clone()
                .map_err(|error| error.context("garbage collection failed")),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use orlop_plugin::contract::{Collector, Contracts};
    use orlop_plugin::{HostApi, HostPlugin, Reach};

    /// Counts collections, and fails while told to.
    #[derive(Default)]
    struct Store {
        collections: AtomicU64,
        failures: AtomicU64,
        mutations: std::sync::Mutex<Option<mpsc::UnboundedSender<Mutation>>>,
    }

    #[async_trait]
    impl Collector for Store {
        async fn collect(&self, _: &Ctx) -> Result<GcStats> {
            let fail = self
                .failures
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if fail.is_ok() {
                return Err(Error::internal("disk on fire"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            let removed = self.collections.fetch_add(1, Ordering::SeqCst) + 1;
            Ok(GcStats {
                elapsed: Duration::from_millis(10),
                blocked: Duration::ZERO,
                removed,
            })
        }

        async fn mutations(&self, _: &Ctx) -> Result<BoxStream<Mutation>> {
            let (sender, receiver) = mpsc::unbounded_channel();
            *self.mutations.lock().expect("not poisoned") = Some(sender);
            Ok(Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async {
                receiver.recv().await.map(|mutation| (Ok(mutation), receiver))
            })))
        }
    }

    struct OnlyStore(Arc<Store>);

    #[async_trait]
    impl HostApi for OnlyStore {
        fn daemon(&self) -> Reach {
            Contracts::default().with_collector(self.0.clone()).into()
        }
        async fn plugins(&self, _: &str) -> Result<Vec<HostPlugin>> {
            Ok(Vec::new())
        }
    }

    async fn start() -> (Arc<Store>, Scheduler) {
        let store = Arc::new(Store::default());
        let host = Host::new(Arc::new(OnlyStore(store.clone())));
        let mutations = subscribe(&host).await.expect("subscribed");
        let policy = crate::Config::default().policy().expect("valid");
        (store, Scheduler::start(policy, host, mutations).0)
    }

    async fn settle(span: Duration) {
        tokio::time::sleep(span).await;
    }

    #[tokio::test(start_paused = true)]
    async fn collects_after_the_start_and_after_deletions_only() {
        let (store, _scheduler) = start().await;
        settle(Duration::from_secs(60)).await;
        assert_eq!(
            store.collections.load(Ordering::SeqCst),
            1,
            "nothing asked for a second one"
        );
        let tell = |mutation| {
            let sender = store.mutations.lock().expect("not poisoned");
            sender.as_ref().expect("subscribed").send(mutation).expect("heard");
        };
        tell(Mutation {
            mutations: 1,
            deletions: 1,
        });
        settle(Duration::from_secs(60)).await;
        assert_eq!(store.collections.load(Ordering::SeqCst), 2);
        tell(Mutation {
            mutations: 100,
            deletions: 0,
        });
        settle(Duration::from_secs(60)).await;
        assert_eq!(store.collections.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_a_collection_that_began_afterwards() {
        let (_store, scheduler) = start().await;
        let scheduler = Arc::new(scheduler);
        let ctx = Ctx::daemon();
        let first = scheduler.schedule_and_wait(&ctx).await.expect("collected");
        assert_eq!(first.removed, 1);
        let (second, third) = tokio::join!(scheduler.schedule_and_wait(&ctx), scheduler.schedule_and_wait(&ctx));
        let (second, third) = (second.expect("collected").removed, third.expect("collected").removed);
        assert_eq!((second, third), (2, 2), "one collection serves both");
        // The third begins; who comes while it runs waits for the fourth.
        let running = tokio::spawn({
            let (scheduler, ctx) = (scheduler.clone(), ctx.clone());
            async move { scheduler.schedule_and_wait(&ctx).await }
        });
        settle(Duration::from_millis(5)).await;
        let late = scheduler.schedule_and_wait(&ctx).await.expect("collected");
        assert_eq!(running.await.expect("joined").expect("collected").removed, 3);
        assert_eq!(late.removed, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_reaches_who_waits_and_is_tried_again() {
        let (store, scheduler) = start().await;
        store.failures.store(1, Ordering::SeqCst);
        let error = scheduler.schedule_and_wait(&Ctx::daemon()).await.expect_err("it fails");
        assert!(error.message.contains("disk on fire"), "{error}");
        settle(Duration::from_secs(5)).await;
        assert_eq!(store.collections.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn survives_a_store_that_is_replaced() {
        let (store, scheduler) = start().await;
        settle(Duration::from_secs(60)).await;
        drop(store.mutations.lock().expect("not poisoned").take());
        settle(Duration::from_secs(60)).await;
        assert!(
            store.mutations.lock().expect("not poisoned").is_some(),
            "subscribed again"
        );
        assert_eq!(
            store.collections.load(Ordering::SeqCst),
            2,
            "what was missed counts as a deletion"
        );
        scheduler.schedule_and_wait(&Ctx::daemon()).await.expect("collected");
    }
}
