//! Going through a parsed file beside its shape.

use toml_edit::{Item, Table, TableLike, Value};

use super::shape::{self, Keys, Shape, Text};
use super::{ProblemKind, nearest};
use crate::version::{LATEST_VERSION, uri_of_version_1};
use crate::{GoDuration, PluginSelector, PluginTables};

/// Problems at byte offsets, as they are found.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) found: Vec<(usize, ProblemKind, String)>,
}

impl Walk {
    /// A whole file. Without `known`, plugin tables are not looked into.
    pub(super) fn file(&mut self, file: &Table, known: Option<&PluginTables>) {
        let version = self.version(file);
        let top = shape::top_level();
        for (name, item) in file {
            match (name, known, item.as_table_like()) {
                ("version", _, _) => {}
                ("plugins", Some(known), Some(tables)) => {
                    self.plugins(tables, version, &shape::plugins(version, known));
                }
                _ => self.entry(file, name, item, top, &mut Vec::new()),
            }
        }
        let text = |key: &str| file.get(key).and_then(Item::as_str);
        if let (Some(root), Some(state)) = (text("root"), text("state"))
            && root == state
            && !root.is_empty()
        {
            let message = format!("root and state must be different directories, both are {root:?}");
            self.report(value_at(file, "state"), ProblemKind::BadValue, message);
        }
    }

    /// The version of the file; an unknown one is reported and the newest assumed.
    fn version(&mut self, file: &Table) -> i64 {
        let Some(item) = file.get("version") else { return 1 };
        match item.as_integer() {
            Some(version @ 1..=LATEST_VERSION) => return version,
            Some(version) => {
                let message = format!("configuration version {version} is not known; use 1 to {LATEST_VERSION}");
                self.report(value_at(file, "version"), ProblemKind::BadValue, message);
            }
            None => self.wrong_type(value_at(file, "version"), "version", &Shape::Integer, item),
        }
        LATEST_VERSION
    }

    fn plugins(&mut self, tables: &dyn TableLike, version: i64, known: &Keys) {
        for (name, item) in tables.iter() {
            let uri = if version == 1 {
                uri_of_version_1(name)
            } else {
                name.to_owned()
            };
            let Some(shape) = known.named.get(&uri) else {
                let mut message = format!("unknown plugin {name:?}");
                if let Some(near) = nearest(&uri, known.named.keys().map(String::as_str)) {
                    message.push_str(&did_you_mean(near));
                } else if version > 1 && !name.contains('.') {
                    let full = uri_of_version_1(name);
                    message = format!("{message}; version {version} names plugins in full, as {full:?}");
                }
                self.report(key_at(tables, name), ProblemKind::UnknownPlugin, message);
                continue;
            };
            self.item(
                value_at(tables, name),
                item,
                shape,
                &mut vec!["plugins".into(), name.to_owned()],
            );
        }
    }

    fn table(&mut self, table: &dyn TableLike, keys: &Keys, path: &mut Vec<String>) {
        for (name, item) in table.iter() {
            self.entry(table, name, item, keys, path);
        }
    }

    fn entry(&mut self, table: &dyn TableLike, name: &str, item: &Item, keys: &Keys, path: &mut Vec<String>) {
        let Some(shape) = keys.named.get(name).or(keys.other.as_deref()) else {
            let place = if path.is_empty() {
                "at the top level".to_owned()
            } else {
                format!("in [{}]", dotted(path))
            };
            let mut message = format!("unknown key {name:?} {place}");
            if let Some(near) = nearest(name, keys.named.keys().map(String::as_str)) {
                message.push_str(&did_you_mean(near));
            }
            self.report(key_at(table, name), ProblemKind::UnknownKey, message);
            return;
        };
        path.push(name.to_owned());
        self.item(value_at(table, name), item, shape, path);
        path.pop();
    }

