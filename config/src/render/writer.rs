//! A table as text, byte for byte as Go's two TOML libraries lay it out.

use std::fmt::Write;

use toml::{Table, Value};

use crate::check::key_order;

/// Which library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// containerd 1.7's: keys sorted, `"`, an empty line before every table.
    Sorted,
    /// containerd 2's: keys in the order of their declaration, `'`, an empty line between neighbours.
    Declared,
}

/// Order of declaration outside plugin tables: path (`*` any name), keys.
const DECLARED: [(&[&str], &[&str]); 6] = [
    (
        &[],
        &[
            "version",
            "root",
            "state",
            "temp",
            "plugin_dir",
            "disabled_plugins",
            "required_plugins",
            "oom_score",
            "imports",
            "grpc",
            "ttrpc",
            "debug",
            "metrics",
            "plugins",
            "cgroup",
            "proxy_plugins",
            "dynamic_plugins",
            "timeouts",
            "stream_processors",
        ],
    ),
    (
        &["grpc"],
        &[
            "address",
            "tcp_address",
            "tcp_tls_ca",
            "tcp_tls_cert",
            "tcp_tls_key",
            "uid",
            "gid",
            "max_recv_message_size",
            "max_send_message_size",
            "tcp_tls_common_name",
        ],
    ),
    (&["ttrpc"], &["address", "uid", "gid"]),
    (
        &["debug"],
        &["address", "uid", "gid", "level", "format", "log_trace_id"],
    ),
    (
        &["proxy_plugins", "*"],
        &["type", "address", "platform", "exports", "capabilities"],
    ),
    (
        &["stream_processors", "*"],
        &["accepts", "returns", "path", "args", "env"],
    ),
];

/// The whole text.
pub(super) fn write(table: &Table, style: Style) -> String {
    let mut writer = Writer {
        out: String::new(),
        style,
        path: Vec::new(),
    };
    writer.body(table);
    writer.out
}

struct Writer {
    out: String,
    style: Style,
    path: Vec<String>,
}

impl Writer {
    fn body(&mut self, table: &Table) {
        let mut keys: Vec<&String> = table.keys().collect();
        keys.sort();
        if self.style == Style::Declared {
            let order = self.declared();
            keys.sort_by_key(|key| order.iter().position(|name| name == *key).unwrap_or(order.len()));
        }
        let (sections, values): (Vec<_>, Vec<_>) = keys
            .into_iter()
            .map(|key| (key, &table[key]))
            .partition(|(_, value)| is_section(value));
        for (key, value) in &values {
            let (indent, key, value) = (self.indent(0), self.key(key), self.value(value));
            let _ = writeln!(self.out, "{indent}{key} = {value}");
        }
        for (i, (key, section)) in sections.into_iter().enumerate() {
            let set_off = self.style == Style::Sorted || i > 0 || !values.is_empty();
            self.path.push(key.clone());
            match section {
                Value::Array(items) => {
                    for (i, item) in items.iter().enumerate() {
                        self.section(item, ("[[", "]]"), set_off || i > 0);
                    }
                }
                table => self.section(table, ("[", "]"), set_off),
            }
            self.path.pop();
        }
    }

    fn section(&mut self, table: &Value, (open, close): (&str, &str), set_off: bool) {
        if set_off {
            self.out.push('\n');
        }
        let name = self
            .path
            .iter()
            .map(|name| self.key(name))
            .collect::<Vec<_>>()
            .join(".");
        let _ = writeln!(self.out, "{}{open}{name}{close}", self.indent(1));
        if let Value::Table(table) = table {
            self.body(table);
        }
    }

    fn indent(&self, less: usize) -> String {
        "  ".repeat(self.path.len().saturating_sub(less))
    }

    fn declared(&self) -> Vec<String> {
        if let [plugins, uri, below @ ..] = self.path.as_slice()
            && plugins == "plugins"
        {
            return key_order(uri, below);
        }
        let here = |path: &[&str]| {
            path.len() == self.path.len()
                && path
                    .iter()
                    .zip(&self.path)
                    .all(|(name, here)| *name == "*" || name == here)
        };
        DECLARED
            .iter()
            .find(|(path, _)| here(path))
            .map(|(_, keys)| keys.iter().map(|key| (*key).to_owned()).collect())
            .unwrap_or_default()
    }

    fn key(&self, key: &str) -> String {
        let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if bare { key.to_owned() } else { self.string(key) }
    }

    fn string(&self, text: &str) -> String {
        let plain = !text.chars().any(|c| c == '\'' || c.is_control());
        if self.style == Style::Declared && plain {
            return format!("'{text}'");
        }
        let mut quoted = String::from("\"");
        for c in text.chars() {
            match c {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\t' => quoted.push_str("\\t"),
                '\r' => quoted.push_str("\\r"),
                c if c.is_control() => {
                    let _ = write!(quoted, "\\u{:04X}", c as u32);
                }
                c => quoted.push(c),
            }
        }
        quoted.push('"');
        quoted
    }

    fn value(&self, value: &Value) -> String {
        match value {
            Value::String(text) => self.string(text),
            Value::Array(items) => {
                format!(
                    "[{}]",
                    items.iter().map(|item| self.value(item)).collect::<Vec<_>>().join(", ")
                )
            }
            Value::Table(table) => {
                let entries: Vec<_> = table
                    .iter()
                    .map(|(key, value)| format!("{} = {}", self.key(key), self.value(value)))
                    .collect();
                format!("{{{}}}", entries.join(", "))
            }
            other => other.to_string(),
        }
    }
}

/// Printed under a header of its own: a table, or a list of tables only.
fn is_section(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(items) => !items.is_empty() && items.iter().all(Value::is_table),
        _ => false,
    }
}
