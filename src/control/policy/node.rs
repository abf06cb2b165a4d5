//! YAML as a tree whose every node knows its place. Reads no file and knows no policy; bounded by the parser's budget.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Location, Spanned};

use super::problem::{Findings, Place};

/// Most documents in one file.
pub(super) const DOCUMENTS_MAX: usize = 1000;
const DEPTH_MAX: usize = 16;
const NODES_MAX: usize = 100_000;
const ALIASED_MAX: usize = 10_000;

/// One node. An alias stands at its anchor's definition: that is the text to change.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// As the parser understood it; only for messages.
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the file's order, without repeated keys.
    Map(Vec<(Node, Node)>),
}

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// The documents of one file; empty ones are skipped. A syntax error refuses the file.
pub(super) fn parse(text: &str, findings: &mut Findings) -> Vec<Node> {
    let budget = serde_saphyr::budget! {
        max_depth: DEPTH_MAX,
        max_nodes: NODES_MAX,
        max_events: 3 * NODES_MAX,
        max_documents: DOCUMENTS_MAX,
        max_recorded_anchor_bytes: super::load::FILE_MAX,
        max_total_scalar_bytes: 2 * super::load::FILE_MAX,
    };
    let mut options = serde_saphyr::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    options.alias_limits.max_total_replayed_events = ALIASED_MAX;
    options.alias_limits.max_replay_stack_depth = 8;
    match serde_saphyr::from_multiple_with_options::<Node>(text, options) {
        Ok(nodes) => nodes,
        Err(error) => {
            let place = error.location().map_or(Place::FILE, place);
            findings.error(place, "", format!("is not usable YAML: {}", cause(&error)));
            Vec::new()
        }
    }
}

/// The parser's words without its place, which stands in front already.
fn cause(error: &serde_saphyr::Error) -> String {
    let text = error.render();
    let text = text.lines().next().unwrap_or_default();
    let text = text.rsplit_once(" at line ").map_or(text, |(cause, _)| cause);
    text.chars().take(300).collect()
}

fn place(location: Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { place: place(spanned.defined), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        i64::try_from(value).map(Value::Integer).map_err(|_| E::custom("a number this large has no meaning here"))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explore() {
        for text in [
            "a: 1\n---\nb:\n  - x: [1.5, 'y', ~]\n---\n# nothing\n---\nc: yes",
            "a: 1\na: 2",
            "a: [",
            "a: &x [1]\nb: *x",
            "a: !foo 1",
            "<<: {a: 1}",
            "- \u{0}",
            "a: 99999999999999999999",
            "a: !!binary aGk=",
            "a: 1\n  b: 2",
            "a: 2020-01-01T00:00:00Z\nb: 007\nc: 0x10\nd: 1e3\ne: 12m\nf: 1_000",
        ] {
            let mut findings = Findings::default();
            let nodes = parse(text, &mut findings);
            eprintln!("{text:?}\n   {nodes:?}\n   {findings:?}");
        }
    }
}
