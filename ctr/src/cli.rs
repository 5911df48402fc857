//! The command line: global flags, the commands, and which function runs each.

use crate::client::{Client, Settings};
use crate::{container, content, event, image, lease, namespace, plugin, run, shim, snapshot, spec, task, version};
use anyhow::{Result, bail};
use clap::{ArgAction, Args, Parser, Subcommand};
use std::ffi::OsString;
use std::time::Duration;

/// Where the daemon listens unless told otherwise.
const DEFAULT_ADDRESS: &str = "/run/containerd/containerd.sock";

/// Which snapshotter a command is about.
#[derive(Debug, Clone, Default, Args)]
pub struct SnapshotterArgs {
    /// Snapshotter name. Empty value stands for the default value.
    #[arg(
        long = "snapshotter",
        id = "snapshotter",
        value_name = "NAME",
        env = "CONTAINERD_SNAPSHOTTER",
        default_value = "",
        hide_default_value = true
    )]
    pub name: String,
}

/// The client of the container daemon
#[derive(Debug, Parser)]
#[command(
    name = "ctr",
    disable_version_flag = true,
    version = version::VERSION,
    arg_required_else_help = true,
    // Of a flag given twice, the last one counts, as in Go.
    args_override_self = true,
    max_term_width = 120
)]
pub struct Cli {
    /// Enable debug output
    #[arg(long)]
    debug: bool,
    /// Address for the daemon's GRPC server
    #[arg(long, short = 'a', value_name = "SOCKET", env = "CONTAINERD_ADDRESS", default_value = DEFAULT_ADDRESS)]
    address: String,
    /// Total timeout for ctr commands, e.g. 30s; 0s waits for ever
    #[arg(long, value_name = "DURATION", value_parser = crate::human::parse_duration, default_value = "0s")]
    timeout: Duration,
    /// Timeout for connecting to the daemon; 0s takes the default of 10s
    #[arg(long, value_name = "DURATION", value_parser = crate::human::parse_duration, default_value = "0s")]
    connect_timeout: Duration,
    /// Namespace to use with commands
    #[arg(
        long,
        short = 'n',
        value_name = "NAME",
        env = "CONTAINERD_NAMESPACE",
        default_value = "default"
    )]
    namespace: String,
    /// Print the version
    #[arg(long, short = 'v', action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Provides information about the daemon's plugins
    #[command(subcommand, visible_alias = "plugin")]
    Plugins(plugin::Command),
    /// Print the client and server versions
    Version,
    /// Manage containers
    #[command(subcommand, visible_aliases = ["c", "container"])]
    Containers(container::Command),
    /// Manage content
    #[command(subcommand)]
    Content(content::Command),
    /// Display the daemon's events
    #[command(visible_alias = "event")]
    Events(event::EventsArgs),
    /// Manage images
    #[command(subcommand, visible_aliases = ["image", "i"])]
    Images(image::Command),
    /// Manage leases
    #[command(subcommand)]
    Leases(lease::Command),
    /// Manage namespaces
    #[command(subcommand, visible_aliases = ["namespace", "ns"])]
    Namespaces(namespace::Command),
    /// Run a container
    Run(Box<run::RunArgs>),
    /// Manage snapshots
    #[command(visible_alias = "snapshot")]
    Snapshots(snapshot::SnapshotsArgs),
    /// Manage tasks
    #[command(subcommand, visible_aliases = ["t", "task"])]
    Tasks(task::Command),
    /// OCI tools
    #[command(subcommand)]
    Oci(spec::command::Command),
    /// Print the server info
    Info,
    /// Interact with a shim directly
    Shim(shim::ShimArgs),
}

