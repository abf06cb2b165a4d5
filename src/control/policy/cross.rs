//! What no single document shows: names used twice, and policies of equal rank that would decide the same request
//! differently. The overlap test errs towards reporting; a different priority always settles it.

use std::collections::BTreeMap;

use super::found::{Found, PersonDocument, Policy};
use super::problem::{Place, Problem, Severity};
use crate::model::identity::Principal;
use crate::model::identity::PrincipalKind;
use crate::model::policy::{AccessPolicy, Matcher, Mode};
use crate::model::scope::overlaps;

/// Checks documents against one another.
pub(super) fn check(found: &mut Found) {
    let mut problems = Vec::new();
    let policies = found.policies.iter().map(|policy| {
        (
            &*policy.loaded.policy.name,
            &policy.file,
            policy.loaded.name,
        )
    });
    unique("AccessPolicy", policies, &mut problems);
    let standing = found
        .standing
        .iter()
        .map(|standing| (&*standing.grant.name, &standing.file, standing.name));
    unique("StandingGrant", standing, &mut problems);
    let persons = found
        .persons
        .iter()
        .map(|of| (&*of.loaded.person.name, &of.file, of.loaded.name));
    unique("Person", persons, &mut problems);
    one_person_each(found, &mut problems);
    let deciding: Vec<&Policy> = found
        .policies
        .iter()
        .filter(|policy| policy.loaded.policy.mode == Mode::Enforce)
        .collect();
    for (index, later) in deciding.iter().enumerate() {
        // One is enough to act on.
        problems.extend(
            deciding
                .iter()
                .take(index)
                .find_map(|earlier| conflict(earlier, later)),
        );
    }
    found.problems.append(&mut problems);
}

fn unique<'a>(
    kind: &str,
    documents: impl Iterator<Item = (&'a str, &'a std::path::PathBuf, Place)>,
    problems: &mut Vec<Problem>,
) {
    let mut first = BTreeMap::new();
    for (name, file, place) in documents {
        let Some((other_file, other)) = first.insert(name, (file, place)) else {
            continue;
        };
        let there: &std::path::PathBuf = other_file;
        problems.push(Problem {
            file: file.clone(),
            place,
            path: "metadata.name".to_owned(),
            cause: format!(
                "the {kind} {name} is declared at {}:{}:{} already; rename or remove one",
                there.display(),
                other.line,
                other.column
            ),
            severity: Severity::Error,
        });
    }
}

/// An account that two persons share would make them one, and nobody could say which.
fn one_person_each(found: &Found, problems: &mut Vec<Problem>) {
    let mut first: BTreeMap<&Principal, (&str, &std::path::PathBuf, Place)> = BTreeMap::new();
    for PersonDocument { loaded, file, .. } in &found.persons {
        let name = &*loaded.person.name;
        for (index, (account, place)) in loaded
            .person
            .accounts
            .iter()
            .zip(&loaded.accounts)
            .enumerate()
        {
            let Some((other, there, at)) = first.insert(account, (name, file, *place)) else {
                continue;
            };
            problems.push(Problem {
                file: file.clone(),
                place: *place,
                path: format!("spec.accounts[{index}]"),
                cause: format!(
                    "{account} is an account of {name} here and of {other} at {}:{}:{}; an account belongs to one person",
                    there.display(),
                    at.line,
                    at.column
                ),
                severity: Severity::Error,
            });
        }
    }
}

fn conflict(earlier: &Policy, later: &Policy) -> Option<Problem> {
    let (a, b) = (&earlier.loaded.policy, &later.loaded.policy);
    if a.name == b.name || a.priority != b.priority || same_effect(a, b) || !compete(a, b) {
        return None;
    }
    Some(Problem {
        file: later.file.clone(),
        place: later.loaded.priority,
        path: "spec.priority".to_owned(),
        cause: format!(
            "is {} as in policy {} ({}:{}), and both can apply to one request with different effect; \
             give one of them another priority",
            b.priority,
            a.name,
            earlier.file.display(),
            earlier.loaded.name.line
        ),
        severity: Severity::Error,
    })
}

/// Whether it makes no difference which of them decides.
fn same_effect(a: &AccessPolicy, b: &AccessPolicy) -> bool {
    (a.allow_wildcard, a.duration, a.pending_ttl, a.staleness)
        == (b.allow_wildcard, b.duration, b.pending_ttl, b.staleness)
        && (&a.reason, &a.tickets, &a.auto, &a.approval)
            == (&b.reason, &b.tickets, &b.auto, &b.approval)
        && (&a.windows, &a.break_glass, &a.environment)
            == (&b.windows, &b.break_glass, &b.environment)
}

/// Whether some request may fall under both.
fn compete(a: &AccessPolicy, b: &AccessPolicy) -> bool {
    let via = a.via.is_empty() || b.via.is_empty() || any_pair(&a.via, &b.via, Matcher::meets);
    let subjects = (a.subjects.own || b.subjects.own)
        || any_pair(&a.subjects.others, &b.subjects.others, Matcher::meets);
    via && subjects
        && any_pair(&a.requesters, &b.requesters, one_caller)
        && overlaps(&a.scope, &b.scope)
}

/// Whether one caller can satisfy both. A caller has one user and one workload identity, but any number of groups.
fn one_caller(a: &Matcher, b: &Matcher) -> bool {
    a.kind() != b.kind() || a.kind() == PrincipalKind::Group || a.meets(b)
}

fn any_pair(a: &[Matcher], b: &[Matcher], test: impl Fn(&Matcher, &Matcher) -> bool) -> bool {
    a.iter().any(|left| b.iter().any(|right| test(left, right)))
}
