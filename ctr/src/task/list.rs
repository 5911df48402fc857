//! `tasks list` and `tasks ps`.

use crate::client::Client;
use crate::table::Table;
use anyhow::{Context, Result};
use clap::Args;
use containerd_client::services::v1::{ListPidsRequest, ListTasksRequest};
use containerd_client::types::v1::Status;
use prost::Message;

/// `ctr tasks list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print only the task id
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// Prints the namespace's tasks.
pub async fn list(client: &Client, args: &ListArgs) -> Result<()> {
    let request = client.request(ListTasksRequest::default());
    let tasks = client.tasks().list(request).await?.into_inner().tasks;
    if args.quiet {
        for task in &tasks {
            println!("{}", task.id);
        }
        return Ok(());
    }
    let mut table = Table::new(&["TASK", "PID", "STATUS", ""]);
    for task in tasks {
        let status = Status::try_from(task.status).unwrap_or_default().as_str_name();
        // containerd ends its heading in a tab and its lines not: the width of the last column is the heading's alone.
        table.row([task.id.as_str(), &task.pid.to_string(), status]);
    }
    table.print();
    Ok(())
}

/// `containerd.runc.v1.ProcessDetails`: what the runc shim says about a process id.
#[derive(Clone, PartialEq, Message)]
struct ProcessDetails {
    /// Exec that the process belongs to.
    #[prost(string, tag = "1")]
    exec_id: String,
}

/// Prints the processes in a container.
pub async fn processes(client: &Client, id: &str) -> Result<()> {
    super::load(client, id).await?;
    super::state(client, id, "").await?;
    let request = client.request(ListPidsRequest {
        container_id: id.to_owned(),
    });
    let processes = client.tasks().list_pids(request).await?.into_inner().processes;
    let mut table = Table::new(&["PID", "INFO"]);
    for process in processes {
        let info = match process.info {
            None => "-".to_owned(),
            Some(info) if info.type_url.ends_with("containerd.runc.v1.ProcessDetails") => {
                let details = ProcessDetails::decode(info.value.as_slice())
                    .with_context(|| format!("details of process {}", process.pid))?;
                format!("exec_id:{:?}", details.exec_id)
            }
            Some(info) => info.type_url,
        };
        table.row([process.pid.to_string().as_str(), &info]);
    }
    table.print();
    Ok(())
}
