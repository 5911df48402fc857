//! `containers create`, and the making of `run`'s container: snapshot, specification, record.
//!
//! The whole happens under a lease, so that a collection in between takes neither the image's content nor the new
//! snapshot; when a step fails, what the steps before it made is removed.

use super::options::RuncOptions;
use super::users_of_container;
use crate::cli::SnapshotterArgs;
use crate::client::Client;
use crate::image;
use crate::spec::build::{Request, Rootfs, build, from_file};
use crate::spec::flags::{RunFlags, SpecFlags};
use crate::spec::image::ImageConfig;
use crate::spec::users::Users;
use crate::spec::{SPEC_TYPE_URL, parse};
use crate::task::lifecycle::STOP_SIGNAL_LABEL;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest};
use containerd_client::services::v1::{Container, CreateContainerRequest};
use serde_json::Value;
use std::collections::BTreeMap;

/// The runtime that has runc's options.
pub const DEFAULT_RUNTIME: &str = "io.containerd.runc.v2";

/// Largest sum of a label's key and value in bytes.
const MAX_LABEL: usize = 4096;

/// `ctr containers create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    flags: ContainerFlags,
    /// Image or rootfs, container id, command and arguments; with --config the container id alone
    #[arg(
        value_name = "IMAGE|ROOTFS CONTAINER [COMMAND] [ARG...]",
        required = true,
        trailing_var_arg = true
    )]
    args: Vec<String>,
}

/// Flags of `run` and `containers create`.
#[derive(Debug, Clone, Default, Args)]
pub struct ContainerFlags {
    #[command(flatten)]
    pub(crate) spec: SpecFlags,
    /// Runtime name or absolute path to runtime binary
    #[arg(long, value_name = "RUNTIME", default_value = DEFAULT_RUNTIME)]
    pub runtime: String,
    /// Optional runtime config path
    #[arg(long, value_name = "FILE")]
    pub runtime_config_path: Option<String>,
    /// Specify runc-compatible binary
    #[arg(long, value_name = "BINARY")]
    pub runc_binary: Option<String>,
    /// Specify runc-compatible root
    #[arg(long, value_name = "DIR")]
    pub runc_root: Option<String>,
    /// Start runc with systemd cgroup manager
    #[arg(long)]
    pub runc_systemd_cgroup: bool,
    #[command(flatten)]
    pub snapshotter: SnapshotterArgs,
    /// Labels added to the new snapshot for this container.
    #[arg(long, value_name = "KEY=VALUE")]
    pub snapshotter_label: Vec<String>,
    /// Create the container in the given sandbox
    #[arg(long, value_name = "ID")]
    pub sandbox: Option<String>,
}

/// What a container is made of, after the command line has been read.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Container id.
    pub id: &'a str,
    /// Image name or path of a root file system; empty with `--config`.
    pub source: &'a str,
    /// Command line; empty takes the image's.
    pub args: &'a [String],
    /// Shared flags.
    pub flags: &'a ContainerFlags,
    /// `run`'s own flags.
    pub run: &'a RunFlags,
    /// Platform of the image.
    pub platform: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// Reads the positional arguments: `SOURCE ID [COMMAND…]`, or `ID` alone when the whole specification is given.
    pub fn new(
        args: &'a [String],
        flags: &'a ContainerFlags,
        run: &'a RunFlags,
        platform: Option<&'a str>,
    ) -> Result<Self> {
        let (source, id, args) = if flags.spec.config.is_some() {
            ensure!(
                args.len() <= 1,
                "with spec config file, only container id should be provided"
            );
            ("", args.first(), &args[args.len()..])
        } else {
            let source = args
                .first()
                .filter(|source| !source.is_empty())
                .context("image ref must be provided")?;
            (source.as_str(), args.get(1), args.get(2..).unwrap_or_default())
        };
        let id = id
            .filter(|id| !id.is_empty())
            .context("container id must be provided")?;
        Ok(Self {
            id,
            source,
            args,
            flags,
            run,
            platform,
        })
    }
}

/// Runs `containers create`.
pub async fn create(client: &Client, args: &CreateArgs) -> Result<()> {
    let run = RunFlags::default();
    make(client, &Wanted::new(&args.args, &args.flags, &run, None)?)
        .await
        .map(drop)
}

/// Makes the container. Answers its record and its specification.
pub async fn make(client: &Client, wanted: &Wanted<'_>) -> Result<(Container, Value)> {
    let options = runtime_options(wanted)?;
    let lease = client.lease().await?;
    let made = make_leased(lease.client(), wanted, options).await;
    lease.release().await;
    made
}

