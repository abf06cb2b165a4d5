//! YAML as a tree whose every node knows its place. Reads no file and knows no policy; bounded by the parser's budget.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Location, Spanned};

use super::problem::{Findings, Place};

/// Largest file, in bytes.
pub(super) const FILE_MAX: usize = 1 << 20;
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
    /// No field takes one.
    Float,
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
            Self::Integer(_) | Self::Float => "a number",
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
        max_recorded_anchor_bytes: FILE_MAX,
        max_total_scalar_bytes: 2 * FILE_MAX,
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
    if let serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } = error {
        return format!(
            "the key {} stands twice; keep one",
            key.chars().take(80).collect::<String>()
        );
    }
    if matches!(error, serde_saphyr::Error::MergeKeyNotAllowed { .. }) {
        return "merge keys (<<) are not supported; write the fields out".to_owned();
    }
    let text = error.render();
    let text = text.lines().next().unwrap_or_default();
    let text = text
        .rsplit_once(" at line ")
        .map_or(text, |(cause, _)| cause);
    text.chars().take(300).collect()
}

fn place(location: Location) -> Place {
    Place {
        line: location.line(),
        column: location.column(),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            place: place(spanned.defined),
            value: spanned.value,
        })
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
        i64::try_from(value)
            .map(Value::Integer)
            .map_err(|_| E::custom("a number this large has no meaning here"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Float)
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

    fn refusal(text: &str) -> String {
        let mut findings = Findings::default();
        assert!(
            parse(text, &mut findings).is_empty(),
            "{text:?} was accepted"
        );
        let (place, _, cause, _) = findings.0.remove(0);
        format!("{}:{}: {cause}", place.line, place.column)
    }

    #[test]
    fn every_document_keeps_its_place_in_the_file() {
        let mut findings = Findings::default();
        let nodes = parse("a: 1\n---\n# empty\n---\nb:\n  - c: text\n", &mut findings);
        assert_eq!(nodes.len(), 2);
        let Value::Map(entries) = &nodes[1].value else {
            panic!("{nodes:?}")
        };
        let Value::List(items) = &entries[0].1.value else {
            panic!("{entries:?}")
        };
        let Value::Map(inner) = &items[0].value else {
            panic!("{items:?}")
        };
        assert_eq!(inner[0].1.place, Place { line: 6, column: 8 });
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        for (text, wanted) in [
            (
                "a: 1\na: 2",
                "2:1: is not usable YAML: the key a stands twice; keep one",
            ),
            ("a: [", "1:4: is not usable YAML: unclosed bracket '['"),
            (
                "b: &x {c: 1}\na: {<<: *x}",
                "2:5: is not usable YAML: merge keys (<<) are not supported; write the fields out",
            ),
            (
                "a: !env HOME",
                "1:9: is not usable YAML: unsupported tag `!env`",
            ),
        ] {
            assert_eq!(refusal(text), wanted);
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_unfolds() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        refusal(&bomb);
        refusal(&"[".repeat(1000));
        refusal(&"---\na: 1\n".repeat(DOCUMENTS_MAX + 1));
    }
}
