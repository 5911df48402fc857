//! `ctr plugins`: what the daemon is made of, and why a part of it is not there.

use crate::client::Client;
use crate::image::platform;
use crate::table::Table;
use anyhow::Result;
use clap::{Args, Subcommand};
use containerd_client::services::v1::{Plugin, PluginsRequest};
use containerd_client::tonic::Code;
use std::collections::BTreeSet;

/// The text by which containerd tells a plugin that skipped itself from one that failed.
const SKIP: &str = "skip plugin";

/// Commands of `ctr plugins`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lists the daemon's plugins
    #[command(visible_alias = "ls")]
    List(ListArgs),
}

/// `ctr plugins list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print only the plugin ids
    #[arg(long, short = 'q')]
    quiet: bool,
    /// Print detailed information about each plugin
    #[arg(long, short = 'd')]
    detailed: bool,
    /// Filters; a plugin that meets one of them is shown
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// Runs a command.
pub async fn run(command: Command, client: &Client) -> Result<()> {
    let Command::List(args) = command;
    let plugins = list(client, args.filters).await?;
    if args.quiet {
        for plugin in &plugins {
            println!("{}", plugin.id);
        }
    } else if args.detailed {
        detailed(&plugins).print();
    } else {
        let mut table = Table::new(&["TYPE", "ID", "PLATFORMS", "STATUS", ""]);
        for plugin in &plugins {
            let platforms = platforms(plugin);
            let platforms = if platforms.is_empty() { "-" } else { &platforms };
            table.row([&plugin.r#type, &plugin.id, platforms, status(plugin), ""]);
        }
        table.print();
    }
    Ok(())
}

/// The daemon's plugins that meet one of the filters.
pub async fn list(client: &Client, filters: Vec<String>) -> Result<Vec<Plugin>> {
    let request = client.request(PluginsRequest { filters });
    Ok(client.introspection().plugins(request).await?.into_inner().plugins)
}

/// `ok`, `skip` or `error`.
pub fn status(plugin: &Plugin) -> &'static str {
    match &plugin.init_err {
        None => "ok",
        Some(error) if error.message.contains(SKIP) => "skip",
        Some(_) => "error",
    }
}

fn platforms(plugin: &Plugin) -> String {
    let names: BTreeSet<String> = plugin
        .platforms
        .iter()
        .map(|found| platform::Platform::new(&found.os, &found.architecture, &found.variant).to_string())
        .collect();
    names.into_iter().collect::<Vec<_>>().join(",")
}

/// The blocks of `-d`. A value stands behind a space of its own, because containerd prints it as a word of a line.
fn detailed(plugins: &[Plugin]) -> Table {
    let mut table = Table::new(&[]);
    for (position, plugin) in plugins.iter().enumerate() {
        if position > 0 {
            table.row(["", "", "", ""]);
        }
        let mut field = |name: &str, value: &str| table.row([name, &format!(" {value}")]);
        field("Type:", &plugin.r#type);
        field("ID:", &plugin.id);
        if !plugin.requires.is_empty() {
            table.row(["Requires:", ""]);
            for required in &plugin.requires {
                table.row(["", &format!(" {required}")]);
            }
        }
        let platforms = platforms(plugin);
        if !platforms.is_empty() {
            table.row(["Platforms:", &format!(" {platforms}")]);
        }
        if !plugin.exports.is_empty() {
            table.row(["Exports:", ""]);
            let mut exports: Vec<_> = plugin.exports.iter().collect();
            exports.sort();
            for (name, value) in exports {
                table.row(["", &format!(" {name} "), &format!(" {value}")]);
            }
        }
        if !plugin.capabilities.is_empty() {
            table.row(["Capabilities:", &format!(" {}", plugin.capabilities.join(","))]);
        }
        if let Some(error) = &plugin.init_err {
            table.row(["Error:", ""]);
            table.row(["", " Code:", &format!(" {:?}", Code::from_i32(error.code))]);
            table.row(["", " Message:", &format!(" {}", error.message)]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_client::google::rpc::Status;

    #[test]
    fn a_skipped_plugin_is_no_error() {
        let failed = |message: &str| Plugin {
            init_err: Some(Status {
                message: message.to_owned(),
                ..Status::default()
            }),
            ..Plugin::default()
        };
        assert_eq!(status(&Plugin::default()), "ok");
        assert_eq!(status(&failed("no zfs here: skip plugin")), "skip");
        assert_eq!(status(&failed("database is locked")), "error");
    }
}
