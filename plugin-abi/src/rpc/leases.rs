//! [`Leases`] as `containerd.services.leases.v1`.

use std::sync::Arc;

use containerd_client::services::v1 as pb;

use super::client::{Remote, malformed};
use super::convert::{all, ordered, required, stamp, time, unordered};
use super::server::{Answer, Call, service};
use crate::channel::Channel;
use crate::contract::{Ctx, Labels, Lease, LeaseResource, Leases, async_trait};
use crate::{Result, Services};

const NAME: &str = "containerd.services.leases.v1.Leases";

/// Serves `leases`.
pub fn serve(leases: Arc<dyn Leases>) -> Services {
    service(NAME, leases, answer)
}

/// The leases at the far end of `channel`.
pub fn connect(channel: Channel) -> Arc<dyn Leases> {
    Arc::new(Far(Remote::new(channel, NAME)))
}

async fn answer(leases: Arc<dyn Leases>, mut call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "Create" => {
            let pb::CreateRequest { id, labels } = call.message().await?;
            let id = Some(id.as_str()).filter(|id| !id.is_empty());
            let lease = leases.create(&call.ctx, id, ordered(labels)).await?;
            Answer::one(pb::CreateResponse {
                lease: Some(lease.into()),
            })
        }
        "Delete" => {
            let pb::DeleteRequest { id, sync } = call.message().await?;
            leases.delete(&call.ctx, &id, sync).await.and_then(Answer::empty)
        }
        "List" => {
            let pb::ListRequest { filters } = call.message().await?;
            let leases = leases.list(&call.ctx, &filters).await?;
            Answer::one(pb::ListResponse { leases: all(leases) })
        }
        "AddResource" => {
            let pb::AddResourceRequest { id, resource } = call.message().await?;
            let resource = required(resource, "the resource")?.into();
            leases
                .add_resource(&call.ctx, &id, resource)
                .await
                .and_then(Answer::empty)
        }
        "DeleteResource" => {
            let pb::DeleteResourceRequest { id, resource } = call.message().await?;
            let resource = required(resource, "the resource")?.into();
            leases
                .delete_resource(&call.ctx, &id, resource)
                .await
                .and_then(Answer::empty)
        }
        "ListResources" => {
            let pb::ListResourcesRequest { id } = call.message().await?;
            let resources = leases.list_resources(&call.ctx, &id).await?;
            Answer::one(pb::ListResourcesResponse {
                resources: all(resources),
            })
        }
        _ => call.unknown(),
    }
}

struct Far(Remote);

#[async_trait]
impl Leases for Far {
    async fn create(&self, ctx: &Ctx, id: Option<&str>, labels: Labels) -> Result<Lease> {
        let request = pb::CreateRequest {
            id: id.unwrap_or_default().to_owned(),
            labels: unordered(labels),
        };
        let answer: pb::CreateResponse = self.0.unary(ctx, "Create", request).await?;
        Ok(required(answer.lease, "the lease").map_err(malformed)?.into())
    }

    async fn delete(&self, ctx: &Ctx, id: &str, sync: bool) -> Result<()> {
        let id = id.to_owned();
        self.0.unary(ctx, "Delete", pb::DeleteRequest { id, sync }).await
    }

    async fn list(&self, ctx: &Ctx, filters: &[String]) -> Result<Vec<Lease>> {
        let filters = filters.to_vec();
        let answer: pb::ListResponse = self.0.unary(ctx, "List", pb::ListRequest { filters }).await?;
        Ok(all(answer.leases))
    }

    async fn add_resource(&self, ctx: &Ctx, id: &str, resource: LeaseResource) -> Result<()> {
        let request = pb::AddResourceRequest {
            id: id.to_owned(),
            resource: Some(resource.into()),
        };
        self.0.unary(ctx, "AddResource", request).await
    }

    async fn delete_resource(&self, ctx: &Ctx, id: &str, resource: LeaseResource) -> Result<()> {
        let request = pb::DeleteResourceRequest {
            id: id.to_owned(),
            resource: Some(resource.into()),
        };
        self.0.unary(ctx, "DeleteResource", request).await
    }

    async fn list_resources(&self, ctx: &Ctx, id: &str) -> Result<Vec<LeaseResource>> {
        let request = pb::ListResourcesRequest { id: id.to_owned() };
        let answer: pb::ListResourcesResponse = self.0.unary(ctx, "ListResources", request).await?;
        Ok(all(answer.resources))
    }
}

impl From<Lease> for pb::Lease {
    fn from(lease: Lease) -> Self {
        Self {
            id: lease.id,
            created_at: stamp(lease.created),
            labels: unordered(lease.labels),
        }
    }
}

impl From<pb::Lease> for Lease {
    fn from(lease: pb::Lease) -> Self {
        Self {
            id: lease.id,
            created: time(lease.created_at),
            labels: ordered(lease.labels),
        }
    }
}

impl From<LeaseResource> for pb::Resource {
    fn from(resource: LeaseResource) -> Self {
        Self {
            id: resource.id,
            r#type: resource.kind,
        }
    }
}

impl From<pb::Resource> for LeaseResource {
    fn from(resource: pb::Resource) -> Self {
        Self {
            id: resource.id,
            kind: resource.r#type,
        }
    }
}
