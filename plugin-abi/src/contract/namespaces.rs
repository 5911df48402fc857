//! Namespaces: they separate clients, not users.

use super::{Ctx, Labels, Namespace, Result, async_trait};

/// A namespace and its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// The name.
    pub name: Namespace,
    /// Labels.
    pub labels: Labels,
}

/// All namespaces of the daemon.
#[async_trait]
pub trait Namespaces: Send + Sync + 'static {
    /// One namespace.
    async fn get(&self, ctx: &Ctx, name: &Namespace) -> Result<NamespaceInfo>;
    /// All, by name.
    async fn list(&self, ctx: &Ctx) -> Result<Vec<NamespaceInfo>>;
    /// Makes one. `AlreadyExists` when it is there.
    async fn create(&self, ctx: &Ctx, namespace: NamespaceInfo) -> Result<NamespaceInfo>;
    /// Changes labels: those named in `fields` (`labels.KEY`), or all. An empty value removes a label.
    async fn update(&self, ctx: &Ctx, namespace: NamespaceInfo, fields: &[String]) -> Result<NamespaceInfo>;
    /// Removes an empty one. `FailedPrecondition` names what is still in it.
    async fn delete(&self, ctx: &Ctx, name: &Namespace) -> Result<()>;
}
