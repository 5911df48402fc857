//! Printing configurations: defaults in three versions, the effective one, and a migrated file.
//!
//! A configuration becomes one table in the form of a version here; `writer` prints a table as the TOML library of
//! that containerd release prints it.

mod writer;

use toml::{Table, Value};

use crate::error::ConfigError;
use crate::schema::{Config, DEFAULT_IMPORTS};
use crate::version::{self, LATEST_VERSION};
use crate::{GoDuration, PluginTables, overlay};

use writer::Style;

/// The default configuration as text, in version 2 (as containerd 1.7 prints it), 3 or 4 (as 2.3 prints it).
///
/// `plugins` are the default tables of the plugins there are, by old or new URI; a plugin without a configuration
/// has no entry. Other versions are [`ConfigError::Version`].
pub fn render_default(version: i64, plugins: &PluginTables) -> Result<String, ConfigError> {
    let mut config = Config::default();
    if version > 2 {
        let minute = GoDuration::from_nanos(60_000_000_000);
        config
            .timeouts
            .insert("io.containerd.timeout.cri.defercleanup".into(), minute);
    }
    if version > 3 {
        config.imports = vec![DEFAULT_IMPORTS.into()];
    }
    render(&config, version, plugins)
}

/// The effective configuration in version 2: `config` over the defaults of its plugins.
///
/// Settings for plugins that are not in `plugins` are printed as they were written.
pub fn dump(config: &Config, plugins: &PluginTables) -> Result<String, ConfigError> {
    render(config, 2, plugins)
}

/// One file's text in the newest version, with what it sets and nothing else. Imports stay imports.
///
/// Comments are lost. Settings that no longer exist are named in a comment at the top.
pub fn migrate(text: &str, filename: &str) -> Result<String, ConfigError> {
    let mut file = crate::load::parse(text, filename, &mut Vec::new())?;
    let from = crate::load::file_version(&file, filename.as_ref())?.unwrap_or(1);
    version::lift(&mut file, from);
    let mut dropped = Vec::new();
    if let Some(Value::Table(plugins)) = file.get_mut("plugins")
        && from < LATEST_VERSION
    {
        version::move_sched_core(plugins);
        dropped = version::drop_retired_cri_keys(plugins);
    }
    if from < 2 {
        for list in ["disabled_plugins", "required_plugins"] {
            let Some(Value::Array(names)) = file.get_mut(list) else {
                continue;
            };
            for name in names {
                if let Value::String(name) = name {
                    *name = version::uri_of_version_1(name);
                }
            }
        }
    }
    file.insert("version".into(), Value::Integer(LATEST_VERSION));
    let mut text = String::new();
    for key in dropped {
        text += "# ";
        text += &key;
        text += " has no meaning any more and was dropped\n";
    }
    Ok(text + &writer::write(&file, Style::Declared))
}

fn render(config: &Config, version: i64, plugins: &PluginTables) -> Result<String, ConfigError> {
    let unusable = |error: toml::ser::Error| ConfigError::Unusable(format!("configuration cannot be printed: {error}"));
    let mut table = Table::try_from(config).map_err(unusable)?;
    let mut tables = effective_plugins(config, plugins);
    table.insert("version".into(), Value::Integer(version));
    // Settings that this version's containerd does not have are printed only when they say something.
    drop_if_zero(&mut table, &["dynamic_plugins"]);
    let style = match version {
        2 => {
            for (_, new) in version::RENAMED {
                if let Some(value) = tables.remove(new) {
                    tables.insert(version::version_2_uri(new).into(), value);
                }
            }
            version::join_cri(&mut tables);
            Style::Sorted
        }
        3 | 4 => {
            version::split_cri_defaults(&mut tables);
            version::move_sched_core(&mut tables);
            drop_if_zero(&mut table, &["proxy_plugins"]);
            Style::Declared
        }
        other => {
            return Err(ConfigError::Version {
                file: "output".into(),
                found: other.to_string(),
            });
        }
    };
    if version < 4 {
        for (section, key) in [("debug", "log_trace_id"), ("grpc", "tcp_tls_common_name")] {
            if let Some(Value::Table(section)) = table.get_mut(section) {
                drop_if_zero(section, &[key]);
            }
        }
        if let Some(Value::Table(grpc)) = table.get_mut("grpc") {
            grpc.remove("tcp_max_recv_message_size");
            grpc.remove("tcp_max_send_message_size");
        }
    } else {
        drop_if_zero(&mut table, &["plugin_dir"]);
        let ttrpc = Table::try_from(config.ttrpc_listener()).map_err(unusable)?;
        table.insert("ttrpc".into(), Value::Table(ttrpc));
        version::lower_whole_listeners(&mut table, &mut tables);
    }
    table.insert("plugins".into(), Value::Table(tables));
    Ok(writer::write(&table, style))
}

/// Each plugin's defaults with what the file sets over them, and what it sets for others, by newest URI.
fn effective_plugins(config: &Config, plugins: &PluginTables) -> Table {
    let mut tables = Table::new();
    for (uri, set) in &config.plugins {
        tables.insert(uri.clone(), Value::Table(set.clone()));
    }
    for (uri, defaults) in plugins {
        let effective = config
            .plugin(uri)
            .map_or_else(|| defaults.clone(), |set| overlay(defaults, set));
        tables.insert(version::canonical_uri(uri).into(), Value::Table(effective));
    }
    tables
}

fn drop_if_zero(table: &mut Table, keys: &[&str]) {
    for key in keys {
        if table.get(*key).is_some_and(crate::merge::is_zero) {
            table.remove(*key);
        }
    }
}

#[cfg(test)]
mod tests;
