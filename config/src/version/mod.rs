//! The four versions of the file, and the way from each to the newest.
//!
//! 1: plugin tables keyed by bare id. 2: by URI. 3: CRI split into images, runtime and server. 4: listeners are
//! plugin tables (`io.containerd.server.v1.*`). Everything here works on raw tables, one file at a time, *before*
//! files are merged, so that a drop-in of an older version merges as what it means.

mod cri;
mod listeners;

use toml::{Table, Value};

pub(crate) use cri::{drop_retired as drop_retired_cri_keys, join as join_cri, split_defaults as split_cri_defaults};
pub(crate) use listeners::{hoist as hoist_listeners, lower_whole as lower_whole_listeners};

/// The newest configuration version.
pub const LATEST_VERSION: i64 = 4;

/// Plugins that containerd renamed: old URI, new URI.
pub(crate) const RENAMED: [(&str, &str); 2] = [
    (
        "io.containerd.internal.v1.restart",
        "io.containerd.monitor.container.v1.restart",
    ),
    (
        "io.containerd.monitor.v1.cgroups",
        "io.containerd.monitor.task.v1.cgroups",
    ),
];

/// Bare ids of version 1 whose type cannot be guessed from the id.
const VERSION_1_IDS: [(&str, &str); 16] = [
    ("cri", "io.containerd.grpc.v1"),
    ("cgroups", "io.containerd.monitor.v1"),
    ("linux", "io.containerd.runtime.v1"),
    ("scheduler", "io.containerd.gc.v1"),
    ("bolt", "io.containerd.metadata.v1"),
    ("task", "io.containerd.runtime.v2"),
    ("opt", "io.containerd.internal.v1"),
    ("restart", "io.containerd.internal.v1"),
    ("tracing", "io.containerd.internal.v1"),
    ("otlp", "io.containerd.tracing.processor.v1"),
    ("aufs", "io.containerd.snapshotter.v1"),
    ("btrfs", "io.containerd.snapshotter.v1"),
    ("devmapper", "io.containerd.snapshotter.v1"),
    ("native", "io.containerd.snapshotter.v1"),
    ("overlayfs", "io.containerd.snapshotter.v1"),
    ("zfs", "io.containerd.snapshotter.v1"),
];

/// The newest name of a plugin: two plugins of containerd 1.7 have another URI since 2.0.
pub fn canonical_uri(uri: &str) -> &str {
    RENAMED.iter().find(|(old, _)| *old == uri).map_or(uri, |(_, new)| new)
}

/// The name containerd 1.7 (version 2) has for a plugin.
pub(crate) fn version_2_uri(uri: &str) -> &str {
    RENAMED.iter().find(|(_, new)| *new == uri).map_or(uri, |(old, _)| old)
}

/// A version 1 name as a URI; what already is one stays.
pub(crate) fn uri_of_version_1(name: &str) -> String {
    if name.contains('.') {
        return name.to_owned();
    }
    let kind = match VERSION_1_IDS.iter().find(|(id, _)| *id == name) {
        Some((_, kind)) => kind,
        None if name.ends_with("-service") => "io.containerd.service.v1",
        None if name.starts_with("windows") => "io.containerd.snapshotter.v1",
        None => "io.containerd.grpc.v1",
    };
    format!("{kind}.{name}")
}

/// The version a file's table declares; none means 1, as in containerd. `Err` holds what it says instead.
pub(crate) fn declared(table: &Table) -> Result<Option<i64>, String> {
    match table.get("version") {
        None => Ok(None),
        Some(Value::Integer(version @ 1..=LATEST_VERSION)) => Ok(Some(*version)),
        Some(other) => Err(other.to_string()),
    }
}

/// Lifts one file's table to the newest form, in place.
pub(crate) fn lift(table: &mut Table, from: i64) {
    if from < 2
        && let Some(Value::Table(plugins)) = table.get_mut("plugins")
    {
        *plugins = std::mem::take(plugins)
            .into_iter()
            .map(|(name, value)| (uri_of_version_1(&name), value))
            .collect();
    }
    if let Some(Value::Table(plugins)) = table.get_mut("plugins") {
        rename(plugins);
        if from < LATEST_VERSION {
            cri::split(plugins);
        }
    }
    if from < LATEST_VERSION {
        listeners::lower(table);
    }
}

/// Gives renamed plugins their newest name. Where a file has both, the newest wins.
pub(crate) fn rename(plugins: &mut Table) {
    for (old, new) in RENAMED {
        if let Some(value) = plugins.remove(old) {
            plugins.entry(new).or_insert(value);
        }
    }
}

/// Replaces `runtime.v2.task`'s `sched_core`, which version 4 has as an environment variable of the shim.
pub(crate) fn move_sched_core(plugins: &mut Table) {
    let Some(Value::Table(task)) = plugins.get_mut("io.containerd.runtime.v2.task") else {
        return;
    };
    if task.remove("sched_core") != Some(Value::Boolean(true)) {
        return;
    }
    let shim = plugins
        .entry("io.containerd.shim.v1.manager")
        .or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(shim) = shim {
        let env = shim.entry("env").or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(env) = env {
            env.push("SCHED_CORE=1".into());
        }
    }
}

/// The table at `key`, when it is one.
fn subtable<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Table> {
    table.get_mut(key).and_then(Value::as_table_mut)
}

/// The table at `key`, made when it is missing. `None` when something else is there.
fn subtable_or_new<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Table> {
    table
        .entry(key)
        .or_insert_with(|| Value::Table(Table::new()))
        .as_table_mut()
}

#[cfg(test)]
mod tests;
