//! `orlopd`'s own commands: run (the default), `config`, `plugin`, `publish`, `check`, `repair`.

mod config;
mod plugin;
mod publish;
mod store;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use orlop_config::Loaded;

/// A container daemon that speaks containerd's API: a microkernel that hosts plugins.
#[derive(Parser)]
#[command(name = "orlopd", version = crate::daemon::VERSION, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What overrides the configuration, as in containerd.
#[derive(Args, Clone, Debug, Default)]
struct Flags {
    /// Path to the configuration file
    #[arg(long, short, global = true, default_value = orlop_config::DEFAULT_CONFIG_PATH)]
    config: PathBuf,
    /// Set the logging level [trace, debug, info, warn, error, fatal, panic]
    #[arg(long, short, global = true)]
    log_level: Option<String>,
    /// Address for the gRPC server
    #[arg(long, short, global = true)]
    address: Option<String>,
    /// Root directory
    #[arg(long, global = true)]
    root: Option<PathBuf>,
    /// State directory
    #[arg(long, global = true)]
    state: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Information on the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Work with plugin libraries
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Check the databases under the root while no daemon runs; every problem is one line
    Check,
    /// Mend the databases under the root while no daemon runs, from their last whole commit or copy
    Repair,
    /// Publish an event that is read, as a protobuf Any, from standard input
    Publish(publish::Publish),
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Config(command)) => command.run(&cli.flags),
        Some(Command::Plugin(command)) => command.run(&cli.flags),
        Some(Command::Publish(publish)) => publish.run(&cli.flags),
        Some(Command::Check) => store::check(&cli.flags),
        Some(Command::Repair) => store::repair(&cli.flags),
        None => run(&cli.flags),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("orlopd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let Loaded { config, warnings, .. } = flags.load()?;
    crate::log::init(&config.debug.level, &config.debug.format).map_err(|error| anyhow::anyhow!(error))?;
    for warning in warnings {
        tracing::warn!(%warning, "the configuration has something nobody reads");
    }
    crate::memory::few_heaps();
    if !config.temp.as_os_str().is_empty() {
        temporary_directory(&config.temp);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("orlopd")
        // An idle daemon has its workers and one thread a library; what starting needed goes soon.
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .build()?;
    runtime.block_on(crate::daemon::run(config))?;
    Ok(ExitCode::SUCCESS)
}

/// Where the daemon, its plugins and its shims put temporary files, as containerd does it: by `TMPDIR`.
#[allow(unsafe_code)]
fn temporary_directory(path: &Path) {
    // SAFETY: the process has one thread yet: the runtime is built afterwards, plugin libraries are opened later still.
    unsafe { std::env::set_var("TMPDIR", path) }
}

// === impl Flags ===

impl Flags {
    /// The configuration: the file's, or the defaults where the default file is missing, with the flags laid over it.
    fn load(&self) -> anyhow::Result<Loaded> {
        let mut loaded = if self.config == Path::new(orlop_config::DEFAULT_CONFIG_PATH) {
            orlop_config::load_or_default(&self.config)?
        } else {
            orlop_config::load(&self.config)?
        };
        let config = &mut loaded.config;
        config.root = self.root.clone().unwrap_or(std::mem::take(&mut config.root));
        config.state = self.state.clone().unwrap_or(std::mem::take(&mut config.state));
        if let Some(address) = &self.address {
            config.grpc.address.clone_from(address);
        }
        if let Some(level) = &self.log_level {
            config.debug.level.clone_from(level);
        }
        config.validate()?;
        Ok(loaded)
    }
}
