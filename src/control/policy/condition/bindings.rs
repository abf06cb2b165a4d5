//! What a condition sees of an access request. Copies are bounded: whatever is larger makes the condition an error.

use std::collections::HashMap;
use std::sync::Arc;

use cel::objects::{Key, Map};
use cel::{Context, Value};

use crate::model::identity::{Principal, PrincipalKind};
use crate::model::policy::{Ask, LIST_MAX};
use crate::model::scope::Rule;
use crate::model::time::Timestamp;
use std::time::Duration;

/// Most values in a token's claims, counting those inside others.
const CLAIMS_MAX: usize = 4096;
/// Longest text within a token's claims, in bytes.
const CLAIM_BYTES_MAX: usize = 8192;

/// The variables of one access request.
pub(crate) struct Bindings {
    context: Result<Context<'static, 'static>, &'static str>,
}

impl std::fmt::Debug for Bindings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bindings(redacted)")
    }
}

impl Bindings {
    /// `duration` is the one that the policy settled on; `environment` is what the policy calls the place.
    pub(crate) fn new(ask: &Ask<'_>, duration: Duration, environment: &str) -> Self {
        Self {
            context: context(ask, duration, environment),
        }
    }

    /// Ready to evaluate, or why not.
    pub(crate) fn context(&self) -> Result<&Context<'static, 'static>, &'static str> {
        self.context.as_ref().map_err(|error| *error)
    }
}

fn context(
    ask: &Ask<'_>,
    duration: Duration,
    environment: &str,
) -> Result<Context<'static, 'static>, &'static str> {
    let request = map([
        ("service", text(ask.scope.service().as_str())),
        ("grpc", list(rules(ask, true))?),
        ("http", list(rules(ask, false))?),
        (
            "duration",
            Value::Duration(
                chrono::Duration::from_std(duration).map_err(|_| "the duration is too long")?,
            ),
        ),
        ("reason", text(ask.reason)),
        ("tickets", list(ask.tickets.iter().map(String::as_str))?),
        ("via", list(ask.via.iter().map(Principal::as_str))?),
        ("breakGlass", Value::Bool(ask.break_glass)),
    ]);
    let mut context = Context::default();
    context.add_variable_from_value("requester", requester(ask)?);
    context.add_variable_from_value("request", request);
    context.add_variable_from_value("subject", text(ask.subject.as_str()));
    context.add_variable_from_value("environment", text(environment));
    context.add_variable_from_value("now", now(ask.now)?);
    Ok(context)
}

fn requester(ask: &Ask<'_>) -> Result<Value, &'static str> {
    let of = |kind| {
        ask.requester
            .iter()
            .filter(move |principal| principal.kind() == kind)
            .map(Principal::as_str)
    };
    let first = |kind| text(of(kind).next().unwrap_or_default());
    let mut left = CLAIMS_MAX;
    let claims = match ask.claims {
        Some(claims) => object(claims, &mut left)?,
        None => Value::Map(Map {
            map: Arc::default(),
        }),
    };
    Ok(map([
        (
            "principals",
            list(ask.requester.iter().map(Principal::as_str))?,
        ),
        ("user", first(PrincipalKind::User)),
        ("workload", first(PrincipalKind::Workload)),
        ("groups", list(of(PrincipalKind::Group))?),
        ("claims", claims),
    ]))
}

fn rules<'a>(ask: &Ask<'a>, grpc: bool) -> impl Iterator<Item = String> + 'a {
    ask.scope
        .rules()
        .iter()
        .filter(move |rule| matches!(rule, Rule::Grpc(_)) == grpc)
        .map(Rule::to_string)
}

fn now(now: Timestamp) -> Result<Value, &'static str> {
    let micros = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
    chrono::DateTime::from_timestamp_micros(micros)
        .map(|time| Value::Timestamp(time.fixed_offset()))
        .ok_or("the time is out of range")
}

fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

fn list<S: AsRef<str>>(items: impl Iterator<Item = S>) -> Result<Value, &'static str> {
    let items: Vec<Value> = items
        .take(LIST_MAX + 1)
        .map(|item| text(item.as_ref()))
        .collect();
    if items.len() > LIST_MAX {
        return Err("the request holds a list of more than 256 entries");
    }
    Ok(Value::List(Arc::new(items)))
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let entries = entries
        .into_iter()
        .map(|(key, value)| (Key::String(Arc::new(key.to_owned())), value));
    Value::Map(Map {
        map: Arc::new(entries.collect()),
    })
}

fn object(
    entries: &serde_json::Map<String, serde_json::Value>,
    left: &mut usize,
) -> Result<Value, &'static str> {
    if entries.len() > LIST_MAX {
        return Err("a claim of the token has more than 256 entries");
    }
    let mut map = HashMap::with_capacity(entries.len());
    for (key, value) in entries {
        map.insert(
            Key::String(Arc::new(bounded(key)?.to_owned())),
            json(value, left)?,
        );
    }
    Ok(Value::Map(Map { map: Arc::new(map) }))
}

/// Recursion is bounded by the JSON parser's own limit of 128 levels.
fn json(value: &serde_json::Value, left: &mut usize) -> Result<Value, &'static str> {
    *left = left
        .checked_sub(1)
        .ok_or("the token's claims hold more than 4096 values")?;
    Ok(match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => {
            match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(number), ..) => Value::Int(number),
                (None, Some(number), _) => Value::UInt(number),
                (None, None, number) => Value::Float(number.unwrap_or(f64::NAN)),
            }
        }
        serde_json::Value::String(value) => text(bounded(value)?),
        serde_json::Value::Array(items) if items.len() > LIST_MAX => {
            return Err("a claim of the token has more than 256 entries");
        }
        serde_json::Value::Array(items) => {
            let items: Result<Vec<Value>, _> = items.iter().map(|item| json(item, left)).collect();
            Value::List(Arc::new(items?))
        }
        serde_json::Value::Object(entries) => object(entries, left)?,
    })
}

fn bounded(text: &str) -> Result<&str, &'static str> {
    if text.len() > CLAIM_BYTES_MAX {
        Err("a claim of the token is longer than 8192 bytes")
    } else {
        Ok(text)
    }
}
