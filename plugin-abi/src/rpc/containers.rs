//! [`Containers`] as `containerd.services.containers.v1`.

use std::sync::Arc;

use containerd_client::services::v1 as pb;
use futures_util::StreamExt;

use super::client::{Remote, malformed};
use super::convert::{all, fields, mask, named, ordered, required, stamp, time, unordered};
use super::server::{Answer, Call, service};
use crate::channel::Channel;
use crate::contract::{BoxStream, Container, Containers, Ctx, Runtime, async_trait, collect};
use crate::{Result, Services};

const NAME: &str = "containerd.services.containers.v1.Containers";

/// Serves `containers`.
pub fn serve(containers: Arc<dyn Containers>) -> Services {
    service(NAME, containers, answer)
}

/// The containers at the far end of `channel`.
pub fn connect(channel: Channel) -> Arc<dyn Containers> {
    Arc::new(Far(Remote::new(channel, NAME)))
}

async fn answer(containers: Arc<dyn Containers>, mut call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "Get" => {
            let pb::GetContainerRequest { id } = call.message().await?;
            let container = containers.get(&call.ctx, &id).await?;
            Answer::one(pb::GetContainerResponse {
                container: Some(container.into()),
            })
        }
        "List" => {
            let pb::ListContainersRequest { filters } = call.message().await?;
            let containers = collect(containers.list(&call.ctx, &filters).await?).await?;
            Answer::one(pb::ListContainersResponse {
                containers: all(containers),
            })
        }
        "ListStream" => {
            let pb::ListContainersRequest { filters } = call.message().await?;
            let containers = containers.list(&call.ctx, &filters).await?;
            Answer::many(containers.map(|container| {
                Ok(pb::ListContainerMessage {
                    container: Some(container?.into()),
                })
            }))
        }
        "Create" => {
            let pb::CreateContainerRequest { container } = call.message().await?;
            let container = required(container, "Container")?.into();
            let container = containers.create(&call.ctx, container).await?;
            Answer::one(pb::CreateContainerResponse {
                container: Some(container.into()),
            })
        }
        "Update" => {
            let pb::UpdateContainerRequest { container, update_mask } = call.message().await?;
            let container = required(container, "Container")?;
            named(&container.id, "Container.ID")?;
            let container = containers
                .update(&call.ctx, container.into(), &fields(update_mask))
                .await?;
            Answer::one(pb::UpdateContainerResponse {
                container: Some(container.into()),
            })
        }
        "Delete" => {
            let pb::DeleteContainerRequest { id } = call.message().await?;
            containers.delete(&call.ctx, &id).await.and_then(Answer::empty)
        }
        _ => call.unknown(),
    }
}

struct Far(Remote);

fn container(container: Option<pb::Container>) -> Result<Container> {
    Ok(required(container, "the container").map_err(malformed)?.into())
}

#[async_trait]
impl Containers for Far {
    async fn get(&self, ctx: &Ctx, id: &str) -> Result<Container> {
        let id = id.to_owned();
        let answer: pb::GetContainerResponse = self.0.unary(ctx, "Get", pb::GetContainerRequest { id }).await?;
        container(answer.container)
    }

    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<BoxStream<Container>> {
        let filters = filters.to_vec();
        let request = pb::ListContainersRequest { filters };
        let answers: BoxStream<pb::ListContainerMessage> = self.0.stream(ctx, "ListStream", request).await?;
        Ok(answers.map(|answer| container(answer?.container)).boxed())
    }

    async fn create(&self, ctx: &Ctx, new: Container) -> Result<Container> {
        let request = pb::CreateContainerRequest {
            container: Some(new.into()),
        };
        let answer: pb::CreateContainerResponse = self.0.unary(ctx, "Create", request).await?;
        container(answer.container)
    }

    async fn update(&self, ctx: &Ctx, changed: Container, fields: &[String]) -> Result<Container> {
        let request = pb::UpdateContainerRequest {
            container: Some(changed.into()),
            update_mask: mask(fields),
        };
        let answer: pb::UpdateContainerResponse = self.0.unary(ctx, "Update", request).await?;
        container(answer.container)
    }

    async fn delete(&self, ctx: &Ctx, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.0.unary(ctx, "Delete", pb::DeleteContainerRequest { id }).await
    }
}

impl From<Container> for pb::Container {
    fn from(container: Container) -> Self {
        Self {
            id: container.id,
            labels: unordered(container.labels),
            image: container.image,
            runtime: Some(pb::container::Runtime {
                name: container.runtime.name,
                options: container.runtime.options,
            }),
            spec: container.spec,
            snapshotter: container.snapshotter,
            snapshot_key: container.snapshot_key,
            created_at: stamp(container.created),
            updated_at: stamp(container.updated),
            extensions: unordered(container.extensions),
            sandbox: container.sandbox,
        }
    }
}

impl From<pb::Container> for Container {
    fn from(container: pb::Container) -> Self {
        let runtime = container.runtime.unwrap_or_default();
        Self {
            id: container.id,
            labels: ordered(container.labels),
            image: container.image,
            runtime: Runtime {
                name: runtime.name,
                options: runtime.options,
            },
            spec: container.spec,
            snapshotter: container.snapshotter,
            snapshot_key: container.snapshot_key,
            created: time(container.created_at),
            updated: time(container.updated_at),
            extensions: ordered(container.extensions),
            sandbox: container.sandbox,
        }
    }
}
