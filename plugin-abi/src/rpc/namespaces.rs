//! [`Namespaces`] as `containerd.services.namespaces.v1`.

use std::sync::Arc;

use containerd_client::services::v1 as pb;

use super::client::{Remote, malformed};
use super::convert::{all, fields, mask, ordered, required, try_all, unordered};
use super::server::{Answer, Call, service};
use crate::channel::Channel;
use crate::contract::{Ctx, Namespace, NamespaceInfo, Namespaces, async_trait};
use crate::{Error, Result, Services};

const NAME: &str = "containerd.services.namespaces.v1.Namespaces";

/// Serves `namespaces`.
pub fn serve(namespaces: Arc<dyn Namespaces>) -> Services {
    service(NAME, namespaces, answer)
}

/// The namespaces at the far end of `channel`.
pub fn connect(channel: Channel) -> Arc<dyn Namespaces> {
    Arc::new(Far(Remote::new(channel, NAME)))
}

async fn answer(namespaces: Arc<dyn Namespaces>, mut call: Call) -> Result<Answer> {
    match call.method.as_str() {
        "Get" => {
            let pb::GetNamespaceRequest { name } = call.message().await?;
            let namespace = namespaces.get(&call.ctx, &Namespace::new(name)?).await?;
            Answer::one(pb::GetNamespaceResponse {
                namespace: Some(namespace.into()),
            })
        }
        "List" => {
            let pb::ListNamespacesRequest { .. } = call.message().await?;
            let namespaces = namespaces.list(&call.ctx).await?;
            Answer::one(pb::ListNamespacesResponse {
                namespaces: all(namespaces),
            })
        }
        "Create" => {
            let pb::CreateNamespaceRequest { namespace } = call.message().await?;
            let namespace = required(namespace, "the namespace")?.try_into()?;
            let namespace = namespaces.create(&call.ctx, namespace).await?;
            Answer::one(pb::CreateNamespaceResponse {
                namespace: Some(namespace.into()),
            })
        }
        "Update" => {
            let pb::UpdateNamespaceRequest { namespace, update_mask } = call.message().await?;
            let namespace = required(namespace, "the namespace")?.try_into()?;
            let namespace = namespaces.update(&call.ctx, namespace, &fields(update_mask)).await?;
            Answer::one(pb::UpdateNamespaceResponse {
                namespace: Some(namespace.into()),
            })
        }
        "Delete" => {
            let pb::DeleteNamespaceRequest { name } = call.message().await?;
            namespaces
                .delete(&call.ctx, &Namespace::new(name)?)
                .await
                .and_then(Answer::empty)
        }
        _ => call.unknown(),
    }
}

struct Far(Remote);

fn info(namespace: Option<pb::Namespace>) -> Result<NamespaceInfo> {
    required(namespace, "the namespace")
        .and_then(TryInto::try_into)
        .map_err(malformed)
}

#[async_trait]
impl Namespaces for Far {
    async fn get(&self, ctx: &Ctx, name: &Namespace) -> Result<NamespaceInfo> {
        let name = name.to_string();
        let answer: pb::GetNamespaceResponse = self.0.unary(ctx, "Get", pb::GetNamespaceRequest { name }).await?;
        info(answer.namespace)
    }

    async fn list(&self, ctx: &Ctx) -> Result<Vec<NamespaceInfo>> {
        let request = pb::ListNamespacesRequest::default();
        let answer: pb::ListNamespacesResponse = self.0.unary(ctx, "List", request).await?;
        try_all(answer.namespaces).map_err(malformed)
    }

    async fn create(&self, ctx: &Ctx, namespace: NamespaceInfo) -> Result<NamespaceInfo> {
        let request = pb::CreateNamespaceRequest {
            namespace: Some(namespace.into()),
        };
        let answer: pb::CreateNamespaceResponse = self.0.unary(ctx, "Create", request).await?;
        info(answer.namespace)
    }

    async fn update(&self, ctx: &Ctx, namespace: NamespaceInfo, fields: &[String]) -> Result<NamespaceInfo> {
        let request = pb::UpdateNamespaceRequest {
            namespace: Some(namespace.into()),
            update_mask: mask(fields),
        };
        let answer: pb::UpdateNamespaceResponse = self.0.unary(ctx, "Update", request).await?;
        info(answer.namespace)
    }

    async fn delete(&self, ctx: &Ctx, name: &Namespace) -> Result<()> {
        let name = name.to_string();
        self.0.unary(ctx, "Delete", pb::DeleteNamespaceRequest { name }).await
    }
}

impl From<NamespaceInfo> for pb::Namespace {
    fn from(namespace: NamespaceInfo) -> Self {
        Self {
            name: namespace.name.to_string(),
            labels: unordered(namespace.labels),
        }
    }
}

impl TryFrom<pb::Namespace> for NamespaceInfo {
    type Error = Error;

    fn try_from(namespace: pb::Namespace) -> Result<Self> {
        Ok(Self {
            name: Namespace::new(namespace.name)?,
            labels: ordered(namespace.labels),
        })
    }
}
