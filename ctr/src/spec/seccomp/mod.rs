//! The default system call filter: everything is refused (`EPERM`) but what is listed, and a capability opens the calls
//! that it is there for. The policy is containerd's, so that a program behaves the same under either client.

mod calls;

use anyhow::{Context, Result};
use calls::ALLOWED;
use serde_json::{Value, json};
use std::path::Path;

/// Calls that come with a capability.
const BY_CAPABILITY: &[(&str, &[&str])] = &[
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    (
        ADMIN,
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "name_to_handle_at",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    (
        "CAP_SYS_PTRACE",
        &[
            "kcmp",
            "pidfd_getfd",
            "process_madvise",
            "process_vm_readv",
            "process_vm_writev",
            "ptrace",
        ],
    ),
    ("CAP_SYS_RAWIO", &["iopl", "ioperm"]),
    (
        "CAP_SYS_TIME",
        &["settimeofday", "stime", "clock_settime", "clock_settime64"],
    ),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
];

const ADMIN: &str = "CAP_SYS_ADMIN";

/// The values of `personality(2)` that only report or choose a Linux ABI.
const PERSONALITIES: &[u64] = &[0x0, 0x0008, 0x20000, 0x20008, 0xffff_ffff];

/// Flags of `clone(2)` that make namespaces, which needs `CAP_SYS_ADMIN`.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// The default profile for a container whose bounding set is `capabilities`.
pub fn default_profile(capabilities: &[String]) -> Value {
    let mut rules = vec![allow(ALLOWED)];
    // AF_ALG and AF_VSOCK reach the kernel's crypto and the hypervisor past every namespace. One condition a rule: runc
    // turns two conditions on one argument into alternatives, which would let both families in.
    rules.push(allow_when("socket", "SCMP_CMP_LT", AF_ALG, 0));
    rules.push(allow_when("socket", "SCMP_CMP_EQ", AF_ALG + 1, 0));
    rules.push(allow_when("socket", "SCMP_CMP_GT", AF_VSOCK, 0));
    rules.extend(
        PERSONALITIES
            .iter()
            .map(|value| allow_when("personality", "SCMP_CMP_EQ", *value, 0)),
    );
    // Safe in an unprivileged container since Linux 4.8, older than any kernel this client runs on.
    rules.push(allow(&["process_vm_readv", "process_vm_writev", "ptrace"]));
    rules.extend(architecture_calls().map(allow));
    for (capability, calls) in BY_CAPABILITY {
        if capabilities.iter().any(|held| held == capability) {
            rules.push(allow(calls));
        }
    }
    if !capabilities.iter().any(|held| held == ADMIN) {
        rules.push(allow_when("clone", "SCMP_CMP_MASKED_EQ", CLONE_NAMESPACES, 0));
        // Its flags are behind a pointer that a filter cannot read: "not implemented" makes libc fall back to clone.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": nix::libc::ENOSYS}));
    }
    json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": architectures(), "syscalls": rules})
}

/// Reads a profile in the specification's own form from a file.
pub fn profile_from_file(path: &Path) -> Result<Value> {
    let bytes =
        std::fs::read(path).with_context(|| format!("cannot load seccomp profile {:?}", path.display().to_string()))?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("decoding seccomp profile failed {:?}", path.display().to_string()))
}

fn allow(names: &[&str]) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ALLOW"})
}

fn allow_when(name: &str, op: &str, value: u64, value_two: u64) -> Value {
    let mut argument = json!({"index": 0, "value": value, "op": op});
    if op == "SCMP_CMP_MASKED_EQ" {
        argument["valueTwo"] = json!(value_two);
    }
    json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]})
}

fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        _ => &[],
    }
}

fn architecture_calls() -> Option<&'static [&'static str]> {
    match std::env::consts::ARCH {
        "x86_64" => Some(&["arch_prctl", "modify_ldt"]),
        "aarch64" => Some(&[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "sync_file_range2",
            "breakpoint",
            "cacheflush",
            "set_tls",
        ]),
        "riscv64" => Some(&["riscv_flush_icache"]),
        _ => None,
    }
}
