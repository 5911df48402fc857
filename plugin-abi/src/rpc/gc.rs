//! [`GarbageCollector`] and [`Collector`] as `orlop.gc.v1`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use super::client::Remote;
use super::server::{Answer, Call, service};
use crate::api::gc as pb;
use crate::channel::Channel;
use crate::contract::{BoxStream, Collector, Ctx, GarbageCollector, GcStats, Mutation, async_trait};
use crate::{Result, Services};

const SCHEDULER: &str = "orlop.gc.v1.GarbageCollector";
const COLLECTOR: &str = "orlop.gc.v1.Collector";

/// Serves who decides when garbage is collected.
pub fn serve(gc: Arc<dyn GarbageCollector>) -> Services {
    service(SCHEDULER, gc, schedule)
}

/// Serves who collects garbage.
pub fn serve_collector(collector: Arc<dyn Collector>) -> Services {
    service(COLLECTOR, collector, collect)
}

/// Who decides, at the far end of `channel`.
pub fn connect(channel: Channel) -> Arc<dyn GarbageCollector> {
    Arc::new(Scheduler(Remote::new(channel, SCHEDULER)))
}

/// Who collects, at the far end of `channel`.
pub fn connect_collector(channel: Channel) -> Arc<dyn Collector> {
    Arc::new(Sweeper(Remote::new(channel, COLLECTOR)))
}

async fn schedule(gc: Arc<dyn GarbageCollector>, mut call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "ScheduleAndWait" => {
            let pb::ScheduleAndWaitRequest {} = call.message().await?;
            Answer::one(pb::Stats::from(gc.schedule_and_wait(&call.ctx).await?))
        }
        _ => call.unknown(),
    }
}

async fn collect(collector: Arc<dyn Collector>, mut call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "Collect" => {
            let pb::CollectRequest {} = call.message().await?;
            Answer::one(pb::Stats::from(collector.collect(&call.ctx).await?))
        }
        "Mutations" => {
            let pb::MutationsRequest {} = call.message().await?;
            let mutations = collector.mutations(&call.ctx).await?;
            Answer::many(mutations.map(|mutation| {
                let Mutation { mutations, deletions } = mutation?;
                Ok(pb::Mutation { mutations, deletions })
            }))
        }
        _ => call.unknown(),
    }
}

struct Scheduler(Remote);

#[async_trait]
impl GarbageCollector for Scheduler {
    async fn schedule_and_wait(&self, ctx: &Ctx) -> Result<GcStats> {
        let request = pb::ScheduleAndWaitRequest {};
        let stats: pb::Stats = self.0.unary(ctx, "ScheduleAndWait", request).await?;
        Ok(stats.into())
    }
}

struct Sweeper(Remote);

#[async_trait]
impl Collector for Sweeper {
    async fn collect(&self, ctx: &Ctx) -> Result<GcStats> {
        let stats: pb::Stats = self.0.unary(ctx, "Collect", pb::CollectRequest {}).await?;
        Ok(stats.into())
    }

    async fn mutations(&self, ctx: &Ctx) -> Result<BoxStream<Mutation>> {
        let request = pb::MutationsRequest {};
        let answers: BoxStream<pb::Mutation> = self.0.stream(ctx, "Mutations", request).await?;
        let mutations = answers.map(|answer| {
            let pb::Mutation { mutations, deletions } = answer?;
            Ok(Mutation { mutations, deletions })
        });
        Ok(mutations.boxed())
    }
}

impl From<GcStats> for pb::Stats {
    fn from(stats: GcStats) -> Self {
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            elapsed_nanoseconds: nanoseconds(stats.elapsed),
            blocked_nanoseconds: nanoseconds(stats.blocked),
            removed: stats.removed,
        }
    }
}

impl From<pb::Stats> for GcStats {
    fn from(stats: pb::Stats) -> Self {
        Self {
            elapsed: Duration::from_nanos(stats.elapsed_nanoseconds),
            blocked: Duration::from_nanos(stats.blocked_nanoseconds),
            removed: stats.removed,
        }
    }
}
