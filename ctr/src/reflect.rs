//! Protobuf messages as JSON in the form that Go's encoder gives containerd's generated structures: the fields' own
//! names and order, numbers as numbers, bytes in base64, and nothing that is zero or empty.

use crate::container::info::base64;
use containerd_shim_protos::protobuf::MessageDyn;
use containerd_shim_protos::protobuf::reflect::{ReflectFieldRef, ReflectValueRef};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::fmt::Formatter;

/// JSON whose members keep their order, where it matters to who reads it.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// A message or map.
    Object(Vec<(String, Json)>),
    /// A repeated field.
    List(Vec<Json>),
    /// Anything else.
    Leaf(Value),
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Object(members) => serializer.collect_map(members.iter().map(|(name, value)| (name, value))),
            Self::List(items) => serializer.collect_seq(items),
            Self::Leaf(value) => value.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Leaf(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(member) = members.next_entry()? {
            object.push(member);
        }
        Ok(Json::Object(object))
    }
}

/// A message as JSON.
pub fn json(message: &dyn MessageDyn) -> Json {
    let mut members = Vec::new();
    for field in message.descriptor_dyn().fields() {
        let value = match field.get_reflect(message) {
            ReflectFieldRef::Optional(value) => value.value().filter(is_set).map(|value| value_json(&value)),
            ReflectFieldRef::Repeated(values) if !values.is_empty() => {
                Some(Json::List(values.into_iter().map(|value| value_json(&value)).collect()))
            }
            ReflectFieldRef::Map(map) if !map.is_empty() => {
                let entries = map
                    .into_iter()
                    .map(|(key, value)| (key.to_string(), value_json(&value)));
                let mut entries: Vec<_> = entries.collect();
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                Some(Json::Object(entries))
            }
            ReflectFieldRef::Repeated(_) | ReflectFieldRef::Map(_) => None,
        };
        members.extend(value.map(|value| (field.name().to_owned(), value)));
    }
    Json::Object(members)
}

fn is_set(value: &ReflectValueRef) -> bool {
    match value {
        ReflectValueRef::Message(_) => true,
        ReflectValueRef::Bytes(bytes) => !bytes.is_empty(),
        ReflectValueRef::String(text) => !text.is_empty(),
        ReflectValueRef::Bool(set) => *set,
        ReflectValueRef::U32(n) => *n != 0,
        ReflectValueRef::U64(n) => *n != 0,
        ReflectValueRef::I32(n) | ReflectValueRef::Enum(_, n) => *n != 0,
        ReflectValueRef::I64(n) => *n != 0,
        ReflectValueRef::F32(n) => *n != 0.0,
        ReflectValueRef::F64(n) => *n != 0.0,
    }
}

fn value_json(value: &ReflectValueRef) -> Json {
    Json::Leaf(match value {
        ReflectValueRef::U32(n) => Value::from(*n),
        ReflectValueRef::U64(n) => Value::from(*n),
        ReflectValueRef::I32(n) | ReflectValueRef::Enum(_, n) => Value::from(*n),
        ReflectValueRef::I64(n) => Value::from(*n),
        ReflectValueRef::F32(n) => Value::from(*n),
        ReflectValueRef::F64(n) => Value::from(*n),
        ReflectValueRef::Bool(b) => Value::from(*b),
        ReflectValueRef::String(s) => Value::from(*s),
        ReflectValueRef::Bytes(bytes) => Value::from(base64(bytes)),
        ReflectValueRef::Message(message) => return json(&**message),
    })
}
