//! `ctr shim`: talks to a shim directly, past the daemon.
//!
//! The shim's socket is named after the daemon's address, the namespace and the container; it is tried first under
//! version 3 of the task API and then version 2, whose messages are the same.

use crate::client::Client;
use crate::container::info::print_json;
use crate::reflect;
use crate::spec::PROCESS_TYPE_URL;
use crate::task::stdio::{Copies, Streams};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use containerd_shim_protos::api::{
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, ShutdownRequest, StartRequest, StartResponse,
    StateRequest, StateResponse,
};
use containerd_shim_protos::protobuf::{Message, well_known_types::any::Any};
use containerd_shim_protos::shim_async::Client as ShimClient;
use containerd_shim_protos::ttrpc;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Where shims make their sockets.
const SOCKETS: &str = "/run/containerd/s";

/// Time for one call, in nanoseconds.
const TIMEOUT: i64 = 10_000_000_000;

/// `ctr shim`.
#[derive(Debug, Args)]
pub struct ShimArgs {
    /// Container id
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    id: String,
    /// Address of the shim; computed from the container id otherwise
    #[arg(long, value_name = "SOCKET")]
    shim_address: Option<String>,
    #[command(subcommand)]
    command: Command,
}

/// Commands of `ctr shim`.
#[derive(Debug, Subcommand)]
enum Command {
    /// Delete a container with a task
    Delete(ProcessArg),
    /// Exec a new process in the task's container
    Exec(ExecArgs),
    /// Start a container with a task
    Start(ProcessArg),
    /// Get the state of all the processes of the task
    State,
    /// Shutdown the shim
    Shutdown,
}

/// A process, by its exec id.
#[derive(Debug, Args)]
struct ProcessArg {
    /// Exec id; without one the container's first process
    #[arg(value_name = "EXEC-ID")]
    exec_id: Option<String>,
}

/// `ctr shim exec`.
#[derive(Debug, Args)]
struct ExecArgs {
    /// Specify the path to the stdin fifo
    #[arg(long, value_name = "FIFO", default_value = "", hide_default_value = true)]
    stdin: String,
    /// Specify the path to the stdout fifo
    #[arg(long, value_name = "FIFO", default_value = "", hide_default_value = true)]
    stdout: String,
    /// Specify the path to the stderr fifo
    #[arg(long, value_name = "FIFO", default_value = "", hide_default_value = true)]
    stderr: String,
    /// Enable tty support
    #[arg(long, short = 't')]
    tty: bool,
    /// Stay attached to the container and open the fifos
    #[arg(long, short = 'a')]
    attach: bool,
    /// Runtime spec of the process
    #[arg(long, value_name = "FILE", required = true)]
    spec: PathBuf,
    /// Exec id
    #[arg(value_name = "EXEC-ID")]
    exec_id: String,
}

/// Runs a command. Only the daemon's address and the namespace are taken from `client`.
pub async fn run(args: &ShimArgs, client: &Client) -> Result<()> {
    ensure!(
        !args.id.is_empty(),
        "container id must be specified: ctr shim --id ID …"
    );
    let shim = Shim::connect(args, client).await?;
    let id = args.id.clone();
    match &args.command {
        Command::State => {
            let request = StateRequest {
                id,
                ..StateRequest::default()
            };
            let state: StateResponse = shim.call("State", &request).await?;
            print_json(&reflect::json(&state))
        }
        Command::Start(process) => {
            let exec_id = process.exec_id.clone().unwrap_or_default();
            let request = StartRequest {
                id,
                exec_id,
                ..StartRequest::default()
            };
            shim.call::<StartResponse>("Start", &request).await.map(drop)
        }
        Command::Delete(process) => {
            let exec_id = process.exec_id.clone().unwrap_or_default();
            let request = DeleteRequest {
                id,
                exec_id,
                ..DeleteRequest::default()
            };
            let deleted: DeleteResponse = shim.call("Delete", &request).await?;
            println!("container deleted and returned exit status {}", deleted.exit_status());
            Ok(())
        }
        Command::Shutdown => {
            let request = ShutdownRequest {
                id,
                ..ShutdownRequest::default()
            };
            shim.call::<Empty>("Shutdown", &request).await.map(drop)
        }
        Command::Exec(exec) => shim.exec(id, exec).await,
    }
}

