//! The ttrpc socket: shims forward the events of their tasks to it (`containerd.services.events.ttrpc.v1.Events`).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use containerd_shim_protos::api::{Empty, ForwardRequest};
use containerd_shim_protos::shim_async::{self, Events as ForwardEvents};
use orlop_plugin::contract::{Any, Ctx, Envelope};
use orlop_plugin::{Error, Result};
use ttrpc::asynchronous::{Server, TtrpcContext};

use crate::host::Registry;
use orlop_plugin::registration::HostApi;

/// Serves the ttrpc socket at `path`, until the returned server is shut down.
pub async fn serve(path: &Path, registry: Arc<Registry>) -> Result<Server> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(format!("remove the dead socket {}", path.display()), &error));
        }
        _ => {}
    }
    let doing = |error: ttrpc::Error| Error::unavailable(format!("serve ttrpc on {}: {error}", path.display()));
    let services: HashMap<_, _> = shim_async::create_events(Arc::new(Forward(registry)));
    let mut server = Server::new()
        .bind(&format!("unix://{}", path.display()))
        .map_err(doing)?
        .register_service(services);
    server.start().await.map_err(doing)?;
    Ok(server)
}

struct Forward(Arc<Registry>);

#[async_trait]
impl ForwardEvents for Forward {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let refuse = |code, message: String| {
            let mut status = ttrpc::get_status(code, message);
            status.details.clear();
            ttrpc::Error::RpcStatus(status)
        };
        let envelope = request.envelope.into_option().ok_or_else(|| {
            refuse(
                ttrpc::Code::INVALID_ARGUMENT,
                "an event was forwarded without its envelope".to_owned(),
            )
        })?;
        let timestamp = envelope.timestamp.as_ref().map_or_else(SystemTime::now, |stamp| {
            SystemTime::UNIX_EPOCH
                + Duration::new(
                    stamp.seconds.try_into().unwrap_or_default(),
                    stamp.nanos.try_into().unwrap_or_default(),
                )
        });
        let event = envelope.event.into_option().map(|event| Any {
            type_url: event.type_url,
            value: event.value,
        });
        let envelope = Envelope {
            timestamp,
            namespace: envelope.namespace,
            topic: envelope.topic,
            event,
        };
        let events = self.0.daemon().events().ok_or_else(|| {
            refuse(
                ttrpc::Code::UNAVAILABLE,
                "the events exchange is not running".to_owned(),
            )
        })?;
        events.forward(&Ctx::daemon(), envelope).await.map_err(|error| {
            let code = match error.code {
                orlop_plugin::contract::Code::InvalidArgument => ttrpc::Code::INVALID_ARGUMENT,
                orlop_plugin::contract::Code::FailedPrecondition => ttrpc::Code::FAILED_PRECONDITION,
                _ => ttrpc::Code::UNKNOWN,
            };
            refuse(code, error.message)
        })?;
        Ok(Empty::new())
    }
}
