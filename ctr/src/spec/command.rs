//! `ctr oci`: tools for specifications.

use super::default::default_spec;
use crate::container::info::print_json;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};

/// Commands of `ctr oci`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// See the output of the default OCI spec
    Spec(SpecArgs),
}

/// `ctr oci spec`.
#[derive(Debug, Args)]
pub struct SpecArgs {
    /// Platform of the spec to print (Examples: 'linux/arm64')
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

/// Prints the default specification for containers of `namespace`.
pub fn run(command: &Command, namespace: &str) -> Result<()> {
    let Command::Spec(args) = command;
    let system = args
        .platform
        .as_deref()
        .unwrap_or("linux")
        .split('/')
        .next()
        .unwrap_or_default();
    match system {
        "windows" | "darwin" | "freebsd" => {
            bail!("no default spec for {system}: this client makes specifications for Linux only")
        }
        // A bare architecture ("arm64") means Linux, as everywhere in containerd.
        _ => print_json(&default_spec(namespace, "")),
    }
}