async fn make_leased(
    client: &Client,
    wanted: &Wanted<'_>,
    options: Option<prost_types::Any>,
) -> Result<(Container, Value)> {
    let mut container = Container {
        id: wanted.id.to_owned(),
        runtime: Some(Runtime {
            name: wanted.flags.runtime.clone(),
            options,
        }),
        sandbox: wanted.flags.sandbox.clone().unwrap_or_default(),
        labels: parse::labels(&wanted.flags.spec.label).into_iter().collect(),
        ..Container::default()
    };
    if let Some(path) = &wanted.flags.spec.config {
        let spec = from_file(path, &wanted.flags.spec.label)?;
        return record(
            client,
            container,
            serde_json::to_vec(&spec).context("cannot write the specification")?,
        )
        .await;
    }
    if wanted.flags.spec.rootfs {
        let path = std::path::absolute(wanted.source).with_context(|| format!("rootfs {}", wanted.source))?;
        let path = path
            .to_str()
            .with_context(|| format!("rootfs {} is not UTF-8", path.display()))?
            .to_owned();
        let users = if wanted.flags.spec.user.is_some() {
            crate::spec::rootfs::users_of_directory(path.as_ref())?
        } else {
            Users::default()
        };
        let spec = specification(client, wanted, Rootfs::Path(&path), &users)?;
        return record(client, container, spec).await;
    }
    let image = image::resolve(client, wanted.source, wanted.platform).await?;
    let config = ImageConfig::from_json(&image.config).with_context(|| format!("image {}", wanted.source))?;
    container.image.clone_from(&image.name);
    container.labels = labels(&config, &image.labels, &wanted.flags.spec.label);
    container.snapshotter = client.snapshotter_name(&wanted.flags.snapshotter.name).await?;
    image::ensure_unpacked(client, &image, &container.snapshotter).await?;
    container.snapshot_key = prepare(client, wanted, &container.snapshotter, &image.chain_id()).await?;
    let made = async {
        let users = users_of_container(client, &container, &Value::Null).await?;
        let spec = specification(client, wanted, Rootfs::Image(&config), &users)?;
        record(client, container.clone(), spec).await
    };
    match made.await {
        Ok(made) => Ok(made),
        Err(error) => {
            let request = RemoveSnapshotRequest {
                snapshotter: container.snapshotter,
                key: container.snapshot_key,
            };
            // The first error is the one to report; what stays is collected when the lease is gone.
            drop(client.snapshots().remove(client.request(request)).await);
            Err(error)
        }
    }
}

fn specification(client: &Client, wanted: &Wanted<'_>, rootfs: Rootfs<'_>, users: &Users) -> Result<Vec<u8>> {
    let spec = build(&Request {
        namespace: client.namespace(),
        id: wanted.id,
        flags: &wanted.flags.spec,
        run: wanted.run,
        rootfs,
        args: wanted.args,
        users,
    })?;
    serde_json::to_vec(&spec).context("cannot write the specification")
}

/// Writes the record. The specification is stored as it was written, so that its fields keep their order.
async fn record(client: &Client, mut container: Container, spec: Vec<u8>) -> Result<(Container, Value)> {
    let value = serde_json::from_slice(&spec).context("cannot read the specification")?;
    container.spec = Some(prost_types::Any {
        type_url: SPEC_TYPE_URL.to_owned(),
        value: spec,
    });
    let request = CreateContainerRequest {
        container: Some(container),
    };
    let answer = client.containers().create(client.request(request)).await?.into_inner();
    Ok((answer.container.context("the daemon answered no container")?, value))
}

/// Makes the container's writable snapshot; answers its key.
async fn prepare(client: &Client, wanted: &Wanted<'_>, snapshotter: &str, parent: &str) -> Result<String> {
    let mut labels = parse::labels(&wanted.flags.snapshotter_label);
    if let Some((uid, gid)) = wanted.run.uidmap.first().zip(wanted.run.gidmap.first()) {
        let (uid, gid) = (parse::id_mapping(uid)?, parse::id_mapping(gid)?);
        ensure!(
            wanted.run.remap_labels,
            "--uidmap needs --remap-labels here: the snapshotter shifts the owners; this client does not rewrite an image"
        );
        let mapping = |map: crate::spec::model::IdMapping| format!("{}:{}:{}", map.container_id, map.host_id, map.size);
        labels.insert("containerd.io/snapshot/uidmapping".to_owned(), mapping(uid));
        labels.insert("containerd.io/snapshot/gidmapping".to_owned(), mapping(gid));
    }
    let request = PrepareSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: wanted.id.to_owned(),
        parent: parent.to_owned(),
        labels: labels.into_iter().collect(),
    };
    client.snapshots().prepare(client.request(request)).await?;
    Ok(wanted.id.to_owned())
}

/// A container's labels: the image configuration's, over them the image record's, over them the command line's, and the
/// signal that stops it.
fn labels(
    config: &ImageConfig,
    image: &BTreeMap<String, String>,
    given: &[String],
) -> std::collections::HashMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, value) in config.labels.iter().chain(image) {
        if key.len() + value.len() > MAX_LABEL {
            eprintln!("ctr: image label {key:?} is longer than {MAX_LABEL} bytes and not added to the container");
        } else {
            labels.insert(key.clone(), value.clone());
        }
    }
    labels.extend(parse::labels(given));
    let signal = if config.stop_signal.is_empty() {
        "SIGTERM"
    } else {
        &config.stop_signal
    };
    labels.insert(STOP_SIGNAL_LABEL.to_owned(), signal.to_owned());
    labels.into_iter().collect()
}

fn runtime_options(wanted: &Wanted<'_>) -> Result<Option<prost_types::Any>> {
    let flags = wanted.flags;
    let given = |flag: &Option<String>| flag.clone().unwrap_or_default();
    if flags.runtime != DEFAULT_RUNTIME {
        ensure!(
            flags.runc_binary.is_none() && !flags.runc_systemd_cgroup,
            "specifying runc-binary and runc-systemd-cgroup is only supported for {DEFAULT_RUNTIME:?} runtime"
        );
        if given(&flags.runtime_config_path).is_empty() {
            return Ok(None);
        }
        bail!(
            "--runtime-config-path is not supported by this client yet: configure runtime {} itself",
            flags.runtime
        );
    }
    ensure!(
        !flags.runc_systemd_cgroup || !given(&wanted.run.cgroup).is_empty(),
        "option --runc-systemd-cgroup requires --cgroup to be set, e.g. \"machine.slice:foo:deadbeef\""
    );
    let options = RuncOptions {
        binary_name: given(&flags.runc_binary),
        root: given(&flags.runc_root),
        systemd_cgroup: flags.runc_systemd_cgroup,
        ..RuncOptions::default()
    };
    Ok(Some(options.to_any()))
}
