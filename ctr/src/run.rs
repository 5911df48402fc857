//! `ctr run`: a container, its task and, unless detached, everything to its end, in one command.

use crate::client::Client;
use crate::container::create::{ContainerFlags, Wanted, make};
use crate::container::remove;
use crate::reflect::Json;
use crate::spec::flags::RunFlags;
use crate::task::create::{TaskFlags, run as run_task};
use anyhow::{Context, Result, ensure};
use clap::Args;
use containerd_client::services::v1::Container;
use std::path::PathBuf;

/// `ctr run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Remove the container after running, cannot be used with --detach
    #[arg(long)]
    rm: bool,
    /// Run image for specific platform
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Enable cni networking for the container
    #[arg(long)]
    cni: bool,
    /// Dump the generated OCI config to a file
    #[arg(long, value_name = "FILE")]
    dump_config: Option<PathBuf>,
    #[command(flatten)]
    task: TaskFlags,
    #[command(flatten)]
    container: ContainerFlags,
    #[command(flatten)]
    run: RunFlags,
    /// Image or rootfs, container id, command and arguments; with --config the container id alone
    #[arg(
        value_name = "IMAGE|ROOTFS ID [COMMAND] [ARG...]",
        required = true,
        trailing_var_arg = true
    )]
    args: Vec<String>,
}

/// Runs the container; answers the status that `ctr` exits with.
pub async fn run(client: &Client, args: &RunArgs) -> Result<u32> {
    let wanted = Wanted::new(&args.args, &args.container, &args.run, args.platform.as_deref())?;
    ensure!(
        !(args.rm && args.task.detach),
        "flags --detach and --rm cannot be specified together"
    );
    ensure!(
        !args.cni,
        "--cni is not supported by this client yet: use --net-host or --with-ns network:PATH"
    );
    let (container, spec) = make(client, &wanted).await?;
    let status = async {
        if let Some(path) = &args.dump_config {
            let text = dump(&container)?;
            std::fs::write(path, text).with_context(|| format!("cannot write --dump-config {}", path.display()))?;
        }
        run_task(client, &container, &spec, &args.task, args.container.spec.no_pivot).await
    };
    let status = status.await;
    if args.rm
        && let Err(error) = remove(client, &container, false).await
    {
        let message = crate::client::describe(&error);
        eprintln!("ctr: failed to clean up container {}: {message}", container.id);
    }
    status
}

/// The specification as it was recorded, its fields in their order.
fn dump(container: &Container) -> Result<Vec<u8>> {
    let spec = container
        .spec
        .as_ref()
        .map(|spec| spec.value.as_slice())
        .unwrap_or_default();
    let spec: Json = serde_json::from_slice(spec).context("cannot read the specification")?;
    serde_json::to_vec_pretty(&spec).context("cannot write the specification")
}
