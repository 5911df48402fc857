//! The specification before any image or flag: containerd's defaults for a Linux container.

use super::caps::DEFAULT;
use super::model::*;

/// Version written into specifications. It is the oldest released one that has every field used here, because runtimes
/// refuse a version that is newer than theirs.
pub const OCI_VERSION: &str = "1.1.0";

/// The environment of a process whose image sets none.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    // Power readings leak what other processes compute (CVE-2020-8694); containerd hides them since 1.7.8.
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const MOUNTS: &[(&str, &str, &str, &[&str])] = &[
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    (
        "/dev",
        "tmpfs",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    ),
    (
        "/dev/shm",
        "tmpfs",
        "shm",
        &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    ),
    ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    (
        "/run",
        "tmpfs",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
];

/// Character devices that every container may use: null, random, full, tty, zero, urandom, console, the
/// pseudo terminals (any minor) and ptmx.
const DEVICES: &[(i64, Option<i64>)] = &[
    (1, Some(3)),
    (1, Some(8)),
    (1, Some(7)),
    (5, Some(0)),
    (1, Some(5)),
    (1, Some(9)),
    (5, Some(1)),
    (136, None),
    (5, Some(2)),
];

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

/// The default specification of container `id` in `namespace`. `id` may be empty (`ctr oci spec`).
pub fn default_spec(namespace: &str, id: &str) -> Spec {
    Spec {
        oci_version: OCI_VERSION.to_owned(),
        process: Process {
            cwd: "/".to_owned(),
            no_new_privileges: true,
            capabilities: Capabilities {
                bounding: strings(DEFAULT),
                effective: strings(DEFAULT),
                permitted: strings(DEFAULT),
            },
            rlimits: vec![Rlimit {
                kind: "RLIMIT_NOFILE".to_owned(),
                hard: 1024,
                soft: 1024,
            }],
            ..Process::default()
        },
        root: Root {
            path: "rootfs".to_owned(),
            readonly: false,
        },
        mounts: MOUNTS
            .iter()
            .map(|(destination, kind, source, options)| Mount {
                destination: (*destination).to_owned(),
                kind: (*kind).to_owned(),
                source: (*source).to_owned(),
                options: strings(options),
            })
            .collect(),
        linux: Linux {
            resources: Resources {
                devices: vec![DeviceRule {
                    access: "rwm".to_owned(),
                    ..DeviceRule::default()
                }],
                ..Resources::default()
            },
            cgroups_path: if id.is_empty() {
                format!("/{namespace}")
            } else {
                format!("/{namespace}/{id}")
            },
            namespaces: ["pid", "ipc", "uts", "mount", "network"]
                .map(|kind| Namespace {
                    kind: kind.to_owned(),
                    path: String::new(),
                })
                .to_vec(),
            masked_paths: strings(MASKED),
            readonly_paths: strings(READONLY),
            ..Linux::default()
        },
        ..Spec::default()
    }
}

/// The rules that let a container use the ordinary device nodes, after the default rule that denies all.
pub fn default_device_rules() -> impl Iterator<Item = DeviceRule> {
    DEVICES.iter().map(|(major, minor)| DeviceRule {
        allow: true,
        kind: "c".to_owned(),
        major: Some(*major),
        minor: *minor,
        access: "rwm".to_owned(),
    })
}
