//! The diff service: the differs in the order of the configuration, until one knows what is asked.

use std::sync::Arc;

use orlop_plugin::contract::{
    Applier, ApplyOptions, Code, Comparer, Ctx, Descriptor, DiffOptions, Differ, Mount, async_trait,
};
use orlop_plugin::{Error, Host, PluginUri, Result, kind};
use serde::{Deserialize, Serialize};

/// `[plugins."io.containerd.service.v1.diff-service"]`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Ids of differs, the preferred first.
    default: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            default: vec!["walking".into()],
        }
    }
}

/// The differs of the daemon as one.
pub(crate) struct Ordered {
    host: Host,
    order: Vec<String>,
}

// === impl Ordered ===

impl Ordered {
    pub(crate) fn new(host: Host, config: Config) -> Self {
        Self {
            host,
            order: config.default,
        }
    }

    /// The differs that run, in order, and the first that does not.
    async fn differs(&self) -> Result<(Vec<Arc<dyn Differ>>, Option<PluginUri>)> {
        let running = self.host.plugins(kind::DIFFER).await?;
        let (mut differs, mut missing) = (Vec::new(), None);
        for id in &self.order {
            let differ = running
                .iter()
                .find(|plugin| plugin.uri.id == *id)
                .and_then(|plugin| plugin.contracts.differ());
            match differ {
                Some(differ) => differs.push(differ),
                None => missing = missing.or_else(|| Some(PluginUri::new(kind::DIFFER, id))),
            }
        }
        Ok((differs, missing))
    }
}

/// What to answer when no differ that runs did it.
fn nobody(refused: Option<Error>, missing: Option<PluginUri>) -> Error {
    match (missing, refused) {
        (Some(missing), Some(refused)) => Error::unavailable(format!(
            "{} ({missing}, which may know more, is not running: see `ctr plugins ls`)",
            refused.message
        )),
        (Some(missing), None) => Error::unavailable(format!("{missing} is not running: see `ctr plugins ls` for why")),
        (None, Some(refused)) => refused,
        (None, None) => Error::unavailable(
            "[plugins.\"io.containerd.service.v1.diff-service\"] default names no differ: add \"walking\"",
        ),
    }
}

/// Asks one differ after the other.
macro_rules! ask {
    ($self:ident, $differ:ident => $call:expr) => {{
        let (differs, missing) = $self.differs().await?;
        let mut refused = None;
        for $differ in differs {
            match $call.await {
                Err(error) if error.code == Code::Unimplemented => refused = Some(error),
                answered => return answered,
            }
        }
        Err(nobody(refused, missing))
    }};
}

#[async_trait]
impl Applier for Ordered {
    async fn apply(
        &self,
        ctx: &Ctx,
        layer: Descriptor,
        mounts: Vec<Mount>,
        options: ApplyOptions,
    ) -> Result<Descriptor> {
        ask!(self, differ => differ.apply(ctx, layer.clone(), mounts.clone(), options.clone()))
    }
}

#[async_trait]
impl Comparer for Ordered {
    async fn diff(&self, ctx: &Ctx, lower: Vec<Mount>, upper: Vec<Mount>, options: DiffOptions) -> Result<Descriptor> {
        ask!(self, differ => differ.diff(ctx, lower.clone(), upper.clone(), options.clone()))
    }
}
