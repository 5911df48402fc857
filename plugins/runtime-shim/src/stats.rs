//! What control groups count, in containerd's messages (`io.containerd.cgroups.v1.Metrics`, `…v2.Metrics`).

use std::collections::HashMap;
use std::fs::read_to_string;
use std::path::Path;

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};

/// Reads the counters that are there; a controller that is not there counts nothing.
pub fn read(cgroup: &Cgroup) -> Result<Any> {
    let (kind, value) = match cgroup {
        Cgroup::V1(_) => ("io.containerd.cgroups.v1.Metrics", read_v1(cgroup).write_to_bytes()),
        Cgroup::V2(path) => ("io.containerd.cgroups.v2.Metrics", read_v2(path).write_to_bytes()),
    };
    Ok(Any {
        type_url: kind.to_owned(),
        value: value.map_err(|error| Error::io("write the metrics", error))?,
        ..Any::default()
    })
}

/// A file with one number; `max` is the largest.
fn number(path: &Path) -> Option<u64> {
    let text = read_to_string(path).ok()?;
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// A file with a name and a number a line.
fn table(text: &str) -> HashMap<&str, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs
        .filter_map(|(name, value)| Some((name, value.trim().parse().ok()?)))
        .collect()
}

fn read_v1(cgroup: &Cgroup) -> v1::Metrics {
    let mut metrics = v1::Metrics::default();
    if let Some(path) = cgroup.controller("pids").filter(|path| path.exists()) {
        metrics.pids = Some(v1::PidsStat {
            current: number(&path.join("pids.current")).unwrap_or(0),
            // No limit is 0 in these messages.
            limit: number(&path.join("pids.max"))
                .filter(|limit| *limit != u64::MAX)
                .unwrap_or(0),
            ..v1::PidsStat::default()
        })
        .into();
    }
    let (cpu, accounting) = (cgroup.controller("cpu"), cgroup.controller("cpuacct"));
    if let Some(path) = accounting.filter(|path| path.exists()) {
        let per_cpu = read_to_string(path.join("cpuacct.usage_percpu")).unwrap_or_default();
        let usage = v1::CPUUsage {
            total: number(&path.join("cpuacct.usage")).unwrap_or(0),
            user: number(&path.join("cpuacct.usage_user")).unwrap_or(0),
            kernel: number(&path.join("cpuacct.usage_sys")).unwrap_or(0),
            per_cpu: per_cpu
                .split_whitespace()
                .filter_map(|count| count.parse().ok())
                .collect(),
            ..v1::CPUUsage::default()
        };
        let text = cpu
            .and_then(|path| read_to_string(path.join("cpu.stat")).ok())
            .unwrap_or_default();
        let counts = table(&text);
        let get = |name| counts.get(name).copied().unwrap_or(0);
        let throttling = v1::Throttle {
            periods: get("nr_periods"),
            throttled_periods: get("nr_throttled"),
            throttled_time: get("throttled_time"),
            ..v1::Throttle::default()
        };
        metrics.cpu = Some(v1::CPUStat {
            usage: Some(usage).into(),
            throttling: Some(throttling).into(),
            ..v1::CPUStat::default()
        })
        .into();
    }
    if let Some(path) = cgroup.controller("memory").filter(|path| path.exists()) {
        metrics.memory = Some(memory_v1(&path)).into();
        let text = read_to_string(path.join("memory.oom_control")).unwrap_or_default();
        let counts = table(&text);
        let get = |name| counts.get(name).copied().unwrap_or(0);
        metrics.memory_oom_control = Some(v1::MemoryOomControl {
            oom_kill_disable: get("oom_kill_disable"),
            under_oom: get("under_oom"),
            oom_kill: get("oom_kill"),
            ..v1::MemoryOomControl::default()
        })
        .into();
    }
    if let Some(path) = cgroup.controller("blkio").filter(|path| path.exists()) {
        let file = |name: &str| blkio(&read_to_string(path.join(name)).unwrap_or_default());
        metrics.blkio = Some(v1::BlkIOStat {
            io_service_bytes_recursive: file("blkio.throttle.io_service_bytes_recursive"),
            io_serviced_recursive: file("blkio.throttle.io_serviced_recursive"),
            ..v1::BlkIOStat::default()
        })
        .into();
    }
    metrics
}

fn memory_v1(path: &Path) -> v1::MemoryStat {
    let entry = |prefix: &str| {
        let get = |name: &str| number(&path.join(format!("memory.{prefix}{name}"))).unwrap_or(0);
        Some(v1::MemoryEntry {
            limit: get("limit_in_bytes"),
            usage: get("usage_in_bytes"),
            max: get("max_usage_in_bytes"),
            failcnt: get("failcnt"),
            ..v1::MemoryEntry::default()
        })
    };
    let text = read_to_string(path.join("memory.stat")).unwrap_or_default();
    let counts = table(&text);
    let get = |name| counts.get(name).copied().unwrap_or(0);
    v1::MemoryStat {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        usage: entry("").into(),
        swap: entry("memsw.").into(),
        kernel: entry("kmem.").into(),
        kernel_tcp: entry("kmem.tcp.").into(),
        ..v1::MemoryStat::default()
    }
}

