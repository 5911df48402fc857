//! `orlopd plugin`: libraries outside a daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use orlop_plugin::serve::{Options, serve, signalled};

use super::Flags;
use crate::host::{Registry, State};
use crate::loader::dylib;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Serve the plugins of a library on a socket, for `[proxy_plugins]` of any daemon
    Serve(Serve),
}

#[derive(Args)]
pub(super) struct Serve {
    /// The library
    library: PathBuf,
    /// The socket to serve on
    #[arg(long)]
    socket: PathBuf,
    /// Where the plugins keep what they have: each in ROOT/TYPE.ID
    #[arg(long)]
    data: PathBuf,
}

// === impl Command ===

impl Command {
    pub(super) fn run(self, flags: &Flags) -> anyhow::Result<ExitCode> {
        match self {
            Self::Serve(serve) => serve.run(flags),
        }
    }
}

// === impl Serve ===

impl Serve {
    fn run(self, flags: &Flags) -> anyhow::Result<ExitCode> {
        let config = flags.load()?.config;
        crate::log::init(&config.debug.level, &config.debug.format).map_err(|error| anyhow::anyhow!(error))?;
        let library = self
            .library
            .canonicalize()
            .with_context(|| format!("find the library {}", self.library.display()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("orlopd")
            .build()?;
        runtime.block_on(async {
            let end = signalled()?;
            let registry = Registry::new();
            let found = dylib::load_one(&library, &registry).await;
            if let Some(row) = found.broken.first() {
                let reason = match &row.status {
                    State::Error(reason) | State::Skip(reason) => reason.as_str(),
                    State::Waiting | State::Ok => "it has no plugin",
                };
                anyhow::bail!("{} is refused: {reason}", library.display());
            }
            let registrations = found.loaded.into_iter().map(|loaded| loaded.registration).collect();
            let options = Options {
                address: self.socket,
                root: self.data,
                config: config.plugins,
            };
            serve(registrations, options, end).await?;
            anyhow::Ok(())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
