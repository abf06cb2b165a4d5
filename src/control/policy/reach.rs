//! What stands in a policy and can never decide: shadowed by another policy, after a rule that always matches, waiting for
//! people who are all barred. Each is a warning with its place; only what is certain is reported.

use super::found::{Found, Policy};
use super::problem::{Findings, Problem};
use crate::model::approval::unattainable;
use crate::model::identity::PrincipalKind;
use crate::model::policy::{
    AccessPolicy, AutoRule, Effect, Matcher, Mode, Person, Persons, Subjects,
};
use crate::model::scope::{Rule, subset};

/// Everything of that kind.
pub(super) fn unreachable(found: &Found) -> Vec<Problem> {
    let mut problems = Vec::new();
    let persons: Vec<Person> = found
        .persons
        .iter()
        .map(|of| of.loaded.person.clone())
        .collect();
    let persons = Persons::new(&persons);
    let deciding: Vec<&Policy> = found
        .policies
        .iter()
        .filter(|policy| policy.loaded.policy.mode == Mode::Enforce)
        .collect();
    for policy in &deciding {
        let mut findings = Findings::default();
        shadowed(policy, &deciding, &mut findings);
        undecided(policy, &persons, &mut findings);
        needless(policy, &mut findings);
        problems.extend(findings.name(&policy.file));
    }
    problems
}

/// Every request that it would decide is decided by one of higher priority.
fn shadowed(policy: &Policy, deciding: &[&Policy], findings: &mut Findings) {
    let own = &policy.loaded.policy;
    let above = |other: &&&Policy| {
        let other = &other.loaded.policy;
        other.priority > own.priority && reaches_as_far(other, own)
    };
    let above: Vec<&&Policy> = deciding.iter().filter(above).collect();
    let taken = |who: &Matcher| {
        above
            .iter()
            .find(|other| includes(&other.loaded.policy.requesters, who))
    };
    let Some(takers) = own.requesters.iter().map(taken).collect::<Option<Vec<_>>>() else {
        return;
    };
    let Some(first) = takers.first() else { return };
    findings.warning(
        policy.places.name,
        "metadata.name",
        format!(
            "policy {} never decides: {} ({}:{}, priority {}) takes every request that it covers; raise its priority \
             above {}, narrow the other, or remove one",
            own.name,
            first.loaded.policy.name,
            first.file.display(),
            first.loaded.name.line,
            first.loaded.policy.priority,
            takers.iter().map(|taker| taker.loaded.policy.priority).max().unwrap_or_default(),
        ),
    );
}

/// Whether whatever fits `inner` but for its requester fits `outer`, too.
fn reaches_as_far(outer: &AccessPolicy, inner: &AccessPolicy) -> bool {
    let via = outer.via.is_empty()
        || (!inner.via.is_empty() && inner.via.iter().all(|via| includes(&outer.via, via)));
    via && subjects(&outer.subjects, &inner.subjects) && subset(&inner.scope, &outer.scope)
}

fn subjects(outer: &Subjects, inner: &Subjects) -> bool {
    (outer.own || !inner.own)
        && inner
            .others
            .iter()
            .all(|other| includes(&outer.others, other))
}

/// Whether whoever `who` means is meant by one of these.
fn includes(these: &[Matcher], who: &Matcher) -> bool {
    these.iter().any(|one| {
        one == who
            || match who {
                Matcher::Exact(principal) => one.matches(principal),
                Matcher::Workload(_) | Matcher::AnyUser(_) => false,
            }
    })
}

/// Requests under it wait for people, and none can come.
fn undecided(policy: &Policy, persons: &Persons, findings: &mut Findings) {
    let own = &policy.loaded.policy;
    if own.approval.is_empty() {
        if !own.auto.iter().any(|rule| rule.effect == Effect::Approve) {
            let cause = format!(
                "nothing can approve a request under policy {}: it has neither an approving rule nor approval stages; add \
                 auto or approval, or set mode: disabled",
                own.name
            );
            findings.warning(policy.places.name, "spec", cause);
        }
        return;
    }
    let people = own.requesters.iter().filter_map(|matcher| match matcher {
        Matcher::Exact(principal) if principal.kind() == PrincipalKind::User => Some(principal),
        Matcher::Exact(_) | Matcher::Workload(_) | Matcher::AnyUser(_) => None,
    });
    for requester in people {
        let Some((stage, step)) = unattainable(&own.approval, persons, |account| {
            persons.same(account, requester)
        }) else {
            continue;
        };
        let cause = format!(
            "step {} of stage {} cannot be complete when {requester} asks, who does not approve their own request; list \
             more people, or a group",
            step.name, stage.name
        );
        findings.warning(policy.places.approval, "spec.approval", cause);
    }
}

