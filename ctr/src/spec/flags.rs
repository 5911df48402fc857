//! The flags that shape a specification. `run` and `containers create` share [`SpecFlags`]; [`RunFlags`] are `run`'s own.

use clap::Args;
use std::path::PathBuf;

/// Flags of `run` and `containers create`.
#[derive(Debug, Clone, Default, Args)]
pub struct SpecFlags {
    /// Path to the runtime-specific spec config file
    #[arg(long, short = 'c', value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Specify the working directory of the process
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Specify additional container environment variables (e.g. FOO=bar)
    #[arg(long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// Specify additional container environment variables in a file(e.g. FOO=bar, one per line)
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Specify additional labels (e.g. foo=bar)
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Specify additional OCI annotations (e.g. foo=bar)
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Specify additional container mount (e.g. type=bind,src=/tmp,dst=/host,options=rbind:ro)
    #[arg(long, value_name = "MOUNT")]
    pub mount: Vec<String>,
    /// Enable host networking for the container
    #[arg(long)]
    pub net_host: bool,
    /// Run privileged container
    #[arg(long)]
    pub privileged: bool,
    /// Set the containers filesystem as readonly
    #[arg(long)]
    pub read_only: bool,
    /// Allocate a TTY for the container
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Specify existing Linux namespaces to join at container runtime (format '<nstype>:<path>')
    #[arg(long, value_name = "TYPE:PATH")]
    pub with_ns: Vec<String>,
    /// Add gpus to the container
    #[arg(long, value_name = "INDEX")]
    pub gpus: Vec<u32>,
    /// Turn off OCI spec's NoNewPrivileges feature flag
    #[arg(long)]
    pub allow_new_privs: bool,
    /// Memory limit (in bytes) for the container
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub memory_limit: u64,
    /// Add Linux capabilities (Set capabilities with 'CAP_' prefix)
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Drop Linux capabilities (Set capabilities with 'CAP_' prefix)
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// Enable the default seccomp profile
    #[arg(long)]
    pub seccomp: bool,
    /// File path to custom seccomp profile. seccomp must be set to true, before using seccomp-profile
    #[arg(long, value_name = "FILE")]
    pub seccomp_profile: Option<PathBuf>,
    /// Enable AppArmor with the default profile with the specified name, e.g. "cri-containerd.apparmor.d"
    #[arg(long, value_name = "NAME")]
    pub apparmor_default_profile: Option<String>,
    /// Enable AppArmor with an existing custom profile
    #[arg(long, value_name = "NAME")]
    pub apparmor_profile: Option<String>,
    /// File path to blockio class definitions. By default class definitions are not loaded.
    #[arg(long, value_name = "FILE")]
    pub blockio_config_file: Option<PathBuf>,
    /// Name of the blockio class to associate the container with
    #[arg(long, value_name = "CLASS")]
    pub blockio_class: Option<String>,
    /// Name of the RDT class to associate the container with (a Class of Service for cache and memory bandwidth)
    #[arg(long, value_name = "CLASS")]
    pub rdt_class: Option<String>,
    /// Set the container's host name
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Username or user id, group optional (format: <name|uid>[:<group|gid>])
    #[arg(long, short = 'u', value_name = "USER")]
    pub user: Option<String>,
    /// Use custom rootfs that is not managed by containerd snapshotter
    #[arg(long)]
    pub rootfs: bool,
    /// Disable use of pivot-root (linux only)
    #[arg(long)]
    pub no_pivot: bool,
    /// Limit CPU CFS quota
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// Limit CPU CFS period
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    pub cpu_period: u64,
    /// Set the propagation of the container rootfs
    #[arg(long, value_name = "PROPAGATION")]
    pub rootfs_propagation: Option<String>,
    /// File path to a device to add to the container; or a path to a directory tree of devices to add
    #[arg(long, value_name = "PATH")]
    pub device: Vec<PathBuf>,
}

/// Flags that only `run` has.
#[derive(Debug, Clone, Default, Args)]
pub struct RunFlags {
    /// Cgroup path (To disable use of cgroup, set to "" explicitly)
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<String>,
    /// Run inside a user namespace with the specified UID mapping range: container-uid:host-uid:length
    #[arg(long, value_name = "MAPPING")]
    pub uidmap: Vec<String>,
    /// Run inside a user namespace with the specified GID mapping range: container-gid:host-gid:length
    #[arg(long, value_name = "MAPPING")]
    pub gidmap: Vec<String>,
    /// Provide the user namespace ID remapping to the snapshotter via label options; requires snapshotter support
    #[arg(long)]
    pub remap_labels: bool,
    /// Don't pass all host devices to privileged container
    #[arg(long)]
    pub privileged_without_host_devices: bool,
    /// Set the CFS cpu quota
    #[arg(long, value_name = "CPUS", default_value_t = 0.0)]
    pub cpus: f64,
    /// Set the cpu shares
    #[arg(long, value_name = "SHARES", default_value_t = 1024)]
    pub cpu_shares: u64,
    /// Set the CPUs the container will run in, e.g. 1-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Set the memory nodes the container will run in, e.g. 1-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Set RLIMIT_NOFILE for the process, as NUMBER or SOFT:HARD
    #[arg(long, value_name = "LIMIT")]
    pub rlimit_nofile: Option<String>,
}
