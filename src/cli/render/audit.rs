//! The audit chain, its verdict, decisions and stories: for people one line an event, for scripts everything.

use serde_json::{Value, json};

use crate::cli::error::printable;
use crate::cli::verbs::audit::line::Line;
use crate::model::audit::{Broken, Verified};
use crate::model::identity::Principal;
use crate::support::hex::Hex;
use crate::wire::v1;
use crate::wire::v1::story_entry::What;

use super::grants::{Grant, used};
use super::json::{access_request, grant, time as json_time};
use super::text::{block, moment, rules, short, span, table, time};
use super::{TextStyle, View};

/// Audit events, newest first.
#[derive(Debug)]
pub(crate) struct Events<'a>(pub &'a [v1::AuditEvent]);

impl View for Events<'_> {
    fn json(&self) -> Value {
        json!({ "events": self.0.iter().map(|event| Line::of(event).json()).collect::<Vec<_>>() })
    }

    fn text(&self, style: &TextStyle) -> String {
        let row = |event: &v1::AuditEvent| {
            vec![
                event.index.to_string(),
                time(event.time.as_ref()),
                event.r#type.clone(),
                actor(&event.actor),
                event.resource.clone(),
                states(event),
                event.reason.clone(),
            ]
        };
        let rows = self.0.iter().map(row).collect();
        table(
            style,
            &[
                "INDEX", "TIME", "TYPE", "ACTOR", "RESOURCE", "STATE", "REASON",
            ],
            rows,
        )
    }
}

/// A checkpoint, to be kept.
#[derive(Debug)]
pub(crate) struct Kept<'a>(pub &'a v1::AuditCheckpoint);

impl View for Kept<'_> {
    fn json(&self) -> Value {
        let Self(checkpoint) = self;
        json!({
            "index": checkpoint.index,
            "hash": Hex(&checkpoint.hash).to_string(),
            "epoch": checkpoint.epoch,
            "time": json_time(checkpoint.time.as_ref()),
        })
    }

    fn text(&self, _: &TextStyle) -> String {
        let Self(checkpoint) = self;
        let hash = Hex(&checkpoint.hash).to_string();
        block(&[
            ("Index", checkpoint.index.to_string()),
            ("Hash", hash.clone()),
            ("Epoch", checkpoint.epoch.clone()),
            ("Time", time(checkpoint.time.as_ref())),
            ("Keep", format!("{}:{hash}", checkpoint.index)),
        ])
    }
}

/// What a verification came to.
#[derive(Debug)]
pub(crate) struct Verdict<'a>(pub &'a Result<Verified, Broken>);

impl View for Verdict<'_> {
    fn json(&self) -> Value {
        match self.0 {
            Ok(Verified {
                first,
                last,
                hash,
                checkpoints,
            }) => json!({
                "whole": true, "first": first, "last": last, "hash": hash.to_string(), "checkpoints": checkpoints,
                "brokenAt": null, "problem": null,
            }),
            Err(broken) => json!({
                "whole": false, "first": null, "last": null, "hash": null, "checkpoints": null,
                "brokenAt": broken.index, "problem": broken.to_string(),
            }),
        }
    }

    fn text(&self, _: &TextStyle) -> String {
        match self.0 {
            Ok(Verified { last: 0, .. }) => "WHOLE: there is no event yet\n".to_owned(),
            Ok(Verified {
                first,
                last,
                hash,
                checkpoints,
            }) => {
                let agreed = match checkpoints {
                    0 => String::new(),
                    1 => ", as the checkpoint says".to_owned(),
                    many => format!(", as {many} checkpoints say"),
                };
                format!("WHOLE: events {first} to {last}{agreed}\n       {last}:{hash}\n")
            }
            Err(broken) => format!("BROKEN: {}\n", printable(&broken.to_string())),
        }
    }
}

/// Everything about one grant.
#[derive(Debug)]
pub(crate) struct Story<'a>(pub &'a v1::Story);

