//! The words of a refusal. Names only policies under which the caller may ask; a stranger learns of none.

use std::fmt::Display;

use super::fit::Fit;
use crate::model::policy::{AccessPolicy, Ask, Refusal, RefusalReason};
use crate::model::scope::{Rule, Scope, subset};

/// Most entries of a list that a message repeats.
const SHOWN: usize = 5;

pub(super) fn plain(reason: RefusalReason, field: &'static str, message: String) -> Refusal {
    Refusal {
        reason,
        field,
        message,
        policy: None,
        would: Vec::new(),
    }
}

pub(super) fn by(
    policy: &AccessPolicy,
    reason: RefusalReason,
    field: &'static str,
    message: String,
) -> Refusal {
    Refusal {
        policy: Some(policy.name.clone()),
        ..plain(reason, field, message)
    }
}

/// A pin asserts which policy decides; it never takes a request from a stricter policy to a laxer one.
pub(super) fn another_decides(policy: &AccessPolicy, named: &str) -> Refusal {
    let named: String = named.chars().take(63).collect();
    let message = format!(
        "policy {} (priority {}) decides this request, not {named:?}; name that one, or none",
        policy.name, policy.priority
    );
    by(policy, RefusalReason::PolicyMismatch, "policy", message)
}

pub(super) fn not_covered(nearest: Option<(Fit, &AccessPolicy)>, ask: &Ask<'_>) -> Refusal {
    let nobody = || {
        let message = format!(
            "no policy lets you ask for access to {}; its owner can add you to a policy's requesters",
            ask.scope.service()
        );
        plain(RefusalReason::NoPolicy, "scope", message)
    };
    let Some((fit, policy)) = nearest else {
        return nobody();
    };
    let name = &policy.name;
    match fit {
        Fit::Stranger | Fit::Full => nobody(),
        Fit::Scope => {
            let beyond = ask
                .scope
                .rules()
                .iter()
                .find(|rule| !covered(rule, policy, ask));
            let beyond = beyond.map(Rule::to_string).unwrap_or_default();
            let allowed = some_of(policy.scope.rules());
            let message =
                format!("policy {name} lets you ask for {allowed}, which does not cover {beyond}");
            by(policy, RefusalReason::ScopeNotRequestable, "scope", message)
        }
        Fit::Subject => {
            let own = policy.subjects.own.then_some("yourself".to_owned());
            let others = policy.subjects.others.iter().map(ToString::to_string);
            let allowed = some_of(&own.into_iter().chain(others).collect::<Vec<_>>());
            let message = format!(
                "policy {name} lets you ask for {allowed}, not for {}",
                ask.subject
            );
            by(policy, RefusalReason::SubjectNotAllowed, "subject", message)
        }
        Fit::Via => {
            let allowed = some_of(&policy.via);
            let message = format!(
                "policy {name} lets you ask only through {allowed}; name such workloads, and no other, as via"
            );
            by(policy, RefusalReason::ViaNotAllowed, "via", message)
        }
    }
}

fn covered(rule: &Rule, policy: &AccessPolicy, ask: &Ask<'_>) -> bool {
    Scope::new(ask.scope.service().clone(), vec![rule.clone()])
        .is_ok_and(|one| subset(&one, &policy.scope))
}

fn some_of<T: Display>(items: &[T]) -> String {
    let mut shown: Vec<String> = items.iter().take(SHOWN).map(ToString::to_string).collect();
    if items.len() > SHOWN {
        shown.push(format!("{} more", items.len() - SHOWN));
    }
    match shown.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "nothing".to_owned(),
    }
}
