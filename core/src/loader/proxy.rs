//! Proxy plugins: a registration for every entry of `[proxy_plugins]`.

use std::path::PathBuf;

use orlop_config::ProxyPlugin;
use orlop_plugin::channel::socket;
use orlop_plugin::{Contracts, Instance, Registration, kind, rpc};

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
    let (kind, offer): (_, fn(orlop_plugin::channel::Channel, &str) -> Contracts) = match entry.kind.as_str() {
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
        let contracts = offer(socket::connect(&address), &id);
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