impl View for Story<'_> {
    fn json(&self) -> Value {
        let Self(story) = self;
        json!({
            "decision": story.decision.as_ref().map(decision),
            "accessRequests": story.access_requests.iter().map(access_request).collect::<Vec<_>>(),
            "grants": story.grants.iter().map(grant).collect::<Vec<_>>(),
            "entries": story.entries.iter().map(entry).collect::<Vec<_>>(),
            "moreUses": story.more_uses,
        })
    }

    fn text(&self, style: &TextStyle) -> String {
        let Self(story) = self;
        let mut text = story
            .decision
            .as_ref()
            .map(|decision| decision_block(decision, style) + "\n")
            .unwrap_or_default();
        for request in &story.access_requests {
            let line = format!(
                "Request {}: {} asks for {} at {} for {}{}",
                request.id,
                short(&request.requester),
                rules(request.scope.as_ref()).join(", "),
                request
                    .scope
                    .as_ref()
                    .map(|scope| scope.service.clone())
                    .unwrap_or_default(),
                span(request.duration.as_ref()),
                if request.reason.is_empty() {
                    String::new()
                } else {
                    format!(": {}", request.reason)
                },
            );
            text += &format!("{}\n", printable(&line));
        }
        for grant in &story.grants {
            text += &format!("{}\n", printable(&grant_line(grant, style)));
        }
        let rows = story
            .entries
            .iter()
            .map(|entry| row(entry, story))
            .collect();
        text += "\n";
        text += &table(style, &["TIME", "WHAT", "OF", "WHO", "DETAILS"], rows);
        if story.more_uses > 0 {
            text += &format!(
                "{} older records of uses are not listed.\n",
                story.more_uses
            );
        }
        text
    }
}

/// One decision, its grant, and why it came out so.
#[derive(Debug)]
pub(crate) struct Decided<'a>(pub &'a v1::Story);

impl Decided<'_> {
    fn grant(&self) -> Option<&v1::Grant> {
        let id = self.0.decision.as_ref().map(|decision| &decision.grant)?;
        self.0.grants.iter().find(|grant| grant.id == *id)
    }
}

impl View for Decided<'_> {
    fn json(&self) -> Value {
        json!({
            "decision": self.0.decision.as_ref().map(decision),
            "grant": self.grant().map(grant),
            "accessRequests": self.0.access_requests.iter().map(access_request).collect::<Vec<_>>(),
        })
    }

    fn text(&self, style: &TextStyle) -> String {
        let Some(decision) = &self.0.decision else {
            return String::new();
        };
        let mut text = match (decision.allowed, decision.shadow) {
            (true, _) => "ALLOWED\n\n".to_owned(),
            (false, false) => format!("REFUSED: {}\n\n", printable(&decision.reason)),
            (false, true) => format!(
                "LET PASS by --mode shadow, else REFUSED: {}\n\n",
                printable(&decision.reason)
            ),
        };
        text += &decision_block(decision, style);
        if let Some(grant) = self.grant() {
            let heading = if decision.allowed {
                "By the grant"
            } else {
                "The nearest grant, as it is now"
            };
            text += &format!("\n{heading}:\n{}", Grant(grant).text(style));
        }
        for request in &self.0.access_requests {
            let state = super::json::state(request.state().as_str_name(), "ACCESS_REQUEST_STATE_");
            let line = format!(
                "{state} by {}: {}",
                actor(&request.decided_by),
                request.decision_reason
            );
            text += &format!(
                "\nRequest {}: {}\n",
                printable(&request.id),
                printable(&line)
            );
        }
        text
    }
}

fn decision(decision: &v1::Decision) -> Value {
    json!({
        "id": decision.id,
        "time": json_time(decision.time.as_ref()),
        "firstTime": json_time(decision.first_time.as_ref()),
        "sequence": decision.sequence,
        "allowed": decision.allowed,
        "reason": decision.reason,
        "grant": decision.grant,
        "principal": decision.principal,
        "service": decision.service,
        "method": decision.method,
        "traceId": decision.trace_id,
        "policy": decision.policy,
        "policyVersion": decision.policy_version,
        "revision": decision.revision,
        "count": decision.count,
        "shadow": decision.shadow,
        "sidecar": decision.sidecar,
        "instance": decision.instance,
        "receiveTime": json_time(decision.receive_time.as_ref()),
    })
}

fn entry(entry: &v1::StoryEntry) -> Value {
    let (event, decided, expired) = match &entry.what {
        Some(What::Event(event)) => (Line::of(event).json(), Value::Null, Value::Null),
        Some(What::Decision(of)) => (Value::Null, decision(of), Value::Null),
        Some(What::ExpiredGrant(id)) => (Value::Null, Value::Null, json!(id)),
        None => (Value::Null, Value::Null, Value::Null),
    };
    json!({ "time": json_time(entry.time.as_ref()), "event": event, "decision": decided, "expiredGrant": expired })
}