/// Lines such as `8:0 Read 4096`.
fn blkio(text: &str) -> Vec<v1::BlkIOEntry> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        Some(v1::BlkIOEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: fields.next()?.to_owned(),
            value: fields.next()?.parse().ok()?,
            ..v1::BlkIOEntry::default()
        })
    });
    lines.collect()
}

fn read_v2(path: &Path) -> v2::Metrics {
    let text = |name: &str| read_to_string(path.join(name)).unwrap_or_default();
    let (cpu, memory, events) = (text("cpu.stat"), text("memory.stat"), text("memory.events"));
    let (cpu, memory, events) = (table(&cpu), table(&memory), table(&events));
    let get = |counts: &HashMap<&str, u64>, name: &str| counts.get(name).copied().unwrap_or(0);
    let file = |name: &str| number(&path.join(name)).unwrap_or(0);
    v2::Metrics {
        pids: Some(v2::PidsStat {
            current: file("pids.current"),
            limit: number(&path.join("pids.max"))
                .filter(|limit| *limit != u64::MAX)
                .unwrap_or(0),
            ..v2::PidsStat::default()
        })
        .into(),
        cpu: Some(v2::CPUStat {
            usage_usec: get(&cpu, "usage_usec"),
            user_usec: get(&cpu, "user_usec"),
            system_usec: get(&cpu, "system_usec"),
            nr_periods: get(&cpu, "nr_periods"),
            nr_throttled: get(&cpu, "nr_throttled"),
            throttled_usec: get(&cpu, "throttled_usec"),
            nr_bursts: get(&cpu, "nr_bursts"),
            burst_usec: get(&cpu, "burst_usec"),
            ..v2::CPUStat::default()
        })
        .into(),
        memory: Some(v2::MemoryStat {
            anon: get(&memory, "anon"),
            file: get(&memory, "file"),
            kernel_stack: get(&memory, "kernel_stack"),
            slab: get(&memory, "slab"),
            sock: get(&memory, "sock"),
            shmem: get(&memory, "shmem"),
            file_mapped: get(&memory, "file_mapped"),
            file_dirty: get(&memory, "file_dirty"),
            file_writeback: get(&memory, "file_writeback"),
            anon_thp: get(&memory, "anon_thp"),
            inactive_anon: get(&memory, "inactive_anon"),
            active_anon: get(&memory, "active_anon"),
            inactive_file: get(&memory, "inactive_file"),
            active_file: get(&memory, "active_file"),
            unevictable: get(&memory, "unevictable"),
            slab_reclaimable: get(&memory, "slab_reclaimable"),
            slab_unreclaimable: get(&memory, "slab_unreclaimable"),
            pgfault: get(&memory, "pgfault"),
            pgmajfault: get(&memory, "pgmajfault"),
            usage: file("memory.current"),
            usage_limit: file("memory.max"),
            swap_usage: file("memory.swap.current"),
            swap_limit: file("memory.swap.max"),
            max_usage: file("memory.peak"),
            swap_max_usage: file("memory.swap.peak"),
            ..v2::MemoryStat::default()
        })
        .into(),
        memory_events: Some(v2::MemoryEvents {
            low: get(&events, "low"),
            high: get(&events, "high"),
            max: get(&events, "max"),
            oom: get(&events, "oom"),
            oom_kill: get(&events, "oom_kill"),
            oom_group_kill: get(&events, "oom_group_kill"),
            ..v2::MemoryEvents::default()
        })
        .into(),
        io: Some(v2::IOStat {
            usage: io_v2(&text("io.stat")),
            ..v2::IOStat::default()
        })
        .into(),
        ..v2::Metrics::default()
    }
}

/// Lines such as `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn io_v2(text: &str) -> Vec<v2::IOEntry> {
    let lines = text.lines().filter_map(|line| {
        let (device, counts) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let get = |name: &str| {
            let fields = counts.split(' ').filter_map(|field| field.split_once('='));
            fields
                .into_iter()
                .find(|(key, _)| *key == name)
                .and_then(|(_, value)| value.parse().ok())
                .unwrap_or(0)
        };
        Some(v2::IOEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            rbytes: get("rbytes"),
            wbytes: get("wbytes"),
            rios: get("rios"),
            wios: get("wios"),
            ..v2::IOEntry::default()
        })
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        let entries = io_v2("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        assert_eq!((entries[0].minor, entries[0].wios), (16, 4));
        let entries = blkio("8:0 Read 4096\n8:0 Write 1\nTotal 4097\n");
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].op.as_str(), entries[0].value), ("Read", 4096));
    }

    #[test]
    fn a_cgroup_of_version_2_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in [
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("pids.max", "max\n"),
            ("pids.current", "3\n"),
            ("cpu.stat", "usage_usec 7\nuser_usec 4\n"),
            ("memory.events", "oom 1\noom_kill 2\n"),
        ] {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        let metrics = read_v2(dir.path());
        assert_eq!((metrics.memory.usage, metrics.memory.usage_limit), (4096, u64::MAX));
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 0));
        assert_eq!((metrics.cpu.usage_usec, metrics.memory_events.oom_kill), (7, 2));
    }
}
