//! [`Snapshotter`] and [`Snapshotters`] as `containerd.services.snapshots.v1`.
//!
//! The service names a snapshotter in every request. A [`Snapshotter`] that is served alone (a containerd proxy plugin) takes any name.

use std::sync::Arc;

use containerd_client::services::v1::snapshots as pb;
use futures_util::StreamExt;

use super::client::{Remote, malformed};
use super::convert::{all, fields, mask, ordered, required, signed, size, stamp, time, unordered};
use super::server::{Answer, Call, batches, service};
use crate::channel::Channel;
use crate::contract::{
    BoxStream, Code, Ctx, Labels, Mount, SnapshotInfo, SnapshotKind, Snapshotter, Snapshotters, Usage, async_trait,
};
use crate::{Error, Result, Services};

const NAME: &str = "containerd.services.snapshots.v1.Snapshots";

/// How many snapshots one message of a list has, as in containerd.
const BATCH: usize = 100;

/// Serves `snapshotter`, whatever name a request has in it.
pub fn serve(snapshotter: Arc<dyn Snapshotter>) -> Services {
    service(NAME, Arc::new(Only(snapshotter)) as Arc<dyn Snapshotters>, answer)
}

/// Serves the one of `snapshotters` that a request names.
pub fn serve_all(snapshotters: Arc<dyn Snapshotters>) -> Services {
    service(NAME, Arc::new(Named(snapshotters)) as Arc<dyn Snapshotters>, answer)
}

/// The snapshotter called `name` at the far end of `channel`.
pub fn connect(channel: Channel, name: &str) -> Arc<dyn Snapshotter> {
    Arc::new(Far {
        remote: Remote::new(channel, NAME),
        name: name.to_owned(),
    })
}

/// All snapshotters at the far end of `channel`. One that is not there says so when it is called.
pub fn connect_all(channel: Channel) -> Arc<dyn Snapshotters> {
    Arc::new(FarAll(Remote::new(channel, NAME)))
}

/// `containerd.services.snapshots.v1.CommitSnapshotRequest` of containerd 2.2: that of `containerd-client` has no parent.
#[derive(Clone, PartialEq, prost::Message)]
struct CommitSnapshotRequest {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    key: String,
    #[prost(map = "string, string", tag = "4")]
    labels: std::collections::HashMap<String, String>,
    #[prost(string, tag = "5")]
    parent: String,
}

struct Only(Arc<dyn Snapshotter>);

impl Snapshotters for Only {
    fn snapshotter(&self, _: &str) -> Result<Arc<dyn Snapshotter>> {
        Ok(self.0.clone())
    }
}

struct Named(Arc<dyn Snapshotters>);

impl Snapshotters for Named {
    fn snapshotter(&self, name: &str) -> Result<Arc<dyn Snapshotter>> {
        if name.is_empty() {
            return Err(Error::invalid_argument("snapshotter argument missing"));
        }
        self.0.snapshotter(name).map_err(|error| match error.code {
            // containerd's code: `NotFound` would read as "no such snapshot".
            Code::NotFound => Error::invalid_argument(error.message),
            _ => error,
        })
    }
}

async fn answer(snapshotters: Arc<dyn Snapshotters>, mut call: Call) -> Result<Answer> {
    let find = |name: &str| snapshotters.snapshotter(name);
    match call.method.as_str() {
        "Prepare" => {
            let request: pb::PrepareSnapshotRequest = call.message().await?;
            let mounts = find(&request.snapshotter)?
                .prepare(&call.ctx, &request.key, &request.parent, ordered(request.labels))
                .await?;
            Answer::one(pb::PrepareSnapshotResponse { mounts: all(mounts) })
        }
        "View" => {
            let request: pb::ViewSnapshotRequest = call.message().await?;
            let mounts = find(&request.snapshotter)?
                .view(&call.ctx, &request.key, &request.parent, ordered(request.labels))
                .await?;
            Answer::one(pb::ViewSnapshotResponse { mounts: all(mounts) })
        }
        "Mounts" => {
            let pb::MountsRequest { snapshotter, key } = call.message().await?;
            let mounts = find(&snapshotter)?.mounts(&call.ctx, &key).await?;
            Answer::one(pb::MountsResponse { mounts: all(mounts) })
        }
        "Commit" => {
            let request: CommitSnapshotRequest = call.message().await?;
            let (snapshotter, labels) = (find(&request.snapshotter)?, ordered(request.labels));
            let committed = if request.parent.is_empty() {
                snapshotter.commit(&call.ctx, &request.name, &request.key, labels).await
            } else {
                let onto = snapshotter.commit_onto(&call.ctx, &request.name, &request.key, &request.parent, labels);
                onto.await
            };
            committed.and_then(Answer::empty)
        }
        "Remove" => {
            let pb::RemoveSnapshotRequest { snapshotter, key } = call.message().await?;
            find(&snapshotter)?
                .remove(&call.ctx, &key)
                .await
                .and_then(Answer::empty)
        }
        "Stat" => {
            let pb::StatSnapshotRequest { snapshotter, key } = call.message().await?;
            let info = find(&snapshotter)?.stat(&call.ctx, &key).await?;
            Answer::one(pb::StatSnapshotResponse {
                info: Some(info.into()),
            })
        }
        "Update" => {
            let request: pb::UpdateSnapshotRequest = call.message().await?;
            let info = required(request.info, "the info")?.into();
            let info = find(&request.snapshotter)?
                .update(&call.ctx, info, &fields(request.update_mask))
                .await?;
            Answer::one(pb::UpdateSnapshotResponse {
                info: Some(info.into()),
            })
        }
        "List" => {
            let pb::ListSnapshotsRequest { snapshotter, filters } = call.message().await?;
            let infos = find(&snapshotter)?.list(&call.ctx, &filters).await?;
            Answer::many(batches(infos, BATCH).map(|infos| Ok(pb::ListSnapshotsResponse { info: all(infos?) })))
        }
        "Usage" => {
            let pb::UsageRequest { snapshotter, key } = call.message().await?;
            let usage = find(&snapshotter)?.usage(&call.ctx, &key).await?;
            Answer::one(pb::UsageResponse {
                size: signed(usage.size),
                inodes: signed(usage.inodes),
            })
        }
        "Cleanup" => {
            let pb::CleanupRequest { snapshotter } = call.message().await?;
            find(&snapshotter)?.cleanup(&call.ctx).await.and_then(Answer::empty)
        }
        _ => call.unknown(),
    }
}

