//! One event as one line of JSON, with everything that its hash is made of. A line that says more, or says it twice, is
//! refused: what is not hashed proves nothing.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::audit::{Difference, Event};
use crate::support::hex::{self, Hex};
use crate::wire::v1;

/// An event, spelled out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Line {
    index: i64,
    /// RFC 3339 with nanoseconds.
    time: String,
    #[serde(rename = "type")]
    kind: String,
    actor: String,
    resource: String,
    from_state: String,
    to_state: String,
    reason: String,
    trace_id: String,
    revision: i64,
    changes: Vec<Changed>,
    /// Hexadecimal.
    prev_hash: String,
    hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changed {
    field: String,
    before: String,
    after: String,
}

impl Line {
    /// Of an event that was fetched.
    pub(crate) fn of(event: &v1::AuditEvent) -> Self {
        let change = |change: &v1::AuditChange| Changed {
            field: change.field.clone(),
            before: change.before.clone(),
            after: change.after.clone(),
        };
        Self {
            index: event.index,
            time: event.time.as_ref().map(moment).unwrap_or_default(),
            kind: event.r#type.clone(),
            actor: event.actor.clone(),
            resource: event.resource.clone(),
            from_state: event.from_state.clone(),
            to_state: event.to_state.clone(),
            reason: event.reason.clone(),
            trace_id: event.trace_id.clone(),
            revision: event.revision,
            changes: event.changes.iter().map(change).collect(),
            prev_hash: Hex(&event.prev_hash).to_string(),
            hash: Hex(&event.hash).to_string(),
        }
    }

    /// As a value.
    pub(crate) fn json(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    /// As one line.
    pub(crate) fn text(&self) -> String {
        // Strings and numbers alone: this cannot fail. An empty line would be refused by whoever verifies the export.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Event, String> {
        let line: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let number = |value: i64, field: &str| {
            u64::try_from(value).map_err(|_| format!("{field} is negative"))
        };
        let time =
            humantime::parse_rfc3339(&line.time).map_err(|error| format!("time: {error}"))?;
        let time = time
            .duration_since(UNIX_EPOCH)
            .map_err(|_| "time: lies before 1970".to_owned())?;
        let change = |change: Changed| Difference {
            field: change.field,
            before: change.before,
            after: change.after,
        };
        Ok(Event {
            index: number(line.index, "index")?,
            time: (time.as_secs(), time.subsec_nanos()),
            kind: line.kind,
            actor: line.actor,
            resource: line.resource,
            from: line.from_state,
            to: line.to_state,
            reason: line.reason,
            trace_id: line.trace_id,
            revision: number(line.revision, "revision")?,
            changes: line.changes.into_iter().map(change).collect(),
            prev_hash: hex::decode(&line.prev_hash).ok_or("prevHash is not hexadecimal")?,
            hash: hex::decode(&line.hash).ok_or("hash is not hexadecimal")?,
        })
    }
}

fn moment(time: &prost_types::Timestamp) -> String {
    let seconds = u64::try_from(time.seconds).unwrap_or_default();
    let span = Duration::new(seconds, u32::try_from(time.nanos).unwrap_or_default());
    UNIX_EPOCH
        .checked_add(span)
        .map_or_else(String::new, |time| {
            humantime::format_rfc3339_nanos(time).to_string()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::audit::event_from;

    fn event() -> v1::AuditEvent {
        v1::AuditEvent {
            index: 7,
            time: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 123_456_789,
            }),
            r#type: "grant.revoked".into(),
            actor: "user:i|a".into(),
            reason: "two\nlines \u{1} \"quoted\"".into(),
            changes: vec![v1::AuditChange {
                field: "f".into(),
                before: "é".into(),
                after: String::new(),
            }],
            prev_hash: vec![0, 255].into(),
            hash: vec![16; 32].into(),
            ..v1::AuditEvent::default()
        }
    }

    #[test]
    fn a_line_holds_everything_that_is_hashed() {
        let text = Line::of(&event()).text();
        assert!(!text.contains('\n'), "{text}");
        assert_eq!(Line::parse(&text).unwrap(), event_from(&event()).unwrap());
    }

    #[test]
    fn a_line_that_says_more_or_less_or_the_same_twice_is_refused() {
        let text = Line::of(&event()).text();
        for bad in [
            text.replace("{\"index\"", "{\"note\":1,\"index\""),
            text.replace("{\"index\":7", "{\"index\":7,\"index\":7"),
            text.replace("\"index\":7,", ""),
            text.replace("\"index\":7", "\"index\":-7"),
            text.replace("00ff", "00f"),
            text.replace("00ff", "0+ff"),
            text.replace("2023-", "1923-"),
            String::new(),
        ] {
            assert!(Line::parse(&bad).is_err(), "{bad}");
        }
    }
}
