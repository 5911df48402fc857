//! CRI's one table of version 2 and its three of version 3: images, runtime and the server.

use toml::{Table, Value};

use super::{subtable, subtable_or_new};

const SERVER: &str = "io.containerd.grpc.v1.cri";
const IMAGES: &str = "io.containerd.cri.v1.images";
const RUNTIME: &str = "io.containerd.cri.v1.runtime";

/// Keys that stay with the server.
const SERVER_KEYS: [&str; 6] = [
    "disable_tcp_service",
    "stream_server_address",
    "stream_server_port",
    "stream_idle_timeout",
    "enable_tls_streaming",
    "x509_key_pair_streaming",
];
/// Keys that moved to images under their own name.
const IMAGES_KEYS: [&str; 6] = [
    "registry",
    "image_decryption",
    "max_concurrent_downloads",
    "image_pull_progress_timeout",
    "image_pull_with_sync_fs",
    "stats_collect_period",
];
/// Keys that moved to images out of `containerd`.
const CONTAINERD_IMAGES_KEYS: [&str; 3] = ["snapshotter", "disable_snapshot_annotations", "discard_unpacked_layers"];

/// Splits the one table. Keys that a new table already has win over the old table's, except where containerd lets
/// the old one win (everything that moves to images).
pub(super) fn split(plugins: &mut Table) {
    let Some(Value::Table(mut old)) = plugins.remove(SERVER) else {
        return;
    };
    let mut server = Table::new();
    for key in SERVER_KEYS {
        move_key(&mut old, &mut server, key);
    }
    plugins.insert(SERVER.into(), Value::Table(server));

    let sandbox_image = old.remove("sandbox_image");
    let mut from_containerd = Table::new();
    if let Some(containerd) = subtable(&mut old, "containerd") {
        for key in CONTAINERD_IMAGES_KEYS {
            move_key(containerd, &mut from_containerd, key);
        }
    }
    let for_images: Vec<_> = IMAGES_KEYS.iter().filter_map(|key| old.remove_entry(*key)).collect();
    if old
        .get("containerd")
        .is_some_and(|containerd| containerd.as_table().is_some_and(Table::is_empty))
    {
        old.remove("containerd");
    }
    let mut for_images = Table::from_iter(for_images);
    for_images.extend(from_containerd);
    if (sandbox_image.is_some() || !for_images.is_empty())
        && let Some(images) = subtable_or_new(plugins, IMAGES)
    {
        images.extend(for_images);
        if let (Some(image), Some(pinned)) = (sandbox_image, subtable_or_new(images, "pinned_images")) {
            pinned.insert("sandbox".into(), image);
        }
    }

    if let Some(cni) = subtable(&mut old, "cni")
        && let Some(dir) = cni.remove("bin_dir")
    {
        cni.entry("bin_dirs").or_insert_with(|| Value::Array(vec![dir]));
    }
    for_each_runtime(&mut old, |runtime| {
        if let Some(mode) = runtime.remove("sandbox_mode") {
            runtime.entry("sandboxer").or_insert(mode);
        }
    });
    if old.is_empty() && !plugins.contains_key(RUNTIME) {
        return;
    }
    if let Some(runtime) = subtable_or_new(plugins, RUNTIME) {
        crate::merge::fill(runtime, old);
    }
}

/// Splits a plugin's whole default table for printing version 3 or later, and drops what those do not have. A CRI
/// plugin that registers in three parts already is left alone.
pub(crate) fn split_defaults(plugins: &mut Table) {
    if !plugins.contains_key(IMAGES) && !plugins.contains_key(RUNTIME) {
        split(plugins);
    }
    drop_retired(plugins);
}

