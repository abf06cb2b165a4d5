//! An encoded message as texts, field by field, by the names of its descriptor: what an audit event compares before and
//! after. It reads what this process itself has written, and whatever it cannot read it leaves out.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

use super::grant::timestamp_from;
use crate::support::hex::Hex;

/// The store's own descriptors.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/store.bin"));
/// Messages within messages that are followed.
const DEPTH_MAX: usize = 16;

/// Field path -> value as text. A field that is not set is not there.
pub(crate) type Fields = BTreeMap<String, String>;

/// The fields of an encoded message such as `jitgate.store.v1.AccessRequest`.
pub(crate) fn fields(message: &str, bytes: &[u8]) -> Fields {
    let mut walk = Walk {
        schema: &SCHEMA,
        found: Fields::new(),
    };
    walk.message(&format!(".{message}"), bytes, "", DEPTH_MAX);
    walk.found
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::read(DESCRIPTORS));

#[derive(Debug, Default)]
struct Schema {
    messages: HashMap<String, HashMap<u64, Field>>,
    enums: HashMap<String, HashMap<i32, String>>,
}

#[derive(Debug)]
struct Field {
    name: String,
    repeated: bool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Text,
    Bytes,
    Number,
    Truth,
    Enum(String),
    Message(String),
    /// Never compared.
    Other,
}

impl Schema {
    fn read(descriptors: &[u8]) -> Self {
        let mut this = Self::default();
        for file in FileDescriptorSet::decode(descriptors)
            .unwrap_or_default()
            .file
        {
            let package = format!(".{}", file.package());
            for of in &file.enum_type {
                let values = of
                    .value
                    .iter()
                    .map(|value| (value.number(), value.name().to_owned()));
                this.enums
                    .insert(format!("{package}.{}", of.name()), values.collect());
            }
            for message in &file.message_type {
                this.add(&package, message);
            }
        }
        this
    }

    fn add(&mut self, within: &str, message: &DescriptorProto) {
        let name = format!("{within}.{}", message.name());
        let mut known = HashMap::new();
        for field in &message.field {
            let of = field.type_name().to_owned();
            let kind = match field.r#type() {
                Type::String => Kind::Text,
                Type::Bytes => Kind::Bytes,
                Type::Bool => Kind::Truth,
                Type::Int64 | Type::Uint64 | Type::Int32 | Type::Uint32 => Kind::Number,
                Type::Enum => Kind::Enum(of),
                Type::Message => Kind::Message(of),
                Type::Double
                | Type::Float
                | Type::Fixed64
                | Type::Fixed32
                | Type::Group
                | Type::Sfixed32
                | Type::Sfixed64
                | Type::Sint32
                | Type::Sint64 => Kind::Other,
            };
            let repeated = field.label() == Label::Repeated;
            let number = u64::try_from(field.number()).unwrap_or_default();
            known.insert(
                number,
                Field {
                    name: field.name().to_owned(),
                    repeated,
                    kind,
                },
            );
        }
        message
            .nested_type
            .iter()
            .for_each(|nested| self.add(&name, nested));
        self.messages.insert(name, known);
    }

    fn text(&self, kind: &Kind, value: Value<'_>) -> Option<String> {
        match (kind, value) {
            (Kind::Text, Value::Bytes(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            (Kind::Bytes, Value::Bytes(bytes)) => Some(Hex(bytes).to_string()),
            (Kind::Number, Value::Number(number)) => Some(number.cast_signed().to_string()),
            (Kind::Truth, Value::Number(number)) => Some((number != 0).to_string()),
            (Kind::Enum(of), Value::Number(number)) => {
                let named = i32::try_from(number)
                    .ok()
                    .and_then(|number| self.enums.get(of)?.get(&number));
                Some(named.map_or_else(|| number.to_string(), Clone::clone))
            }
            _ => None,
        }
    }
}

/// One message with those within it.
struct Walk<'s> {
    schema: &'s Schema,
    found: Fields,
}

