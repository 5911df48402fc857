//! The lease under which a transfer works: what it has made is garbage until an image names it, and stays garbage if it fails.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use orlop_plugin::contract::{Ctx, Labels, Leases};
use orlop_plugin::{Host, Result};
use tokio::runtime::Handle;

/// Should the daemon die in the middle, garbage collection ends the lease after this time.
const EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

/// A lease of our own, given back when dropped; nothing when the caller brought one.
pub struct Leased {
    ctx: Ctx,
    own: Option<Own>,
}

struct Own {
    leases: Arc<dyn Leases>,
    id: String,
    runtime: Handle,
}

// === impl Leased ===

impl Leased {
    /// The lease of `ctx`, or a new one.
    pub async fn new(host: &Host, ctx: &Ctx) -> Result<Self> {
        ctx.namespace()?;
        if ctx.lease.is_some() {
            return Ok(Self {
                ctx: ctx.clone(),
                own: None,
            });
        }
        let leases = host.leases()?;
        let expiry = humantime::format_rfc3339_seconds(SystemTime::now() + EXPIRY).to_string();
        let labels = Labels::from([("containerd.io/gc.expire".to_owned(), expiry)]);
        let lease = leases
            .create(ctx, None, labels)
            .await
            .map_err(|error| error.context("make a lease for the transfer"))?;
        Ok(Self {
            ctx: ctx.clone().with_lease(lease.id.clone()),
            own: Some(Own {
                leases,
                id: lease.id,
                runtime: Handle::current(),
            }),
        })
    }

    /// The context to work in.
    pub fn ctx(&self) -> &Ctx {
        &self.ctx
    }

    /// Gives the lease back now.
    pub async fn release(mut self) {
        if let Some(own) = self.own.take() {
            own.delete(&self.ctx).await;
        }
    }
}

impl Own {
    async fn delete(self, ctx: &Ctx) {
        // The deadline and the lease of the transfer must not keep it alive.
        let ctx = Ctx {
            lease: None,
            deadline: None,
            ..ctx.clone()
        };
        if let Err(error) = self.leases.delete(&ctx, &self.id, false).await
            && !error.is_not_found()
        {
            tracing::warn!(lease = self.id, %error, "the lease of a transfer stays until it expires");
        }
    }
}

impl Drop for Leased {
    /// A client that hangs up drops the transfer wherever it stands.
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            let (ctx, runtime) = (self.ctx.clone(), own.runtime.clone());
            runtime.spawn(async move { own.delete(&ctx).await });
        }
    }
}
