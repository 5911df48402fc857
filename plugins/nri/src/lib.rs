//! The Node Resource Interface.
//!
//! Its place in the plugin table and its configuration are containerd 1.7's, so that configurations carry over and clients see why
//! it is not there: it is off by default, and this release refuses to pretend when it is switched on.

use orlop_plugin::{Error, InitContext, InitError, Instance, Registration, kind};
use serde::{Deserialize, Serialize};

/// `[plugins."io.containerd.nri.v1.nri"]`, with the keys and defaults of containerd 1.7.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// No NRI at all.
    pub disable: bool,
    /// No plugins that connect by themselves.
    pub disable_connections: bool,
    /// Where configurations of plugins are.
    pub plugin_config_path: String,
    /// Where plugins to be started are.
    pub plugin_path: String,
    /// How long a plugin may take to register, in Go's notation.
    pub plugin_registration_timeout: String,
    /// How long a plugin may take to answer, in Go's notation.
    pub plugin_request_timeout: String,
    /// Where plugins connect.
    pub socket_path: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            disable: true,
            disable_connections: false,
            plugin_config_path: "/etc/nri/conf.d".into(),
            plugin_path: "/opt/nri/plugins".into(),
            plugin_registration_timeout: "5s".into(),
            plugin_request_timeout: "2s".into(),
            socket_path: "/var/run/nri/nri.sock".into(),
        }
    }
}

/// What this library offers.
pub fn registrations() -> Vec<Registration> {
    vec![Registration::new(kind::NRI, "nri", init).config(&Config::default())]
}

async fn init(context: InitContext) -> Result<Instance, InitError> {
    let config: Config = context.config()?;
    if config.disable {
        return Err(InitError::Skip("disabled by configuration".into()));
    }
    Err(Error::unimplemented(format!(
        "this release has no NRI yet, so no plugin on {} would ever be asked: set `disable = true` in [plugins.\"{}\"]",
        config.socket_path, context.uri
    ))
    .into())
}

orlop_plugin::export_plugin!(registrations, "io.containerd.nri.v1.nri");

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use orlop_plugin::{Contracts, Host, HostApi, HostPlugin, Reach};

    struct NoHost;

    #[orlop_plugin::contract::async_trait]
    impl HostApi for NoHost {
        fn daemon(&self) -> Reach {
            Contracts::default().into()
        }
        async fn plugins(&self, _: &str) -> orlop_plugin::Result<Vec<HostPlugin>> {
            Ok(Vec::new())
        }
    }

    async fn start(disable: bool) -> InitError {
        let registration = registrations().remove(0);
        let mut config = registration.config.clone();
        config.insert("disable".into(), disable.into());
        let context = InitContext {
            uri: registration.uri.clone(),
            root_path: "/nonexistent/root".into(),
            state_path: "/nonexistent/state".into(),
            config,
            address: String::new(),
            ttrpc_address: String::new(),
            timeouts: std::collections::BTreeMap::default(),
            stream_processors: Vec::new(),
            host: Host::new(Arc::new(NoHost)),
        };
        match registration.init(context).await {
            Ok(_) => panic!("there is no NRI to start"),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn is_skipped_while_disabled_and_honest_when_not() {
        assert_eq!(start(true).await, InitError::Skip("disabled by configuration".into()));
        let InitError::Failed(error) = start(false).await else {
            panic!("enabled is no reason to skip");
        };
        assert_eq!(error.code, orlop_plugin::contract::Code::Unimplemented);
        assert!(error.message.contains("no NRI yet"), "{error}");
    }
}