impl Walk<'_> {
    fn message(&mut self, message: &str, mut bytes: &[u8], path: &str, depth: usize) {
        let (Some(known), Some(deeper)) = (self.schema.messages.get(message), depth.checked_sub(1))
        else {
            return;
        };
        let mut seen: HashMap<u64, usize> = HashMap::new();
        while let Some((number, value)) = next(&mut bytes) {
            let Some(field) = known.get(&number) else {
                continue;
            };
            let at = seen.entry(number).and_modify(|at| *at += 1).or_default();
            let name = if field.repeated {
                format!("{}[{at}]", field.name)
            } else {
                field.name.clone()
            };
            let path = if path.is_empty() {
                name
            } else {
                format!("{path}.{name}")
            };
            let text = match (&field.kind, value) {
                (Kind::Message(of), Value::Bytes(within)) => {
                    let text = well_known(of, within);
                    if text.is_none() {
                        self.message(of, within, &path, deeper);
                    }
                    text
                }
                (kind, value) => self.schema.text(kind, value),
            };
            if let Some(text) = text {
                self.found.insert(path, text);
            }
        }
    }
}

/// Times and spans are written as such.
fn well_known(of: &str, bytes: &[u8]) -> Option<String> {
    match of {
        ".google.protobuf.Timestamp" => {
            let time = prost_types::Timestamp::decode(bytes).ok()?;
            timestamp_from(&time, "").ok().map(|time| time.to_string())
        }
        ".google.protobuf.Duration" => {
            let span = prost_types::Duration::decode(bytes).ok()?;
            std::time::Duration::try_from(span)
                .ok()
                .map(|span| humantime::format_duration(span).to_string())
        }
        _ => None,
    }
}

enum Value<'b> {
    Number(u64),
    Bytes(&'b [u8]),
    /// Fixed width, which none of ours has.
    Skipped,
}

/// The next field of an encoded message.
fn next<'b>(bytes: &mut &'b [u8]) -> Option<(u64, Value<'b>)> {
    let key = varint(bytes)?;
    let value = match key & 7 {
        0 => Value::Number(varint(bytes)?),
        1 => bytes.split_off(..8).map(|_| Value::Skipped)?,
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Value::Bytes(bytes.split_off(..length)?)
        }
        5 => bytes.split_off(..4).map(|_| Value::Skipped)?,
        _ => return None,
    };
    Some((key >> 3, value))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::store;

    #[test]
    fn every_field_has_its_name_and_a_text() {
        let scope = store::Scope {
            service: "payments".into(),
            grpc: vec!["/a.B/C".into(), "*".into()],
            http: vec![store::HttpRule {
                methods: vec!["GET".into()],
                path: "/v1".into(),
            }],
        };
        let tombstone = store::Tombstone {
            state: store::GrantState::Revoked.into(),
            keep_until: None,
        };
        let grant = store::GrantEntry {
            id: "g".into(),
            scope: Some(scope),
            tombstone: Some(tombstone),
            standing: true,
            policy_version: 7,
            not_before: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            }),
            ..store::GrantEntry::default()
        };
        let found = fields("jitgate.store.v1.GrantEntry", &grant.encode_to_vec());
        let text = |path: &str| found.get(path).map(String::as_str);
        assert_eq!(text("scope.grpc[1]"), Some("*"));
        assert_eq!(text("scope.http[0].methods[0]"), Some("GET"));
        assert_eq!(text("tombstone.state"), Some("GRANT_STATE_REVOKED"));
        assert_eq!(
            (text("standing"), text("policy_version")),
            (Some("true"), Some("7"))
        );
        assert_eq!(text("not_before"), Some("2023-11-14T22:13:20.000Z"));
        assert_eq!(text("subject"), None);
    }

    #[test]
    fn what_is_not_set_has_no_field() {
        let row = store::StoredGrant {
            requester: "user:i|a".into(),
            ..Default::default()
        };
        let found = fields("jitgate.store.v1.StoredGrant", &row.encode_to_vec());
        assert_eq!(
            found,
            Fields::from([("requester".to_owned(), "user:i|a".to_owned())])
        );
    }

    #[test]
    fn bytes_that_are_no_message_have_no_fields() {
        assert!(fields("jitgate.store.v1.StoredGrant", &[0xff; 40]).is_empty());
        assert!(fields("jitgate.store.v1.Nothing", &[10, 1, b'a']).is_empty());
        assert!(fields("jitgate.store.v1.StoredGrant", &[10, 200, b'a']).is_empty());
    }
}