/// Runs the command; answers the status to exit with.
pub async fn run(cli: Cli) -> Result<u32> {
    let settings = Settings {
        address: cli.address,
        namespace: cli.namespace,
        connect_timeout: Some(cli.connect_timeout).filter(|timeout| !timeout.is_zero()),
        debug: cli.debug,
    };
    let command = dispatch(cli.command, settings);
    if cli.timeout.is_zero() {
        return command.await;
    }
    match tokio::time::timeout(cli.timeout, command).await {
        Ok(done) => done,
        Err(_) => bail!("context deadline exceeded: the command took longer than --timeout"),
    }
}

async fn dispatch(command: Command, settings: Settings) -> Result<u32> {
    // These say something before, or without, a daemon.
    let command = match command {
        Command::Version => return version::version(&settings).await.map(|()| 0),
        Command::Oci(command) => return spec::command::run(&command, &settings.namespace).map(|()| 0),
        Command::Content(command) if command.needs_no_daemon() => {
            return content::run(command, &Client::unconnected(&settings)?)
                .await
                .map(|()| 0);
        }
        Command::Shim(args) => return shim::run(&args, &Client::unconnected(&settings)?).await.map(|()| 0),
        other => other,
    };
    let client = Client::connect(&settings).await?;
    match command {
        Command::Plugins(command) => plugin::run(command, &client).await?,
        Command::Containers(command) => container::run(command, &client).await?,
        Command::Content(command) => content::run(command, &client).await?,
        Command::Events(args) => event::run(&args, &client).await?,
        Command::Images(command) => image::run(command, &client).await?,
        Command::Leases(command) => lease::run(command, &client).await?,
        Command::Namespaces(command) => namespace::run(command, &client).await?,
        Command::Run(args) => return run::run(&client, &args).await,
        Command::Snapshots(args) => snapshot::run(args, &client).await?,
        Command::Tasks(command) => return task::run(command, &client).await,
        Command::Info => version::info(&client).await?,
        Command::Version | Command::Oci(_) | Command::Shim(_) => {}
    }
    Ok(0)
}

/// Go's flags take one dash as well as two (`ctr -namespace k8s.io …`): scripts use it for the global ones.
pub fn go_style(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    const TAKING: &[&str] = &["address", "namespace", "timeout", "connect-timeout"];
    const PLAIN: &[&str] = &["debug", "version", "help"];
    let mut done = false;
    let mut value_follows = false;
    let mut first = true;
    args.map(|arg| {
        if std::mem::take(&mut first) || done {
            return arg;
        }
        if std::mem::take(&mut value_follows) {
            return arg;
        }
        let Some(text) = arg.to_str().map(str::to_owned) else {
            done = true;
            return arg;
        };
        let Some(flag) = text.strip_prefix('-') else {
            done = true;
            return arg;
        };
        let long = flag.strip_prefix('-');
        let name = long.unwrap_or(flag);
        let (name, has_value) = name.split_once('=').map_or((name, false), |(name, _)| (name, true));
        value_follows = !has_value && (TAKING.contains(&name) || (long.is_none() && (name == "a" || name == "n")));
        if long.is_none() && (TAKING.contains(&name) || PLAIN.contains(&name)) {
            return OsString::from(format!("-{text}"));
        }
        arg
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn styled(args: &[&str]) -> Vec<String> {
        go_style(args.iter().map(OsString::from))
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn one_dash_is_enough_for_a_global_flag() {
        assert_eq!(
            styled(&["ctr", "-namespace", "k8s.io", "-address=/s", "images", "-namespace"]),
            ["ctr", "--namespace", "k8s.io", "--address=/s", "images", "-namespace"]
        );
        assert_eq!(
            styled(&["ctr", "-n", "-debug", "-debug"]),
            ["ctr", "-n", "-debug", "--debug"]
        );
    }

    #[test]
    fn run_leaves_the_containers_arguments_alone() {
        let cli = Cli::try_parse_from(["ctr", "run", "--rm", "image", "id", "sh", "-c", "exit 3", "--rm"]).unwrap();
        assert!(matches!(cli.command, Command::Run(_)));
    }
}
