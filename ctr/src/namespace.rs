//! `ctr namespaces`.

use crate::client::{Client, describe_status};
use crate::labels;
use crate::table::Table;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use containerd_client::services::v1::{
    CreateNamespaceRequest, DeleteNamespaceRequest, ListNamespacesRequest, Namespace, UpdateNamespaceRequest,
};
use containerd_client::tonic::Code;
use std::collections::HashMap;
use std::path::Path;

/// Commands of `ctr namespaces`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a new namespace
    #[command(visible_alias = "c")]
    Create(NamedArgs),
    /// List namespaces
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Remove one or more namespaces
    #[command(visible_alias = "rm")]
    Remove(RemoveArgs),
    /// Set and clear labels for a namespace
    Label(NamedArgs),
}

/// A namespace and labels.
#[derive(Debug, Args)]
pub struct NamedArgs {
    /// Name
    #[arg(value_name = "NAME")]
    name: String,
    /// Labels, KEY=VALUE
    #[arg(value_name = "LABEL")]
    labels: Vec<String>,
}

/// `ctr namespaces list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print only the namespace name
    #[arg(long, short = 'q')]
    quiet: bool,
}

/// `ctr namespaces remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Delete the namespace's cgroup
    #[arg(long, short = 'c')]
    cgroup: bool,
    /// Names; a namespace must be empty
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Runs a command.
pub async fn run(command: Command, client: &Client) -> Result<()> {
    match command {
        Command::Create(args) => {
            let (labels, _) = labels::update(&args.labels);
            let namespace = Namespace {
                name: args.name,
                labels,
            };
            let request = CreateNamespaceRequest {
                namespace: Some(namespace),
            };
            client.namespaces().create(client.request(request)).await?;
            Ok(())
        }
        Command::List(args) => list(client, args.quiet).await,
        Command::Remove(args) => remove(client, &args).await,
        Command::Label(args) => label(client, &args).await,
    }
}

async fn list(client: &Client, quiet: bool) -> Result<()> {
    let request = client.request(ListNamespacesRequest::default());
    let namespaces = client.namespaces().list(request).await?.into_inner().namespaces;
    if quiet {
        for namespace in &namespaces {
            println!("{}", namespace.name);
        }
        return Ok(());
    }
    let mut table = Table::dense(&["NAME", "LABELS", ""]);
    for namespace in &namespaces {
        table.row([&namespace.name, &labels::list(&namespace.labels), ""]);
    }
    table.print();
    Ok(())
}

async fn label(client: &Client, args: &NamedArgs) -> Result<()> {
    let (labels, _) = labels::update(&args.labels);
    for (key, value) in labels {
        let paths = vec![format!("labels.{key}")];
        let request = UpdateNamespaceRequest {
            namespace: Some(Namespace {
                name: args.name.clone(),
                labels: HashMap::from([(key, value)]),
            }),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        client.namespaces().update(client.request(request)).await?;
    }
    Ok(())
}

async fn remove(client: &Client, args: &RemoveArgs) -> Result<()> {
    let mut first = None;
    for name in &args.names {
        let request = DeleteNamespaceRequest { name: name.clone() };
        match client.namespaces().delete(client.request(request)).await {
            Err(status) if status.code() != Code::NotFound => {
                eprintln!("ctr: unable to delete {name}: {}", describe_status(&status));
                let error = anyhow::Error::new(status).context(format!("unable to delete {name}"));
                first.get_or_insert(error);
            }
            _ => {
                if args.cgroup {
                    remove_cgroups(name)?;
                }
                println!("{name}");
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// Removes the control groups that containers of a namespace stood under: one with cgroup v2, one a controller with v1.
fn remove_cgroups(name: &str) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let mut groups = vec![root.join(name)];
    if !root.join("cgroup.controllers").exists() {
        let controllers = std::fs::read_dir(root).with_context(|| format!("cannot list {}", root.display()))?;
        groups.extend(controllers.filter_map(|entry| Some(entry.ok()?.path().join(name))));
    }
    for group in groups {
        match std::fs::remove_dir(&group) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove cgroup {}", group.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