struct FarAll(Remote);

impl Snapshotters for FarAll {
    fn snapshotter(&self, name: &str) -> Result<Arc<dyn Snapshotter>> {
        Ok(Arc::new(Far {
            remote: self.0.clone(),
            name: name.to_owned(),
        }))
    }
}

struct Far {
    remote: Remote,
    name: String,
}

#[async_trait]
impl Snapshotter for Far {
    async fn stat(&self, ctx: &Ctx, key: &str) -> Result<SnapshotInfo> {
        let request = pb::StatSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
        };
        let answer: pb::StatSnapshotResponse = self.remote.unary(ctx, "Stat", request).await?;
        Ok(required(answer.info, "the info").map_err(malformed)?.into())
    }

    async fn update(&self, ctx: &Ctx, info: SnapshotInfo, fields: &[String]) -> Result<SnapshotInfo> {
        let request = pb::UpdateSnapshotRequest {
            snapshotter: self.name.clone(),
            info: Some(info.into()),
            update_mask: mask(fields),
        };
        let answer: pb::UpdateSnapshotResponse = self.remote.unary(ctx, "Update", request).await?;
        Ok(required(answer.info, "the info").map_err(malformed)?.into())
    }

    async fn usage(&self, ctx: &Ctx, key: &str) -> Result<Usage> {
        let request = pb::UsageRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
        };
        let answer: pb::UsageResponse = self.remote.unary(ctx, "Usage", request).await?;
        Ok(Usage {
            inodes: size(answer.inodes),
            size: size(answer.size),
        })
    }

    async fn mounts(&self, ctx: &Ctx, key: &str) -> Result<Vec<Mount>> {
        let request = pb::MountsRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
        };
        let answer: pb::MountsResponse = self.remote.unary(ctx, "Mounts", request).await?;
        Ok(all(answer.mounts))
    }

    async fn prepare(&self, ctx: &Ctx, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let request = pb::PrepareSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: unordered(labels),
        };
        let answer: pb::PrepareSnapshotResponse = self.remote.unary(ctx, "Prepare", request).await?;
        Ok(all(answer.mounts))
    }

    async fn view(&self, ctx: &Ctx, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let request = pb::ViewSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: unordered(labels),
        };
        let answer: pb::ViewSnapshotResponse = self.remote.unary(ctx, "View", request).await?;
        Ok(all(answer.mounts))
    }

    async fn commit(&self, ctx: &Ctx, name: &str, key: &str, labels: Labels) -> Result<()> {
        self.commit_onto(ctx, name, key, "", labels).await
    }

    async fn commit_onto(&self, ctx: &Ctx, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        let request = CommitSnapshotRequest {
            snapshotter: self.name.clone(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: unordered(labels),
            parent: parent.to_owned(),
        };
        self.remote.unary(ctx, "Commit", request).await
    }

    async fn remove(&self, ctx: &Ctx, key: &str) -> Result<()> {
        let request = pb::RemoveSnapshotRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
        };
        self.remote.unary(ctx, "Remove", request).await
    }

    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<SnapshotInfo>> {
        let request = pb::ListSnapshotsRequest {
            snapshotter: self.name.clone(),
            filters: filters.to_vec(),
        };
        let answers: BoxStream<pb::ListSnapshotsResponse> = self.remote.stream(ctx, "List", request).await?;
        let infos = answers.flat_map(|answer| {
            futures_util::stream::iter(match answer {
                Ok(answer) => answer.info.into_iter().map(|info| Ok(info.into())).collect(),
                Err(error) => vec![Err(error)],
            })
        });
        Ok(infos.boxed())
    }

    async fn cleanup(&self, ctx: &Ctx) -> Result<()> {
        let snapshotter = self.name.clone();
        self.remote
            .unary(ctx, "Cleanup", pb::CleanupRequest { snapshotter })
            .await
    }
}

impl From<SnapshotInfo> for pb::Info {
    fn from(info: SnapshotInfo) -> Self {
        let kind = match info.kind {
            SnapshotKind::View => pb::Kind::View,
            SnapshotKind::Active => pb::Kind::Active,
            SnapshotKind::Committed => pb::Kind::Committed,
        };
        Self {
            name: info.name,
            parent: info.parent,
            kind: kind.into(),
            created_at: stamp(info.created),
            updated_at: stamp(info.updated),
            labels: unordered(info.labels),
        }
    }
}

impl From<pb::Info> for SnapshotInfo {
    fn from(info: pb::Info) -> Self {
        let kind = match info.kind() {
            pb::Kind::View => SnapshotKind::View,
            pb::Kind::Active => SnapshotKind::Active,
            // containerd takes what is unknown for committed too.
            pb::Kind::Committed | pb::Kind::Unknown => SnapshotKind::Committed,
        };
        Self {
            kind,
            name: info.name,
            parent: info.parent,
            labels: ordered(info.labels),
            created: time(info.created_at),
            updated: time(info.updated_at),
        }
    }
}