fn decision_block(decision: &v1::Decision, style: &TextStyle) -> String {
    let several = decision.count > 1;
    block(&[
        ("Decision", decision.id.clone()),
        (
            "Calls",
            if several {
                decision.count.to_string()
            } else {
                String::new()
            },
        ),
        ("At", moment(decision.first_time.as_ref(), style)),
        (
            "Last at",
            if several {
                moment(decision.time.as_ref(), style)
            } else {
                String::new()
            },
        ),
        ("Principal", decision.principal.clone()),
        ("Service", decision.service.clone()),
        ("Called", decision.method.clone()),
        ("Reason", decision.reason.clone()),
        ("Grant", decision.grant.clone()),
        ("Policy", decision.policy.clone()),
        ("Revision", decision.revision.to_string()),
        ("Sidecar", decision.sidecar.clone()),
        ("Trace", decision.trace_id.clone()),
    ])
}

/// `Grant 01J…: EXPIRED, of alice, until 2026-…; used 3 times, last 5s ago`
fn grant_line(grant: &v1::Grant, style: &TextStyle) -> String {
    let state = super::json::state(grant.state().as_str_name(), "GRANT_STATE_");
    let until = if grant.standing {
        "standing".to_owned()
    } else {
        format!("until {}", time(grant.expire_time.as_ref()))
    };
    format!(
        "Grant   {}: {state}, of {}, {until}; {}",
        grant.id,
        short(&grant.subject),
        uses(grant, style)
    )
}

fn row(entry: &v1::StoryEntry, story: &v1::Story) -> Vec<String> {
    let at = time(entry.time.as_ref());
    match &entry.what {
        Some(What::Event(event)) => {
            let details = [states(event), event.reason.clone()];
            let details: Vec<_> = details
                .into_iter()
                .filter(|text| !text.is_empty())
                .collect();
            vec![
                at,
                event.r#type.clone(),
                place(&event.resource),
                actor(&event.actor),
                details.join(": "),
            ]
        }
        Some(What::Decision(decision)) => {
            let what = if decision.allowed { "use" } else { "refusal" };
            let mut details = vec![decision.method.clone()];
            if !decision.allowed {
                details.push(decision.reason.clone());
            }
            if decision.count > 1 {
                details.push(format!(
                    "{} calls until {}",
                    decision.count,
                    time(decision.time.as_ref())
                ));
            }
            details.push(format!("at {}", decision.sidecar));
            details.push(format!("decision {}", decision.id));
            let marked = story
                .decision
                .as_ref()
                .is_some_and(|asked| asked.id == decision.id);
            let what = if marked {
                format!("{what} <-")
            } else {
                what.to_owned()
            };
            let of = if decision.grant.is_empty() {
                String::new()
            } else {
                place(&format!("grants/{}", decision.grant))
            };
            vec![at, what, of, short(&decision.principal), details.join(", ")]
        }
        Some(What::ExpiredGrant(id)) => {
            let details = "its time was up; not yet in the audit chain".to_owned();
            vec![
                at,
                "grant.expired".to_owned(),
                place(&format!("grants/{id}")),
                String::new(),
                details,
            ]
        }
        None => vec![at],
    }
}

/// `grant ..7F3K2Q`: enough to tell the few of one story apart.
fn place(resource: &str) -> String {
    let (kind, id) = resource.split_once('/').unwrap_or(("", resource));
    let kind = match kind {
        "grants" => "grant",
        "accessRequests" => "request",
        other => other,
    };
    let tail: Vec<char> = id.chars().rev().take(6).collect();
    let tail: String = tail.into_iter().rev().collect();
    if tail.len() < id.len() {
        format!("{kind} ..{tail}")
    } else {
        format!("{kind} {id}")
    }
}

fn states(event: &v1::AuditEvent) -> String {
    match (event.from_state.as_str(), event.to_state.as_str()) {
        ("", to) => to.to_owned(),
        (from, "") => format!("{from} -> none"),
        (from, to) if from == to => to.to_owned(),
        (from, to) => format!("{from} -> {to}"),
    }
}

fn actor(text: &str) -> String {
    if Principal::parse(text).is_ok() {
        short(text)
    } else {
        text.to_owned()
    }
}

