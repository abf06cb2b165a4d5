//! JSON objects read strictly: a member written twice is noticed, in nested objects too. It never decides what a member means.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// One JSON object.
pub(crate) struct Object {
    /// Its members; of a repeated one the first.
    pub(crate) members: Map<String, Value>,
    /// Whether this object, or one inside it, has a member twice. Readers disagree on what such an object says.
    pub(crate) repeats: bool,
}

/// Reads an object that takes up all of `bytes`; `None` when they are anything else.
pub(crate) fn object(bytes: &[u8]) -> Option<Object> {
    let repeats = Cell::new(false);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { repeats: &repeats }
        .deserialize(&mut deserializer)
        .ok()?;
    deserializer.end().ok()?;
    match value {
        Value::Object(members) => Some(Object {
            members,
            repeats: repeats.get(),
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            None
        }
    }
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    repeats: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(self)?;
            if members.contains_key(&name) {
                self.repeats.set(true);
            } else {
                members.insert(name, value);
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_whole_object_is_read() {
        assert!(object(br#" {"a":1} "#).is_some());
        for other in [
            "",
            "1",
            "null",
            "[]",
            "\"a\"",
            "{",
            "{}x",
            "{}{}",
            r#"{"a":}"#,
            "{'a':1}",
            "\u{feff}{}",
        ] {
            assert!(object(other.as_bytes()).is_none(), "{other:?}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_none());
        assert!(object(format!("{}{}", "{\"a\":".repeat(500), "1").as_bytes()).is_none());
    }

    #[test]
    fn a_member_written_twice_is_noticed_at_any_depth() {
        for (text, repeats) in [
            (r#"{"a":1,"b":1}"#, false),
            (r#"{"a":1,"a":1}"#, true),
            (r#"{"a":1,"\u0061":2}"#, true),
            (r#"{"a":[{"b":1,"b":2}]}"#, true),
            (r#"{"a":{"a":{"a":1}}}"#, false),
        ] {
            assert_eq!(object(text.as_bytes()).unwrap().repeats, repeats, "{text}");
        }
        assert_eq!(object(br#"{"a":1,"a":2}"#).unwrap().members["a"], 1);
    }

    proptest! {
        #[test]
        fn what_has_no_repeats_reads_as_usual(text in r#"\{("[a-c]":(-?[0-9]{1,25}(\.[0-9])?|"x"|null|true|\[1\]|\{\}),?){0,3}\}"#) {
            let usual = serde_json::from_str::<Map<String, Value>>(&text).ok();
            let ours = object(text.as_bytes());
            prop_assert_eq!(usual.is_some(), ours.is_some());
            if let (Some(usual), Some(ours)) = (usual, ours) && !ours.repeats {
                prop_assert_eq!(usual, ours.members);
            }
        }
    }
}