/// Puts the three tables back into version 2's one, for printing that version.
///
/// What version 2's table has no key for stays in the new tables, so nothing is lost: reading the result gives the
/// three tables again.
pub(crate) fn join(plugins: &mut Table) {
    let images = plugins.remove(IMAGES);
    let runtime = plugins.remove(RUNTIME);
    if images.is_none() && runtime.is_none() {
        return;
    }
    let Some(joined) = subtable_or_new(plugins, SERVER) else {
        return;
    };
    let mut newer_runtime = Table::new();
    if let Some(Value::Table(mut runtime)) = runtime {
        // Version 2's key of this name is the one of images.
        move_key(&mut runtime, &mut newer_runtime, "stats_collect_period");
        rename_back(&mut runtime);
        crate::merge::fill(
            &mut newer_runtime,
            crate::check::take_newer_than_1_7(SERVER, &mut runtime),
        );
        joined.extend(runtime);
    }
    let mut newer_images = Table::new();
    if let Some(Value::Table(mut images)) = images {
        if let Some(pinned) = subtable(&mut images, "pinned_images") {
            if let Some(image) = pinned.remove("sandbox") {
                joined.insert("sandbox_image".into(), image);
            }
            if pinned.is_empty() {
                images.remove("pinned_images");
            }
        }
        for key in IMAGES_KEYS {
            move_key(&mut images, joined, key);
        }
        if CONTAINERD_IMAGES_KEYS.iter().any(|key| images.contains_key(*key))
            && let Some(containerd) = subtable_or_new(joined, "containerd")
        {
            for key in CONTAINERD_IMAGES_KEYS {
                move_key(&mut images, containerd, key);
            }
        }
        newer_images = images;
    }
    for (uri, newer) in [(IMAGES, newer_images), (RUNTIME, newer_runtime)] {
        if !newer.is_empty() {
            plugins.insert(uri.into(), Value::Table(newer));
        }
    }
}

/// Version 2's names for what it has in another form.
fn rename_back(runtime: &mut Table) {
    if let Some(cni) = subtable(runtime, "cni") {
        let single = match cni.get("bin_dirs") {
            Some(Value::Array(dirs)) if dirs.len() == 1 => dirs.first().cloned(),
            _ => None,
        };
        if let Some(dir) = single {
            cni.remove("bin_dirs");
            cni.insert("bin_dir".into(), dir);
        }
    }
    for_each_runtime(runtime, |runtime| {
        if let Some(sandboxer) = runtime.remove("sandboxer") {
            runtime.insert("sandbox_mode".into(), sandboxer);
        }
    });
}

/// Removes what no CRI reads any more from version 3 on, and names what was set to something.
pub(crate) fn drop_retired(plugins: &mut Table) -> Vec<String> {
    let mut dropped = Vec::new();
    let Some(runtime) = subtable(plugins, RUNTIME) else {
        return dropped;
    };
    let mut drop = |table: &mut Table, prefix: &str, keys: &[&str]| {
        for key in keys {
            if table.remove(*key).is_some_and(|value| !crate::merge::is_zero(&value)) {
                dropped.push(format!("plugins.\"{RUNTIME}\".{prefix}{key}"));
            }
        }
    };
    drop(runtime, "", &["systemd_cgroup", "disable_cgroup"]);
    if let Some(containerd) = subtable(runtime, "containerd") {
        drop(
            containerd,
            "containerd.",
            &["no_pivot", "default_runtime", "untrusted_workload_runtime"],
        );
        if let Some(runtimes) = subtable(containerd, "runtimes") {
            for (name, runtime) in runtimes.iter_mut() {
                if let Value::Table(runtime) = runtime {
                    drop(
                        runtime,
                        &format!("containerd.runtimes.{name}."),
                        &["runtime_engine", "runtime_root"],
                    );
                }
            }
        }
    }
    dropped
}

fn for_each_runtime(cri: &mut Table, mut visit: impl FnMut(&mut Table)) {
    let Some(runtimes) = subtable(cri, "containerd").and_then(|containerd| subtable(containerd, "runtimes")) else {
        return;
    };
    for (_, runtime) in runtimes.iter_mut() {
        if let Value::Table(runtime) = runtime {
            visit(runtime);
        }
    }
}

fn move_key(from: &mut Table, to: &mut Table, key: &str) {
    if let Some((key, value)) = from.remove_entry(key) {
        to.insert(key, value);
    }
}
