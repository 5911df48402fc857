//! Laying one table over another, by containerd's rules.

use toml::{Table, Value};

/// Lists of the top level that grow from file to file instead of being replaced.
const APPENDED: [&str; 3] = ["disabled_plugins", "required_plugins", "imports"];
/// Maps of the top level whose entries are replaced whole.
const REPLACED: [&str; 4] = ["proxy_plugins", "dynamic_plugins", "stream_processors", "timeouts"];

/// `defaults` with `set` over it: tables merge deeply, everything else (lists too) is replaced by what is set.
pub fn overlay(defaults: &Table, set: &Table) -> Table {
    let mut merged = defaults.clone();
    cover(&mut merged, set.clone());
    merged
}

/// [`overlay`], in place.
fn cover(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => cover(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Adds what `table` lacks, deeply; what it has stays.
pub(crate) fn fill(table: &mut Table, from: Table) {
    for (key, value) in from {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(table)), Value::Table(from)) => fill(table, from),
            (Some(_), _) => {}
            (None, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// Lays a later file (in its newest form) over what earlier files gave.
///
/// A zero value (`""`, `0`, `false`) of a typed setting is "unset" and does not cover an earlier one; in a plugin's
/// table it does. Lists of plugin names grow without repetition.
pub(crate) fn file_over(merged: &mut Table, file: Table) {
    for (key, value) in file {
        match (merged.get_mut(&key), value) {
            (_, value) if is_zero(&value) && !value.is_array() && !value.is_table() => {
                merged.entry(key).or_insert(value);
            }
            (Some(Value::Array(under)), Value::Array(over)) if APPENDED.contains(&key.as_str()) => {
                for item in over {
                    if !under.contains(&item) {
                        under.push(item);
                    }
                }
            }
            (Some(Value::Table(under)), Value::Table(over)) => match key.as_str() {
                "plugins" => cover(under, over),
                key if REPLACED.contains(&key) => under.extend(over),
                _ => file_over(under, over),
            },
            (_, value) => {
                merged.insert(key, value);
            }
        }
    }
}

/// Go's zero value: what containerd cannot tell from "not set". An empty table and an empty list are zero, too.
pub(crate) fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Integer(number) => *number == 0,
        Value::Float(number) => *number == 0.0,
        Value::Boolean(flag) => !flag,
        Value::Array(items) => items.is_empty(),
        Value::Table(table) => table.iter().all(|(_, value)| is_zero(value)),
        Value::Datetime(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(under: &str, over: &str, expected: &str) {
        let mut merged = table(under);
        file_over(&mut merged, table(over));
        assert_eq!(merged, table(expected));
    }

    #[test]
    fn later_scalars_win_but_zeros_do_not() {
        check(
            "root = '/a'\noom_score = 1",
            "root = '/b'",
            "root = '/b'\noom_score = 1",
        );
        check(
            "root = '/a'\noom_score = 1",
            "root = ''\noom_score = 0",
            "root = '/a'\noom_score = 1",
        );
        check("oom_score = 0", "oom_score = 1", "oom_score = 1");
        check(
            "[debug]\nlevel = 'info'",
            "[debug]\nformat = 'json'\nlevel = ''",
            "[debug]\nlevel = 'info'\nformat = 'json'",
        );
    }

    #[test]
    fn plugin_lists_grow_without_repetition() {
        check(
            "disabled_plugins = ['a']",
            "disabled_plugins = ['b', 'a']",
            "disabled_plugins = ['a', 'b']",
        );
        check(
            "required_plugins = ['a']",
            "required_plugins = []",
            "required_plugins = ['a']",
        );
        check("", "required_plugins = ['a']", "required_plugins = ['a']");
    }

    #[test]
    fn entries_of_typed_maps_are_replaced_whole() {
        check(
            "[proxy_plugins.x]\ntype = 'snapshot'\naddress = '/x'\n[proxy_plugins.y]\ntype = 'diff'",
            "[proxy_plugins.x]\naddress = '/z'",
            "[proxy_plugins.x]\naddress = '/z'\n[proxy_plugins.y]\ntype = 'diff'",
        );
        check(
            "timeouts = { a = '1s' }",
            "timeouts = { b = '2s' }",
            "timeouts = { a = '1s', b = '2s' }",
        );
    }

    #[test]
    fn plugin_tables_merge_deeply_and_zeros_count() {
        check(
            "[plugins.p]\na = true\nl = [1, 2]\nt.x = 1\nt.y = 2",
            "[plugins.p]\na = false\nl = [3]\nt.y = 0\n[plugins.q]\nz = 1",
            "[plugins.p]\na = false\nl = [3]\nt.x = 1\nt.y = 0\n[plugins.q]\nz = 1",
        );
    }

    #[test]
    fn overlay_keeps_what_is_not_set() {
        let merged = overlay(&table("a = 1\nt.x = 1\nt.y = 2"), &table("t.x = 5\nb = []"));
        assert_eq!(merged, table("a = 1\nb = []\nt.x = 5\nt.y = 2"));
    }
}
