//! Where the daemon's listeners are configured: at the top level up to version 3, in plugin tables in version 4.

use toml::{Table, Value};

use super::{subtable, subtable_or_new};
use crate::schema::DEFAULT_ADDRESS;

const GRPC: &str = "io.containerd.server.v1.grpc";
const GRPC_TCP: &str = "io.containerd.server.v1.grpc-tcp";
const TTRPC: &str = "io.containerd.server.v1.ttrpc";
const DEBUG: &str = "io.containerd.server.v1.debug";
const METRICS: &str = "io.containerd.server.v1.metrics";
const PROMETHEUS: &str = "io.containerd.metrics.v1.grpc-prometheus";

/// A key in the plugin table, and its name at the top level.
type KeyPairs = &'static [(&'static str, &'static str)];

/// Plugin table, top-level table, and the keys of one in the other.
const KEYS: [(&str, &str, KeyPairs); 6] = [
    (
        GRPC,
        "grpc",
        &[
            ("address", "address"),
            ("uid", "uid"),
            ("gid", "gid"),
            ("max_recv_message_size", "max_recv_message_size"),
            ("max_send_message_size", "max_send_message_size"),
        ],
    ),
    (
        GRPC_TCP,
        "grpc",
        &[
            ("address", "tcp_address"),
            ("tls_ca", "tcp_tls_ca"),
            ("tls_cert", "tcp_tls_cert"),
            ("tls_key", "tcp_tls_key"),
            ("tls_common_name", "tcp_tls_common_name"),
            ("max_recv_message_size", "tcp_max_recv_message_size"),
            ("max_send_message_size", "tcp_max_send_message_size"),
        ],
    ),
    (
        TTRPC,
        "ttrpc",
        &[("address", "address"), ("uid", "uid"), ("gid", "gid")],
    ),
    (
        DEBUG,
        "debug",
        &[("address", "address"), ("uid", "uid"), ("gid", "gid")],
    ),
    (METRICS, "metrics", &[("address", "address")]),
    (PROMETHEUS, "metrics", &[("grpc_histogram", "grpc_histogram")]),
];

/// Moves complete listener settings (every key present, zeros included) into plugin tables, for printing version 4.
pub(crate) fn lower_whole(config: &mut Table, plugins: &mut Table) {
    let limits: Vec<_> = ["max_recv_message_size", "max_send_message_size"]
        .into_iter()
        .filter_map(|key| Some((key, config.get("grpc")?.get(key)?.clone())))
        .collect();
    for (plugin, top, keys) in KEYS {
        let (Some(table), Some(target)) = (subtable(config, top), subtable_or_new(plugins, plugin)) else {
            continue;
        };
        for (new, old) in keys {
            if let Some(value) = table.remove(*old) {
                target.insert((*new).into(), value);
            }
        }
    }
    if let Some(tcp) = subtable_or_new(plugins, GRPC_TCP) {
        for (key, value) in limits {
            tcp.entry(key).or_insert(value);
        }
    }
    for top in ["grpc", "ttrpc", "metrics"] {
        config.remove(top);
    }
}

/// Version 3 → 4: moves the listeners of one file into plugin tables. A plugin table that the file already has wins.
///
/// Zero values (`""`, `0`, `false`) mean "unset", as up to version 3 they cannot be told apart. An unset ttrpc
/// address follows a set gRPC address, owner included; version 4 has no such rule any more, so it is written out.
pub(super) fn lower(file: &mut Table) {
    derive_ttrpc(file);
    let mut moved: Vec<(&str, Table)> = Vec::new();
    for (plugin, top, keys) in KEYS {
        let Some(table) = subtable(file, top) else { continue };
        let mut values = Table::new();
        for (new, old) in keys {
            if let Some(value) = table.remove(*old).filter(|value| !crate::merge::is_zero(value)) {
                values.insert((*new).into(), value);
            }
        }
        // Limits belong to both gRPC listeners, and owners mean nothing without a socket; a TCP listener without an
        // address is none.
        let meant = match plugin {
            GRPC_TCP | DEBUG => values.contains_key("address"),
            _ => !values.is_empty(),
        };
        if meant {
            moved.push((plugin, values));
        }
    }
    for top in ["grpc", "ttrpc", "metrics", "debug"] {
        if subtable(file, top).is_some_and(|table| table.is_empty()) {
            file.remove(top);
        }
    }
    if moved.is_empty() {
        return;
    }
    let Some(plugins) = subtable_or_new(file, "plugins") else {
        return;
    };
    for (plugin, values) in moved {
        plugins.entry(plugin).or_insert(Value::Table(values));
    }
}

fn derive_ttrpc(file: &mut Table) {
    let Some(grpc) = subtable(file, "grpc") else { return };
    let Some(address) = grpc.get("address").and_then(Value::as_str).filter(|a| !a.is_empty()) else {
        return;
    };
    let address = format!("{address}.ttrpc");
    let owner: Vec<_> = ["uid", "gid"]
        .into_iter()
        .filter_map(|key| Some((key, grpc.get(key)?.clone())))
        .collect();
    let Some(ttrpc) = subtable_or_new(file, "ttrpc") else {
        return;
    };
    if ttrpc.get("address").is_none_or(crate::merge::is_zero) {
        ttrpc.insert("address".into(), address.into());
        for (key, value) in owner {
            if ttrpc.get(key).is_none_or(crate::merge::is_zero) {
                ttrpc.insert(key.into(), value);
            }
        }
    }
}

/// Version 4 → the typed form: listeners back to the top level, over all merged files.
///
/// Version 4's ttrpc listener does not follow the gRPC socket: where only the latter was moved, the former stays at
/// the default place.
pub(crate) fn hoist(config: &mut Table) {
    for (plugin, top, keys) in KEYS {
        let Some(Value::Table(mut values)) = subtable(config, "plugins").and_then(|plugins| plugins.remove(plugin))
        else {
            continue;
        };
        let Some(table) = subtable_or_new(config, top) else {
            continue;
        };
        for (new, old) in keys {
            if let Some(value) = values.remove(*new) {
                table.insert((*old).into(), value);
            }
        }
    }
    let moved = subtable(config, "grpc")
        .and_then(|grpc| grpc.get("address"))
        .is_some_and(|a| a.as_str() != Some(DEFAULT_ADDRESS));
    if moved && let Some(ttrpc) = subtable_or_new(config, "ttrpc") {
        ttrpc
            .entry("address")
            .or_insert_with(|| format!("{DEFAULT_ADDRESS}.ttrpc").into());
    }
}
