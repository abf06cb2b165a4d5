//! How tokens and their keys are shown.

use serde_json::{Map, Value, json};

use crate::cli::render::json::{state, time};
use crate::cli::render::text::{block, distance, moment, table};
use crate::cli::render::{TextStyle, View};
use crate::clock::micros_between;
use crate::jose::jit::claims::at_second;
use crate::jose::jit::inspect::{Inspection, Outcome};
use crate::model::time::Timestamp;
use crate::wire::v1;

/// A new token: for people and for `$(...)` nothing but the token.
pub(super) struct Issued(pub(super) v1::IssueTokenResponse);

impl View for Issued {
    fn json(&self) -> Value {
        let issued = &self.0;
        json!({
            "token": issued.token,
            "id": issued.id,
            "grant": issued.grant,
            "subject": issued.subject,
            "workload": issued.workload,
            "audience": issued.audience,
            "kid": issued.kid,
            "issueTime": time(issued.issue_time.as_ref()),
            "renewTime": time(issued.renew_time.as_ref()),
            "expireTime": time(issued.expire_time.as_ref()),
        })
    }

    fn text(&self, _: &TextStyle) -> String {
        format!("{}\n", self.0.token)
    }
}

/// The keys, by age.
pub(super) struct Keys(pub(super) v1::ListTokenKeysResponse);

const KEY_STATE: &str = "TOKEN_KEY_STATE_";

impl View for Keys {
    fn json(&self) -> Value {
        let key = |key: &v1::TokenKeyStatus| {
            json!({
                "kid": key.kid,
                "alg": key.alg,
                "state": state(key.state().as_str_name(), KEY_STATE),
                "publishTime": time(key.publish_time.as_ref()),
                "signTime": time(key.sign_time.as_ref()),
                "retireTime": time(key.retire_time.as_ref()),
                "nextTime": time(key.next_time.as_ref()),
                "jwk": serde_json::from_str(&key.jwk).unwrap_or(Value::Null),
            })
        };
        json!({ "issuer": self.0.issuer, "keys": self.0.keys.iter().map(key).collect::<Vec<_>>() })
    }

    fn text(&self, style: &TextStyle) -> String {
        let next = |key: &v1::TokenKeyStatus| {
            let what = match key.state() {
                v1::TokenKeyState::Published => "signs",
                v1::TokenKeyState::Signing => "retires",
                v1::TokenKeyState::Retired => "withdrawn",
                v1::TokenKeyState::Unspecified => "",
            };
            match moment(key.next_time.as_ref(), style) {
                when if when.is_empty() => "on request".to_owned(),
                when => format!("{what} {when}"),
            }
        };
        let row = |key: &v1::TokenKeyStatus| {
            let state = state(key.state().as_str_name(), KEY_STATE);
            vec![
                key.kid.clone(),
                key.alg.clone(),
                state,
                moment(key.publish_time.as_ref(), style),
                next(key),
            ]
        };
        let rows = self.0.keys.iter().map(row).collect();
        table(style, &["KID", "ALG", "STATE", "PUBLISHED", "NEXT"], rows)
    }
}

/// A token looked at here, and there if somebody could be asked.
pub(super) struct Inspected {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    checks: Vec<Line>,
    there: Option<There>,
}

/// What the control plane said, when by its clock, and when by the one here.
#[derive(Debug)]
pub(super) struct There {
    pub(super) answer: v1::IntrospectTokenResponse,
    pub(super) server: Timestamp,
    pub(super) local: Timestamp,
}

struct Line {
    name: String,
    outcome: &'static str,
    reason: String,
    detail: String,
}

impl Inspected {
    pub(super) fn new(here: Inspection, there: Option<There>) -> Self {
        let object = |part: Option<Value>| match part {
            Some(Value::Object(members)) => members,
            Some(_) | None => Map::new(),
        };
        let checks = match &there {
            Some(there) => there.answer.checks.iter().map(line_of_there).collect(),
            None => here.checks.iter().map(line_of_here).collect(),
        };
        Self {
            header: object(here.header),
            claims: object(here.claims),
            checks,
            there,
        }
    }

    fn instant(&self, claim: &str) -> Option<Timestamp> {
        self.claims.get(claim)?.as_u64().map(at_second)
    }

    /// Seconds that the clock here is ahead of the control plane's.
    fn ahead(&self) -> Option<f64> {
        let there = self.there.as_ref()?;
        // Milliseconds are what the way there and back leaves of it.
        let millis = micros_between(there.server, there.local) / 1000;
        i32::try_from(millis)
            .ok()
            .map(|millis| f64::from(millis) / 1000.0)
    }
}

fn line_of_there(check: &v1::TokenCheck) -> Line {
    let outcome = match check.outcome() {
        v1::TokenCheckOutcome::Passed => "passed",
        v1::TokenCheckOutcome::Failed => "FAILED",
        v1::TokenCheckOutcome::Skipped | v1::TokenCheckOutcome::Unspecified => "skipped",
    };
    Line {
        name: check.name.clone(),
        outcome,
        reason: check.reason.clone(),
        detail: check.detail.clone(),
    }
}

fn line_of_here(check: &crate::jose::jit::inspect::Check) -> Line {
    let (outcome, reason) = match check.outcome {
        Outcome::Passed => ("passed", ""),
        Outcome::Failed(reason) => ("FAILED", reason.as_str()),
        Outcome::Skipped => ("skipped", ""),
    };
    Line {
        name: check.name.to_owned(),
        outcome,
        reason: reason.to_owned(),
        detail: check.detail.clone(),
    }
}