    fn item(&mut self, at: usize, item: &Item, shape: &Shape, path: &mut Vec<String>) {
        match (shape, item) {
            (Shape::Table(keys), item) if item.is_table_like() => {
                if let Some(table) = item.as_table_like() {
                    self.table(table, keys, path);
                }
            }
            (Shape::List(shape), Item::ArrayOfTables(tables)) => match &**shape {
                Shape::Table(keys) => tables.iter().for_each(|table| self.table(table, keys, path)),
                Shape::Any => {}
                _ => self.wrong_type(at, &dotted(path), &Shape::List(shape.clone()), item),
            },
            (shape, Item::Value(value)) => self.value(at, value, shape, path),
            (Shape::Any, _) => {}
            _ => self.wrong_type(at, &dotted(path), shape, item),
        }
    }

    fn value(&mut self, at: usize, value: &Value, shape: &Shape, path: &mut Vec<String>) {
        match (shape, value) {
            (Shape::Any, _)
            | (Shape::Integer, Value::Integer(_))
            | (Shape::Float, Value::Integer(_) | Value::Float(_))
            | (Shape::Boolean, Value::Boolean(_)) => {}
            (Shape::Text(meaning), Value::String(text)) => {
                if let Some(wrong) = wrong_text(*meaning, text.value()) {
                    self.report(at, ProblemKind::BadValue, format!("{}: {wrong}", dotted(path)));
                }
            }
            (Shape::List(item), Value::Array(items)) => {
                for value in items {
                    self.value(value.span().map_or(at, |span| span.start), value, item, path);
                }
            }
            (Shape::Table(keys), Value::InlineTable(table)) => self.table(table, keys, path),
            _ => self.wrong_type(at, &dotted(path), shape, &Item::Value(value.clone())),
        }
    }

    fn wrong_type(&mut self, at: usize, key: &str, shape: &Shape, item: &Item) {
        let message = format!("{key} must be {}, not {}", shape.describe(), article(item.type_name()));
        self.report(at, ProblemKind::WrongType, message);
    }

    fn report(&mut self, at: usize, kind: ProblemKind, message: String) {
        self.found.push((at, kind, message));
    }
}

/// What is wrong with this string, if anything.
fn wrong_text(meaning: Text, text: &str) -> Option<String> {
    match meaning {
        Text::Duration => text.parse::<GoDuration>().err().map(|error| error.to_string()),
        Text::Absolute if !text.is_empty() && !text.starts_with('/') => {
            Some(format!("must be an absolute path, not {text:?}"))
        }
        Text::Plugin if !PluginSelector::from(text).is_well_formed() => Some(format!(
            "{text:?} names no plugin; write a URI as \"io.containerd.snapshotter.v1.overlayfs\""
        )),
        Text::Sha256 if !text.is_empty() && !is_sha256(text) => {
            Some(format!("must be 64 hexadecimal digits, not {text:?}"))
        }
        Text::OneOf(values) if !text.is_empty() && !values.contains(&text) => {
            let near = nearest(text, values.iter().copied())
                .map(did_you_mean)
                .unwrap_or_default();
            Some(format!("must be one of {}, not {text:?}{near}", values.join(", ")))
        }
        _ => None,
    }
}

/// Where a key stands. A table that is only implied by its children has no place of its own: its first child's.
fn key_at(table: &dyn TableLike, name: &str) -> usize {
    table
        .get_key_value(name)
        .and_then(|(key, _)| key.span())
        .map_or_else(|| value_at(table, name), |span| span.start)
}

fn value_at(table: &dyn TableLike, name: &str) -> usize {
    let Some((key, item)) = table.get_key_value(name) else {
        return 0;
    };
    item.span().or_else(|| key.span()).map_or(0, |span| span.start)
}

fn did_you_mean(near: &str) -> String {
    format!("; did you mean {near:?}?")
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A key path as TOML writes it.
fn dotted(path: &[String]) -> String {
    let bare = |name: &String| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    path.iter()
        .map(|name| if bare(name) { name.clone() } else { format!("{name:?}") })
        .collect::<Vec<_>>()
        .join(".")
}

fn article(type_name: &str) -> String {
    let article = if type_name.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {type_name}")
}