/// A connection to one shim.
struct Shim {
    client: ShimClient,
    service: &'static str,
}

impl Shim {
    const V2: &'static str = "containerd.task.v2.Task";
    const V3: &'static str = "containerd.task.v3.Task";

    async fn connect(args: &ShimArgs, client: &Client) -> Result<Self> {
        let path = match &args.shim_address {
            Some(address) => PathBuf::from(address.strip_prefix("unix://").unwrap_or(address)),
            None => socket_path(client.address(), client.namespace(), &args.id),
        };
        let connection = ShimClient::connect(&format!("unix://{}", path.display())).await;
        let connection = connection
            .with_context(|| format!("fail to connect to container {}'s shim at {}", args.id, path.display()))?;
        let mut shim = Self {
            client: connection,
            service: Self::V3,
        };
        // A shim that does not know the service says so before it looks at the request.
        let probe = StateRequest {
            id: args.id.clone(),
            ..StateRequest::default()
        };
        if let Err(ttrpc::Error::RpcStatus(status)) = shim.try_call("State", &probe).await
            && status.code() == ttrpc::Code::UNIMPLEMENTED
        {
            shim.service = Self::V2;
        }
        Ok(shim)
    }

    async fn try_call(&self, method: &str, request: &dyn ErasedMessage) -> Result<Vec<u8>, ttrpc::Error> {
        let call = ttrpc::Request {
            service: self.service.to_owned(),
            method: method.to_owned(),
            timeout_nano: TIMEOUT,
            payload: request.bytes(),
            ..ttrpc::Request::default()
        };
        Ok(self.client.request(call).await?.payload)
    }

    async fn call<A: Message>(&self, method: &str, request: &dyn ErasedMessage) -> Result<A> {
        let payload = match self.try_call(method, request).await {
            Ok(payload) => payload,
            Err(ttrpc::Error::RpcStatus(status)) => bail!("{}", status.message()),
            Err(error) => return Err(error).with_context(|| format!("the shim's {method}")),
        };
        A::parse_from_bytes(&payload).with_context(|| format!("the shim's answer to {method}"))
    }

    async fn exec(&self, id: String, args: &ExecArgs) -> Result<()> {
        let streams = Streams {
            stdin: args.stdin.clone(),
            stdout: args.stdout.clone(),
            stderr: args.stderr.clone(),
            terminal: args.tty,
        };
        let mut copies = if args.attach {
            Copies::start(&streams, false)?
        } else {
            Copies::default()
        };
        let spec = std::fs::read(&args.spec).with_context(|| format!("cannot read --spec {}", args.spec.display()))?;
        let spec = Any {
            type_url: PROCESS_TYPE_URL.to_owned(),
            value: spec,
            ..Any::default()
        };
        let request = ExecProcessRequest {
            id: id.clone(),
            exec_id: args.exec_id.clone(),
            terminal: args.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            spec: Some(spec).into(),
            ..ExecProcessRequest::default()
        };
        self.call::<Empty>("Exec", &request).await?;
        let request = StartRequest {
            id,
            exec_id: args.exec_id.clone(),
            ..StartRequest::default()
        };
        let started: StartResponse = self.call("Start", &request).await?;
        println!("exec running with pid {}", started.pid());
        copies.start_input();
        copies.finish().await;
        Ok(())
    }
}

/// A message whose bytes are all that a call needs.
trait ErasedMessage: Send + Sync {
    fn bytes(&self) -> Vec<u8>;
}

impl<M: Message> ErasedMessage for M {
    fn bytes(&self) -> Vec<u8> {
        // Writing to memory fails only for messages beyond 2 GiB, which these are not.
        self.write_to_bytes().unwrap_or_default()
    }
}

/// The socket of a container's shim: named by the digest of what tells it from all others on the machine.
fn socket_path(address: &str, namespace: &str, id: &str) -> PathBuf {
    let name = Path::new(address).join(namespace).join(id);
    Path::new(SOCKETS).join(hex::encode(Sha256::digest(name.as_os_str().as_encoded_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shims_socket_is_found_by_digest() {
        let path = socket_path("/run/containerd/containerd.sock", "default", "t1");
        let digest = hex::encode(Sha256::digest(b"/run/containerd/containerd.sock/default/t1"));
        assert_eq!(path, Path::new("/run/containerd/s").join(digest));
    }
}