fn uses(grant: &v1::Grant, style: &TextStyle) -> String {
    match used(grant, style) {
        used if used.is_empty() => "no use was reported".to_owned(),
        used => format!("used {used}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::audit::Flaw;
    use crate::model::time::Timestamp;
    use crate::wire::grant::timestamp_to;

    const ALICE: &str = "user:https://idp|alice";

    fn style() -> TextStyle {
        TextStyle {
            now: Timestamp::from_micros(1_700_000_010_000_000),
            width: None,
        }
    }

    fn at(second: u64) -> Option<prost_types::Timestamp> {
        Some(timestamp_to(Timestamp::from_micros(
            (1_700_000_000 + second) * 1_000_000,
        )))
    }

    fn event(kind: &str, from: &str, to: &str) -> v1::AuditEvent {
        v1::AuditEvent {
            index: 7,
            time: at(1),
            r#type: kind.into(),
            actor: ALICE.into(),
            resource: "grants/01JQ0000000000000000ABCDEF".into(),
            from_state: from.into(),
            to_state: to.into(),
            reason: "be\u{1b}cause".into(),
            ..v1::AuditEvent::default()
        }
    }

    fn story() -> v1::Story {
        let decision = v1::Decision {
            id: "01JQ0000000000000000000001".into(),
            first_time: at(2),
            time: at(4),
            allowed: false,
            reason: "GRANT_REVOKED".into(),
            grant: "01JQ0000000000000000ABCDEF".into(),
            principal: ALICE.into(),
            method: "GET /v1/users/{id}".into(),
            count: 3,
            sidecar: "payments-1".into(),
            ..v1::Decision::default()
        };
        let entry = |time, what| v1::StoryEntry {
            time,
            what: Some(what),
        };
        v1::Story {
            decision: Some(decision.clone()),
            entries: vec![
                entry(
                    at(1),
                    What::Event(event("grant.revoked", "ACTIVE", "REVOKED")),
                ),
                entry(at(2), What::Decision(decision)),
            ],
            more_uses: 9,
            ..v1::Story::default()
        }
    }

    #[test]
    fn a_story_has_one_line_for_each_thing_that_happened() {
        let text = Story(&story()).text(&style());
        let line = |word: &str| {
            text.lines()
                .find(|line| line.contains(word))
                .unwrap_or_else(|| panic!("{word}: {text}"))
        };
        let event = line("grant.revoked");
        assert!(
            event.contains("grant ..ABCDEF")
                && event.contains("alice")
                && event.contains("ACTIVE -> REVOKED: be")
        );
        let refusal = line("refusal <-");
        for word in [
            "GRANT_REVOKED",
            "3 calls until",
            "at payments-1",
            "decision 01JQ0000000000000000000001",
        ] {
            assert!(refusal.contains(word), "{word}: {refusal}");
        }
        assert!(
            text.contains("9 older records") && !text.contains('\u{1b}'),
            "{text}"
        );
    }

    #[test]
    fn a_decision_is_explained_with_what_came_of_it() {
        let story = story();
        let text = Decided(&story).text(&style());
        assert!(
            text.starts_with("REFUSED: GRANT_REVOKED\n\nDecision:"),
            "{text}"
        );
        let value = Decided(&story).json();
        assert_eq!(
            (&value["decision"]["reason"], &value["grant"]),
            (&json!("GRANT_REVOKED"), &Value::Null)
        );
    }

    #[test]
    fn an_entry_as_json_is_one_of_three() {
        let value = Story(&story()).json();
        let [first, second] = value["entries"].as_array().unwrap().as_slice() else {
            panic!("{value}")
        };
        assert_eq!(
            (&first["event"]["type"], &first["decision"]),
            (&json!("grant.revoked"), &Value::Null)
        );
        assert_eq!(
            (&second["decision"]["count"], &second["event"]),
            (&json!(3), &Value::Null)
        );
    }

    #[test]
    fn a_verdict_says_whole_or_where_it_breaks() {
        let whole = Ok(Verified {
            first: 1,
            last: 9,
            checkpoints: 1,
            ..Verified::default()
        });
        assert!(
            Verdict(&whole)
                .text(&style())
                .starts_with("WHOLE: events 1 to 9, as the checkpoint says\n")
        );
        let broken = Err(Broken {
            index: 4,
            flaw: Flaw::Missing,
        });
        assert_eq!(
            Verdict(&broken).text(&style()),
            "BROKEN: audit event 4 is missing\n"
        );
        assert_eq!(Verdict(&broken).json()["brokenAt"], 4);
    }
}
