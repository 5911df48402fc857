//! What may stand where: the shape of the file, from tables of keys and types, and from plugins' defaults.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use toml::{Table, Value};

use crate::version::{LATEST_VERSION, canonical_uri, version_2_uri};
use crate::{GoDuration, PluginTables};

/// What a value must be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// Anything.
    Any,
    /// A string, of some meaning.
    Text(Text),
    Integer,
    Float,
    Boolean,
    List(Box<Shape>),
    Table(Keys),
}

/// What a string must mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Any,
    Duration,
    /// An absolute path, or empty.
    Absolute,
    /// A plugin: a URI or a short id.
    Plugin,
    /// 64 hexadecimal digits, or empty.
    Sha256,
    /// One of these, or empty.
    OneOf(&'static [&'static str]),
}

/// The keys of a table.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Keys {
    pub(super) named: BTreeMap<String, Shape>,
    /// What any other name holds; `None`: there are no others.
    pub(super) other: Option<Box<Shape>>,
}

static TOP_LEVEL: LazyLock<Keys> = LazyLock::new(|| keys_of(include_str!("../known/top-level.toml")));
static CONTAINERD_1_7: LazyLock<Keys> = LazyLock::new(|| keys_of(include_str!("../known/containerd-1.7.toml")));
static CONTAINERD_2_3: LazyLock<Keys> = LazyLock::new(|| keys_of(include_str!("../known/containerd-2.3.toml")));

/// The keys outside `[plugins]`.
pub(super) fn top_level() -> &'static Keys {
    &TOP_LEVEL
}

/// The keys of `[plugins]` in a file of this version: the tables both releases know and the caller's. Version 4 has
/// no keys that a plugin lost since, up to 3 those of either release count.
pub(super) fn plugins(version: i64, known: &PluginTables) -> Keys {
    let mut all = CONTAINERD_2_3.clone();
    for (uri, shape) in &CONTAINERD_1_7.named {
        match all.named.get_mut(uri) {
            Some(there) if version < LATEST_VERSION => there.extend(shape.clone()),
            Some(_) => {}
            None => {
                all.named.insert(uri.clone(), shape.clone());
            }
        }
    }
    for (uri, defaults) in known {
        for name in [uri.as_str(), canonical_uri(uri), version_2_uri(uri)] {
            all.named
                .entry(name.to_owned())
                .or_insert_with(|| Shape::Table(Keys::default()))
                .extend(of_defaults(defaults));
        }
    }
    all
}

impl Shape {
    /// Both this and another shape, key by key. Where they differ, the first one counts.
    fn extend(&mut self, more: Self) {
        if let (Self::Table(keys), Self::Table(more)) = (self, more) {
            for (key, shape) in more.named {
                match keys.named.get_mut(&key) {
                    Some(there) => there.extend(shape),
                    None => {
                        keys.named.insert(key, shape);
                    }
                }
            }
            match (&mut keys.other, more.other) {
                (Some(there), Some(more)) => there.extend(*more),
                // An empty default of the caller's must not open a table whose keys are known.
                (None, Some(more)) if keys.named.is_empty() => keys.other = Some(more),
                _ => {}
            }
        }
    }