/// It says something that makes no difference.
fn needless(policy: &Policy, findings: &mut Findings) {
    let own = &policy.loaded.policy;
    let always = own
        .auto
        .iter()
        .zip(&policy.loaded.conditions)
        .find(|(rule, condition)| {
            condition.constant() == Some(true)
                && (rule.effect == Effect::Deny || takes_any_length(rule, own))
        });
    if let (Some((rule, _)), false) = (always, own.approval.is_empty()) {
        let cause = format!(
            "nobody is ever asked to approve: rule {} always decides first; give it a condition, or remove approval",
            rule.name
        );
        findings.warning(policy.places.approval, "spec.approval", cause);
    }
    if own.allow_wildcard && !own.scope.rules().iter().any(Rule::has_wildcard) {
        let cause = "permits wildcards that the scope has none of; remove it, or widen the scope";
        findings.warning(policy.places.wildcard, "spec.allowWildcard", cause);
    }
}

fn takes_any_length(rule: &AutoRule, policy: &AccessPolicy) -> bool {
    rule.max_duration
        .is_none_or(|max| max >= policy.duration.max)
}

#[cfg(test)]
mod tests {
    use crate::control::policy::examine;
    use crate::control::policy::tests::{GOOD, directory};

    fn found(text: &str) -> Vec<String> {
        let dir = directory(&[("a.yaml", text)]);
        let prefix = format!("{}/", dir.path().display());
        examine(dir.path())
            .problems
            .iter()
            .map(|problem| problem.to_string().replace(&prefix, ""))
            .collect()
    }

    fn named(name: &str, more: &str) -> String {
        format!(
            "{}  auto: [{{name: yes, when: 'size(request.tickets) > 0', effect: APPROVE}}]\n{more}---\n",
            GOOD.replace("name: pay", &format!("name: {name}"))
        )
    }

    #[test]
    fn a_policy_that_another_always_comes_before_is_named_with_both_places() {
        let lines = found(&format!(
            "{}{}",
            named("low", ""),
            named("high", "  priority: 5\n")
        ));
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(
            lines[0].starts_with(
                "a.yaml:3:18: warning: metadata.name: policy low never decides: high ("
            ),
            "{lines:?}"
        );
        assert!(
            lines[0].contains("a.yaml:12, priority 5)") && lines[0].contains("above 5"),
            "{lines:?}"
        );
    }

    #[test]
    fn a_policy_is_shadowed_by_several_together() {
        let both = named("low", "").replace("sre']", "sre', 'group:https://idp.example|ops']");
        let (sre, ops) = (
            named("one", "  priority: 5\n"),
            named("two", "  priority: 6\n").replace("|sre", "|ops"),
        );
        assert_eq!(
            found(&format!("{both}{sre}")),
            [""; 0],
            "ops has it for itself"
        );
        assert_eq!(found(&format!("{both}{sre}{ops}")).len(), 1);
    }

    #[test]
    fn what_reaches_further_in_any_way_is_not_shadowed() {
        let high = named("high", "  priority: 5\n");
        for (from, to) in [
            ("GET /v1/users/{id}", "GET,HEAD /v1/users/{id}"),
            (
                "duration:",
                "subjects: ['spiffe://td/ns/shop/sa/*']\n  duration:",
            ),
            (
                "'group:https://idp.example|sre'",
                "'user:https://idp.example|*'",
            ),
            ("duration:", "mode: shadow\n  duration:"),
        ] {
            let low = named("low", "").replace(from, to);
            assert_eq!(found(&format!("{low}{high}")), [""; 0], "{to}");
        }
        let narrow = high.replace(
            "duration:",
            "via: ['spiffe://td/ns/edge/sa/gw']\n  duration:",
        );
        assert_eq!(found(&format!("{}{narrow}", named("low", ""))), [""; 0]);
    }

    #[test]
    fn approval_by_nobody_is_a_warning_where_it_stands() {
        assert!(
            found(GOOD)[0].starts_with("a.yaml:3:18: warning: spec: nothing can approve a request"),
            "{:?}",
            found(GOOD)
        );
        let own = GOOD.replace(
            "'group:https://idp.example|sre'",
            "'user:https://idp.example|alice'",
        );
        let stages = "  approval:\n    stages: [{name: s, steps: [{name: t, approvers: ['user:https://idp.example|alice']}]}]\n";
        let lines = found(&format!("{own}{stages}"));
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(
            lines[0].starts_with("a.yaml:9:5: warning: spec.approval: step t of stage s cannot"),
            "{lines:?}"
        );
        let others = stages.replace("|alice", "|bob");
        assert_eq!(found(&format!("{own}{others}")), [""; 0]);
        let always = "  auto: [{name: yes, when: 'true', effect: APPROVE}]\n";
        let lines = found(&format!("{own}{others}{always}"));
        assert!(
            lines[0].starts_with("a.yaml:9:5: warning: spec.approval: nobody is ever asked"),
            "{lines:?}"
        );
        assert_eq!(
            found(&format!(
                "{own}{others}{}",
                always.replace("APPROVE", "APPROVE, maxDuration: 30m")
            )),
            [""; 0]
        );
    }

    #[test]
    fn a_permission_for_wildcards_that_nothing_uses_is_a_warning() {
        let lines = found(&named("pay", "  allowWildcard: true\n"));
        assert!(
            lines[0].starts_with("a.yaml:9:18: warning: spec.allowWildcard: permits wildcards"),
            "{lines:?}"
        );
        let wide = named("pay", "  allowWildcard: true\n").replace("users/{id}", "users/*");
        assert_eq!(found(&wide), [""; 0]);
    }
}
