//! Grants for people: one of them, and lists of them.

use serde_json::Value;

use crate::model::time::Timestamp;
use crate::wire::v1;

use super::text::{block, moment, relative, rules, scope_fields, short, table, versioned};
use super::times::instant;
use super::{TextStyle, View, break_glass, json};

/// One grant, all of it.
#[derive(Debug)]
pub(crate) struct Grant<'a>(pub &'a v1::Grant);

impl View for Grant<'_> {
    fn json(&self) -> Value {
        json::grant(self.0)
    }

    fn text(&self, style: &TextStyle) -> String {
        let grant = self.0;
        let expires = if grant.standing {
            "never: standing".to_owned()
        } else {
            moment(grant.expire_time.as_ref(), style)
        };
        let mut fields = vec![
            ("Grant", grant.id.clone()),
            (
                "State",
                json::state(grant.state().as_str_name(), "GRANT_STATE_"),
            ),
            ("Subject", grant.subject.clone()),
            ("Via", grant.via.join(", ")),
        ];
        fields.extend(scope_fields(grant.scope.as_ref()));
        fields.extend([
            ("Begins", begins(grant, style)),
            (expiry(grant.state()), expires),
            ("Extends", grant.extends.clone()),
            ("Extended by", grant.extended_by.clone()),
            ("Suspended", moment(grant.suspend_time.as_ref(), style)),
            ("Suspended by", grant.suspended_by.clone()),
            ("Held because", grant.suspend_reason.clone()),
            ("Request", grant.request.clone()),
            ("Policy", versioned(&grant.policy, grant.policy_version)),
            ("Approved by rule", grant.auto_rule.clone()),
            (
                "Broken glass",
                break_glass::review(grant.break_glass.as_ref(), style),
            ),
            (
                "Ends unused",
                moment(
                    grant.unused_until.as_ref().filter(|_| grant.use_count == 0),
                    style,
                ),
            ),
            ("Used", used(grant, style)),
            ("Ended", moment(grant.end_time.as_ref(), style)),
            ("Ended by", grant.ended_by.clone()),
            ("Because", grant.end_reason.clone()),
        ]);
        block(&fields)
    }
}

/// What ended early expires no more.
fn expiry(state: v1::GrantState) -> &'static str {
    match state {
        v1::GrantState::Revoked | v1::GrantState::Released => "Was to end",
        v1::GrantState::Expired => "Expired",
        v1::GrantState::Unspecified
        | v1::GrantState::Scheduled
        | v1::GrantState::Active
        | v1::GrantState::Suspended
        | v1::GrantState::Pending => "Expires",
    }
}

/// `3 times, last 5s ago, at payments-1`; nothing without a use that was reported.
pub(super) fn used(grant: &v1::Grant, style: &TextStyle) -> String {
    if grant.last_use_time.is_none() {
        return String::new();
    }
    let times = if grant.use_count == 1 {
        "once".to_owned()
    } else {
        format!("{} times", grant.use_count)
    };
    format!(
        "{times}, last {}, at {}",
        relative(grant.last_use_time.as_ref(), style),
        grant.used_at.join(", ")
    )
}

/// Nothing for a standing grant that names no beginning: it has always been in force.
fn begins(grant: &v1::Grant, style: &TextStyle) -> String {
    let always = grant.standing && instant(grant.not_before.as_ref()) == Some(Timestamp::default());
    if always {
        String::new()
    } else {
        moment(grant.not_before.as_ref(), style)
    }
}

/// Grants, newest first.
#[derive(Debug)]
pub(crate) struct Grants {
    /// The rows.
    pub grants: Vec<v1::Grant>,
    /// The store revision that they were read at.
    pub revision: i64,
}

impl View for Grants {
    fn json(&self) -> Value {
        serde_json::json!({
            "grants": self.grants.iter().map(json::grant).collect::<Vec<_>>(),
            "revision": self.revision,
        })
    }

    fn text(&self, style: &TextStyle) -> String {
        let rows = self.grants.iter().map(|grant| row(grant, style)).collect();
        table(
            style,
            &[
                "ID", "STATE", "SUBJECT", "SERVICE", "ALLOWS", "ENDS", "POLICY",
            ],
            rows,
        )
    }
}

pub(super) fn row(grant: &v1::Grant, style: &TextStyle) -> Vec<String> {
    let scope = grant.scope.as_ref();
    let end = grant.end_time.as_ref().or(grant.expire_time.as_ref());
    vec![
        grant.id.clone(),
        break_glass::state(
            json::state(grant.state().as_str_name(), "GRANT_STATE_"),
            grant.break_glass.as_ref(),
            style,
        ),
        short(&grant.subject),
        scope.map(|scope| scope.service.clone()).unwrap_or_default(),
        rules(scope).join(", "),
        if grant.standing && grant.end_time.is_none() {
            "never".to_owned()
        } else {
            relative(end, style)
        },
        grant.policy.clone(),
    ]
}
