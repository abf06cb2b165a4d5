//! One text for one meaning: the canonical JSON of a policy, and its digest. Lists whose order means nothing are sorted,
//! defaults are written out, and keys are sorted whatever the JSON library does.

use std::sync::Arc;

use crate::support::sha256::Sha256;
use serde_json::{Value, json};

use super::duration::write_duration;
use crate::model::approval::{Escalation, Stage, Step};
use crate::model::grant::Staleness;
use crate::model::policy::{
    AccessPolicy, AutoRule, BreakGlass, EXTENSIONS_DEFAULT, Pattern, Person, PolicyDigest,
    StandingGrant,
};
use crate::model::scope::Scope;
use crate::model::window::{Window, clock};

/// Fills in `canonical` and `digest`.
pub(super) fn seal_policy(policy: &mut AccessPolicy) {
    let mut subjects = sorted(&policy.subjects.others);
    if policy.subjects.own {
        subjects.insert(0, "self".to_owned());
    }
    let content = json!({
        "kind": "AccessPolicy",
        "name": *policy.name,
        "mode": policy.mode.as_str(),
        "priority": policy.priority,
        "requesters": sorted(&policy.requesters),
        "subjects": subjects,
        "via": sorted(&policy.via),
        "scope": scope(&policy.scope),
        "environment": Some(&*policy.environment).filter(|name| !name.is_empty()),
        "allowWildcard": policy.allow_wildcard,
        "duration": {
            "default": write_duration(policy.duration.default),
            "max": write_duration(policy.duration.max),
            "unusedTtl": policy.duration.unused_ttl.map(write_duration),
            // Left out when they say what goes without saying: the digest is what it was before there were any.
            "maxExtensions": Some(policy.duration.max_extensions).filter(|count| *count != EXTENSIONS_DEFAULT),
            "maxTotal": Some(policy.duration.max_total)
                .filter(|total| *total != policy.duration.max)
                .map(write_duration),
        },
        "windows": windows(&policy.windows),
        "pendingTtl": write_duration(policy.pending_ttl),
        "reason": {
            "required": policy.reason.required,
            "minLength": policy.reason.min_length,
            "pattern": policy.reason.pattern.as_ref().map(Pattern::as_str),
            "help": policy.reason.help.as_deref(),
        },
        "tickets": {
            "required": policy.tickets.required,
            "pattern": policy.tickets.pattern.as_ref().map(Pattern::as_str),
            "help": policy.tickets.help.as_deref(),
        },
        "auto": policy.auto.iter().map(rule).collect::<Vec<_>>(),
        "staleness": staleness(policy.staleness),
        "approval": approval(&policy.approval),
        "breakGlass": policy.break_glass.as_ref().map(break_glass),
    });
    (policy.canonical, policy.digest) = seal(&content);
}

/// Fills in `canonical` and `digest`.
pub(super) fn seal_standing(grant: &mut StandingGrant) {
    let content = json!({
        "kind": "StandingGrant",
        "name": *grant.name,
        "subject": grant.subject.as_str(),
        "via": sorted(&grant.via),
        "scope": scope(&grant.scope),
        "staleness": staleness(grant.staleness),
        "notBefore": grant.not_before.to_string(),
    });
    (grant.canonical, grant.digest) = seal(&content);
}

/// Fills in `canonical` and `digest`.
pub(super) fn seal_person(person: &mut Person) {
    let content =
        json!({ "kind": "Person", "name": *person.name, "accounts": sorted(&person.accounts) });
    (person.canonical, person.digest) = seal(&content);
}

/// One digest for a set, whatever the order.
pub(super) fn set_digest(mut digests: Vec<PolicyDigest>) -> PolicyDigest {
    digests.sort();
    let mut hash = Sha256::new();
    for digest in &digests {
        hash.update(digest.0);
    }
    PolicyDigest(hash.finalize())
}

/// Nothing for a policy without people, so that its digest is what it always was.
fn approval(stages: &[Stage]) -> Value {
    if stages.is_empty() {
        return Value::Null;
    }
    let escalation = |escalation: &Escalation| json!({ "after": write_duration(escalation.after), "approvers": sorted(&escalation.approvers) });
    let step = |step: &Step| {
        json!({
            "name": *step.name,
            "approvers": sorted(&step.approvers),
            "approvals": step.approvals,
            "denials": step.denials,
            "escalate": (!step.escalate.is_empty())
                .then(|| step.escalate.iter().map(escalation).collect::<Vec<_>>()),
        })
    };
    let stage = |stage: &Stage| json!({ "name": *stage.name, "steps": stage.steps.iter().map(step).collect::<Vec<_>>() });
    json!({ "stages": stages.iter().map(stage).collect::<Vec<_>>() })
}

/// Nothing for a policy without windows, for the same reason.
fn windows(windows: &[Window]) -> Value {
    let window = |window: &Window| {
        json!({
            "days": window.days.names().collect::<Vec<_>>(),
            "from": clock(window.from),
            "to": clock(window.to),
            "timeZone": *window.zone,
        })
    };
    if windows.is_empty() {
        Value::Null
    } else {
        windows.iter().map(window).collect()
    }
}

fn break_glass(rule: &BreakGlass) -> Value {
    json!({
        "who": sorted(&rule.who),
        "maxDuration": write_duration(rule.max_duration),
        "reviewWithin": write_duration(rule.review_within),
        "reasonMin": rule.reason_min,
    })
}

fn rule(rule: &AutoRule) -> Value {
    json!({
        "name": *rule.name,
        "when": *rule.when,
        "effect": rule.effect.as_str(),
        "maxDuration": rule.max_duration.map(write_duration),
        "message": rule.message.as_deref(),
    })
}

fn scope(scope: &Scope) -> Value {
    json!({ "service": scope.service().as_str(), "rules": sorted(scope.rules()) })
}

fn staleness(staleness: Staleness) -> &'static str {
    match staleness {
        Staleness::Strict => "strict",
        Staleness::LastKnown => "lastKnown",
    }
}

fn sorted<T: ToString>(items: &[T]) -> Vec<String> {
    let mut texts: Vec<String> = items.iter().map(T::to_string).collect();
    texts.sort();
    texts.dedup();
    texts
}

fn seal(content: &Value) -> (Arc<str>, PolicyDigest) {
    let mut text = String::new();
    write(content, &mut text);
    let digest = PolicyDigest(Sha256::digest(&text));
    (text.into(), digest)
}

/// JSON with sorted keys and no blanks. Absent values are left out.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().filter(|(_, value)| !value.is_null()).collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        scalar @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
            out.push_str(&scalar.to_string());
        }
    }
}