    /// In words, for a message.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Text(Text::Duration) => "a duration string",
            Self::Text(_) => "a string",
            Self::Integer => "an integer",
            Self::Float => "a number",
            Self::Boolean => "true or false",
            Self::List(item) if matches!(**item, Self::Text(_)) => "a list of strings",
            Self::List(item) if matches!(**item, Self::Table(_)) => "a list of tables",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// The shape of a plugin's defaults.
fn of_defaults(defaults: &Table) -> Shape {
    if defaults.is_empty() {
        return Shape::Table(Keys {
            named: BTreeMap::new(),
            other: Some(Box::new(Shape::Any)),
        });
    }
    let named = defaults
        .iter()
        .map(|(key, value)| (key.clone(), of_default(value)))
        .collect();
    Shape::Table(Keys { named, other: None })
}

fn of_default(value: &Value) -> Shape {
    match value {
        // A bare "0" is Go's for no time, but also a port; only a unit makes it a duration.
        Value::String(text) if text != "0" && text.parse::<GoDuration>().is_ok() => Shape::Text(Text::Duration),
        Value::String(_) => Shape::Text(Text::Any),
        Value::Integer(_) => Shape::Integer,
        Value::Float(_) => Shape::Float,
        Value::Boolean(_) => Shape::Boolean,
        Value::Datetime(_) => Shape::Any,
        Value::Array(items) => {
            let mut items = items.iter().map(of_default);
            let mut item = items.next().unwrap_or(Shape::Any);
            items.for_each(|more| item.extend(more));
            Shape::List(Box::new(item))
        }
        Value::Table(table) => of_defaults(table),
    }
}

/// Reads a table of keys and types. The tables are ours and their reading is tested: what cannot be read is `Any`.
fn keys_of(text: &str) -> Keys {
    text.parse::<Table>().map(|table| keys(&table)).unwrap_or_default()
}

fn keys(table: &Table) -> Keys {
    let mut keys = Keys::default();
    for (key, value) in table {
        let shape = of_type(value);
        if key == "*" {
            keys.other = Some(Box::new(shape));
        } else {
            keys.named.insert(key.clone(), shape);
        }
    }
    keys
}

fn of_type(value: &Value) -> Shape {
    let text = |meaning| Shape::Text(meaning);
    let list = |item| Shape::List(Box::new(item));
    match value {
        Value::Table(table) => Shape::Table(keys(table)),
        Value::Array(items) => list(items.first().map_or(Shape::Any, of_type)),
        Value::String(name) => match name.as_str() {
            "string" => text(Text::Any),
            "duration" => text(Text::Duration),
            "absolute" => text(Text::Absolute),
            "sha256" => text(Text::Sha256),
            "isolation" => text(Text::OneOf(&["none", "process"])),
            "level" => text(Text::OneOf(&[
                "trace", "debug", "info", "warn", "warning", "error", "fatal", "panic",
            ])),
            "format" => text(Text::OneOf(&["text", "json"])),
            "int" => Shape::Integer,
            "float" => Shape::Float,
            "bool" => Shape::Boolean,
            "strings" => list(text(Text::Any)),
            "plugins" => list(text(Text::Plugin)),
            "map" => Shape::Table(Keys {
                named: BTreeMap::new(),
                other: Some(Box::new(Shape::Any)),
            }),
            _ => Shape::Any,
        },
        _ => Shape::Any,
    }
}

/// The order in which containerd 2.3 prints the keys of a plugin's table, at `path` below it (any name for `*`).
/// Empty where it does not know the table.
pub(crate) fn key_order(uri: &str, path: &[String]) -> Vec<String> {
    static ORDERED: LazyLock<toml_edit::DocumentMut> =
        LazyLock::new(|| include_str!("../known/containerd-2.3.toml").parse().unwrap_or_default());
    let mut at = ORDERED.as_table().get(uri).and_then(toml_edit::Item::as_table_like);
    for name in path {
        at = at.and_then(|table| {
            let item = table.get(name).or_else(|| table.get("*"))?;
            item.as_table_like().or_else(|| {
                item.as_array_of_tables()?
                    .get(0)
                    .map(|t| t as &dyn toml_edit::TableLike)
            })
        });
    }
    at.map(|table| table.iter().map(|(key, _)| key.to_owned()).collect())
        .unwrap_or_default()
}

/// Takes out of a plugin's table every key that containerd 1.7's table of that plugin does not have.
pub(crate) fn take_newer_than_1_7(uri: &str, table: &mut Table) -> Table {
    match CONTAINERD_1_7.named.get(uri) {
        Some(Shape::Table(keys)) => take_unknown(keys, table),
        _ => Table::new(),
    }
}

fn take_unknown(keys: &Keys, table: &mut Table) -> Table {
    let mut taken = Table::new();
    for (key, mut value) in std::mem::take(table) {
        match (keys.named.get(&key).or(keys.other.as_deref()), &mut value) {
            (None, _) => {
                taken.insert(key, value);
                continue;
            }
            (Some(Shape::Table(keys)), Value::Table(below)) => {
                let newer = take_unknown(keys, below);
                if !newer.is_empty() {
                    taken.insert(key.clone(), Value::Table(newer));
                }
            }
            _ => {}
        }
        table.insert(key, value);
    }
    taken
}