impl View for Inspected {
    fn json(&self) -> Value {
        let time = |claim| self.instant(claim).map(|time| time.to_string());
        let check = |line: &Line| {
            json!({
                "name": line.name,
                "outcome": line.outcome.to_uppercase(),
                "reason": line.reason,
                "detail": line.detail,
            })
        };
        json!({
            "header": self.header,
            "claims": self.claims,
            "issueTime": time("iat"),
            "expireTime": time("exp"),
            "verified": self.there.is_some(),
            "active": self.there.as_ref().is_some_and(|there| there.answer.active),
            "reason": self.there.as_ref().map(|there| there.answer.reason.clone()).unwrap_or_default(),
            "checks": self.checks.iter().map(check).collect::<Vec<_>>(),
            "localTime": self.there.as_ref().map(|there| there.local.to_string()),
            "serverTime": self.there.as_ref().map(|there| there.server.to_string()),
            "localAheadSeconds": self.ahead(),
            "revision": self.there.as_ref().map(|there| there.answer.revision),
        })
    }

    fn text(&self, style: &TextStyle) -> String {
        let shown = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        let mut fields: Vec<_> = self
            .header
            .iter()
            .map(|(name, value)| (name.as_str(), shown(value)))
            .collect();
        for (name, value) in &self.claims {
            let time = matches!(name.as_str(), "exp" | "iat" | "nbf")
                .then(|| self.instant(name))
                .flatten();
            let text = time.map(|time| format!("{time} ({})", distance(time, style.now)));
            fields.push((name, text.unwrap_or_else(|| shown(value))));
        }
        let row = |line: &Line| {
            let why = if line.reason.is_empty() {
                String::new()
            } else {
                format!("{}: ", line.reason)
            };
            vec![
                line.name.clone(),
                line.outcome.to_owned(),
                format!("{why}{}", line.detail),
            ]
        };
        let checks = table(
            style,
            &["CHECK", "OUTCOME", "DETAIL"],
            self.checks.iter().map(row).collect(),
        );
        let clocks = match (&self.there, self.ahead()) {
            (Some(there), Some(ahead)) => block(&[
                ("Clock here", there.local.to_string()),
                ("Clock there", there.server.to_string()),
                ("Difference", format!("{ahead:+.3}s here")),
            ]),
            (Some(_), None) | (None, _) => block(&[("Clock here", style.now.to_string())]),
        };
        format!("{}\n{checks}\n{clocks}", block(&fields))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;
    use crate::jose::jit::inspect::{Against, inspect};

    fn jwt(claims: &str) -> String {
        format!(
            "{}.{}.c2lnbmF0dXJl",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#),
            URL_SAFE_NO_PAD.encode(claims)
        )
    }

    const PAPER: TextStyle = TextStyle {
        now: Timestamp::from_micros(1_700_000_060_000_000),
        width: None,
    };

    fn offline(token: &str) -> Inspected {
        Inspected::new(
            inspect(
                token,
                &Against {
                    now: PAPER.now,
                    ..Against::default()
                },
            ),
            None,
        )
    }

    #[test]
    fn header_claims_and_times_are_shown_but_never_the_signature() {
        let inspected = offline(&jwt(r#"{"sub":"alice","exp":1700000000}"#));
        let value = inspected.json();
        assert_eq!(value["claims"]["sub"], "alice");
        assert_eq!(value["expireTime"], "2023-11-14T22:13:20.000Z");
        assert_eq!(
            (&value["verified"], &value["active"]),
            (&json!(false), &json!(false))
        );
        let text = inspected.text(&PAPER);
        assert!(
            text.contains("(1m ago)") && !text.contains("c2lnbmF0dXJl"),
            "{text}"
        );
        assert!(!value.to_string().contains("c2lnbmF0dXJl"));
    }

    #[test]
    fn both_clocks_and_their_difference_are_shown() {
        let answer = v1::IntrospectTokenResponse {
            active: false,
            reason: "TOKEN_EXPIRED".into(),
            checks: vec![v1::TokenCheck {
                name: "time".into(),
                outcome: v1::TokenCheckOutcome::Failed.into(),
                detail: "the token ended".into(),
                reason: "TOKEN_EXPIRED".into(),
            }],
            ..Default::default()
        };
        let local = PAPER.now.plus(std::time::Duration::from_millis(2500));
        let there = There {
            answer,
            server: PAPER.now,
            local,
        };
        let here = inspect(
            &jwt("{}"),
            &Against {
                now: PAPER.now,
                ..Against::default()
            },
        );
        let inspected = Inspected::new(here, Some(there));
        assert_eq!(inspected.json()["localAheadSeconds"], 2.5);
        assert_eq!(inspected.json()["checks"][0]["outcome"], "FAILED");
        let text = inspected.text(&PAPER);
        assert!(
            text.contains("+2.500s") && text.contains("TOKEN_EXPIRED: the token ended"),
            "{text}"
        );
    }

    #[test]
    fn an_issued_token_stands_alone_on_its_line() {
        let issued = Issued(v1::IssueTokenResponse {
            token: "a.b.c".into(),
            kid: "k".into(),
            ..Default::default()
        });
        assert_eq!(issued.text(&PAPER), "a.b.c\n");
        assert_eq!(issued.json()["kid"], "k");
    }
}
