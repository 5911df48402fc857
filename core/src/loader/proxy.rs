//! Proxy plugins: a registration for every entry of `[proxy_plugins]`.

use std::path::PathBuf;

use futures_util::future::BoxFuture;
use orlop_config::ProxyPlugin;
use orlop_plugin::channel::{Carrier, Channel, Request, Response, socket};
use orlop_plugin::{Contracts, Instance, Registration, kind, rpc};

use tonic::Status;
use tower::Service;

use super::Found;
use crate::host::Source;
use crate::lifecycle::Loaded;

/// The registration of `[proxy_plugins.NAME]`.
pub fn load(name: &str, entry: &ProxyPlugin) -> Found {
    let mut found = Found::default();
    let address = PathBuf::from(entry.address.trim_start_matches("unix://"));
    let source = Source::Proxy {
        address: address.clone(),
    };
    let (kind, offer): (_, fn(Channel, &str) -> Contracts) = match entry.kind.as_str() {
        "snapshot" => (kind::SNAPSHOTTER, |channel, name| {
            Contracts::default().with_snapshotter(rpc::snapshotter::connect(channel, name))
        }),
        "content" => (kind::CONTENT, |channel, _| {
            Contracts::default().with_content(rpc::content::connect(channel))
        }),
        "diff" => (kind::DIFFER, |channel, _| {
            Contracts::default().with_differ(rpc::diff::connect(channel))
        }),
        "image-verifier" => (kind::IMAGE_VERIFIER, |channel, _| {
            Contracts::default().with_image_verifier(rpc::verifier::connect(channel))
        }),
        other => {
            let reason = format!(
                "[proxy_plugins.{name}] has type {other:?}: use \"snapshot\", \"content\", \"diff\" or \"image-verifier\""
            );
            found.refuse(&[], name, &source, &reason);
            return found;
        }
    };
    let (id, exports) = (name.to_owned(), entry.exports.clone());
    let at = address.display().to_string();
    let mut registration = Registration::new(kind, name, move |_| {
        // The connection is made with the first call: a proxy that starts after the daemon is as good as any.
        let contracts = offer(Channel::new(WithoutLease(socket::connect(&address))), &id);
        let mut instance = Instance::new().with_contracts(contracts).export("address", &at);
        instance.exports.extend(exports.clone());
        async move { Ok(instance) }
    });
    registration.capabilities.clone_from(&entry.capabilities);
    registration.platforms = match entry.platform.as_str() {
        "" => vec![orlop_plugin::registration::host_platform()],
        platform => vec![platform.to_owned()],
    };
    found.loaded.push(Loaded {
        registration,
        source,
        pinned: true,
    });
    found
}

/// A channel to somebody else's server, who knows nothing of this daemon's leases: another containerd would refuse the call for one that it
/// does not have.
struct WithoutLease(Channel);

impl Carrier for WithoutLease {
    fn carry(&self, mut request: Request) -> BoxFuture<'static, Result<Response, Status>> {
        request.headers_mut().remove("containerd-lease");
        self.0.clone().call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use orlop_plugin::contract::{Ctx, Descriptor, Digest, ImageVerifier, Judgement, Namespace, async_trait};
    use orlop_plugin::serve::{Connections, bind};
    use orlop_plugin::{Host, InitContext, PluginUri};

    use super::*;
    use crate::host::Registry;

    /// Remembers on whose behalf it was asked.
    #[derive(Default)]
    struct Asked(Mutex<Option<Ctx>>);

    #[async_trait]
    impl ImageVerifier for Asked {
        async fn verify(&self, ctx: &Ctx, _: &str, _: Descriptor) -> orlop_plugin::Result<Judgement> {
            *self.0.lock().expect("unpoisoned") = Some(ctx.clone());
            Ok(Judgement::default())
        }
    }

    #[tokio::test]
    async fn a_proxy_is_told_the_namespace_and_not_the_lease() {
        let directory = tempfile::tempdir().expect("a directory");
        let address = directory.path().join("proxy.sock");
        let (listener, asked) = (bind(&address).await.expect("bound"), Arc::new(Asked::default()));
        let services = rpc::verifier::serve(asked.clone());
        tokio::spawn(async move {
            let mut connections = Connections::default();
            while let Ok((stream, _)) = listener.accept().await {
                connections.serve(stream, services.clone());
            }
        });
        let entry = ProxyPlugin {
            kind: "image-verifier".into(),
            address: address.display().to_string(),
            ..ProxyPlugin::default()
        };
        let registration = load("asked", &entry).loaded.remove(0).registration;
        let context = InitContext {
            uri: PluginUri::new(kind::IMAGE_VERIFIER, "asked"),
            root_path: "/nowhere".into(),
            state_path: "/nowhere".into(),
            config: registration.config.clone(),
            address: String::new(),
            ttrpc_address: String::new(),
            timeouts: [].into(),
            stream_processors: Vec::new(),
            host: Host::new(Registry::new()),
        };
        let instance = registration.init(context).await.expect("it starts");
        let verifier = instance.contracts.image_verifier.expect("offered");
        let ctx = Ctx::new(Namespace::new("ns").expect("valid"));
        let target = Descriptor {
            media_type: String::new(),
            digest: Digest::new(format!("sha256:{}", "0".repeat(64))).expect("valid"),
            size: 0,
            annotations: [].into(),
        };
        verifier
            .verify(&ctx.clone().with_lease("ours"), "x", target)
            .await
            .expect("asked");
        assert_eq!(*asked.0.lock().expect("unpoisoned"), Some(ctx));
    }
}
