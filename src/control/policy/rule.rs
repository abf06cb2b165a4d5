//! One access request against a set: which policy is in charge, and what it says. The first policy in order of priority
//! that covers the request decides; what it refuses, no other policy allows.

use std::sync::Arc;
use std::time::Duration;

use super::condition::{Bindings, Condition};
use super::duration::{shorten, write_duration};
use super::found::Policy;
use super::set::PolicySet;
use crate::model::identity::{Principal, Service};
use crate::model::policy::{
    AccessPolicy, Ask, AutoRule, Effect, Mode, Outcome, PolicyDecision, PolicyPin, Refusal, Would,
};
use crate::model::scope::covers;
use crate::model::target::Target;

mod break_glass;
mod fit;
mod refuse;
mod terms;

use fit::{Fit, fit, may_ask};

impl PolicySet {
    /// Rules on an access request.
    ///
    /// # Errors
    /// [`Refusal`]: no policy takes the request as it is, and its message says what would have to change.
    pub fn rule(&self, ask: &Ask<'_>) -> Result<PolicyDecision, Refusal> {
        terms::within_limits(ask)?;
        let would = self.would(ask);
        let ruled = self.in_charge(ask).and_then(|policy| {
            let (outcome, notes) = judge(policy, ask)?;
            Ok(PolicyDecision {
                policy: pin(&policy.loaded.policy),
                outcome,
                notes,
                would: Vec::new(),
            })
        });
        match ruled {
            Ok(decision) => Ok(PolicyDecision { would, ..decision }),
            Err(refusal) => Err(Refusal { would, ..refusal }),
        }
    }

    /// Names of the enforced policies under which such a caller may ask for something at the service; with a target,
    /// only those whose scope covers it. Highest priority first.
    pub fn requestable(
        &self,
        caller: &[Principal],
        service: &Service,
        target: Option<&Target<'_>>,
    ) -> Vec<Arc<str>> {
        self.policies()
            .filter(|policy| policy.mode == Mode::Enforce && policy.scope.service() == service)
            .filter(|policy| may_ask(policy, caller))
            .filter(|policy| target.is_none_or(|target| covers(&policy.scope, target)))
            .map(|policy| Arc::clone(&policy.name))
            .collect()
    }

    fn in_charge(&self, ask: &Ask<'_>) -> Result<&Policy, Refusal> {
        let mut nearest: Option<(Fit, &AccessPolicy)> = None;
        for candidate in self
            .policies
            .iter()
            .filter(|policy| policy.loaded.policy.mode == Mode::Enforce)
        {
            let policy = &candidate.loaded.policy;
            match fit(policy, ask) {
                Fit::Full => {
                    return match ask.policy {
                        Some(name) if name != &*policy.name => {
                            Err(refuse::another_decides(policy, name))
                        }
                        Some(_) | None => Ok(candidate),
                    };
                }
                fit if nearest.is_none_or(|(best, _)| fit > best) => nearest = Some((fit, policy)),
                Fit::Stranger | Fit::Scope | Fit::Subject | Fit::Via => {}
            }
        }
        Err(refuse::not_covered(nearest, ask))
    }

    fn would(&self, ask: &Ask<'_>) -> Vec<Would> {
        let shadows = self
            .policies
            .iter()
            .filter(|policy| policy.loaded.policy.mode == Mode::Shadow);
        let covering = shadows.filter(|policy| fit(&policy.loaded.policy, ask) == Fit::Full);
        covering
            .map(|candidate| {
                let (outcome, detail) = match judge(candidate, ask) {
                    Ok((outcome, notes)) => (outcome.as_str(), detail(&outcome, &notes)),
                    Err(refusal) => (refusal.reason.as_str(), refusal.message),
                };
                Would {
                    policy: pin(&candidate.loaded.policy),
                    outcome,
                    detail,
                }
            })
            .collect()
    }
}

fn pin(policy: &AccessPolicy) -> PolicyPin {
    PolicyPin {
        name: policy.name.clone(),
        digest: policy.digest,
    }
}

fn detail(outcome: &Outcome, notes: &[String]) -> String {
    match outcome {
        Outcome::Approved { duration, rule, .. } => {
            format!("rule {rule} for {}", write_duration(*duration))
        }
        Outcome::BreakGlass { duration, .. } => {
            format!("the glass is broken for {}", write_duration(*duration))
        }
        Outcome::Denied { rule, message } => format!("rule {rule}: {message}"),
        Outcome::Pending { .. } if notes.is_empty() => "no rule matches".to_owned(),
        Outcome::Pending { .. } => notes.join("; "),
    }
}

/// What a policy that covers the request makes of it.
fn judge(candidate: &Policy, ask: &Ask<'_>) -> Result<(Outcome, Vec<String>), Refusal> {
    let policy = &candidate.loaded.policy;
    let duration = terms::accept(policy, ask)?;
    let glass = if ask.break_glass {
        Some(break_glass::accept(policy, ask)?)
    } else {
        None
    };
    let duration = glass.map_or(duration, |(duration, _)| duration);
    let rules: Vec<(&AutoRule, &Condition)> = policy
        .auto
        .iter()
        .zip(&candidate.loaded.conditions)
        .collect();
    let bindings = Bindings::new(ask, duration, &policy.environment);
    if let Some(denied) = denial(policy, &rules, &bindings) {
        return Ok((denied, Vec::new()));
    }
    let staleness = policy.staleness;
    if let Some((duration, review_within)) = glass {
        return Ok((
            Outcome::BreakGlass {
                duration,
                review_within,
                staleness,
            },
            Vec::new(),
        ));
    }
    let pending = Outcome::Pending {
        duration,
        pending_ttl: policy.pending_ttl,
        staleness,
    };
    let mut notes = Vec::new();
    let approved = if ask.people_only {
        notes.push(
            "the glass was broken for the grant that this extends: no rule approves it".to_owned(),
        );
        None
    } else {
        approval(policy, &rules, &bindings, duration, &mut notes)
    };
    Ok((approved.unwrap_or(pending), notes))
}

/// The first denying rule that holds, or that cannot tell.
fn denial(
    policy: &AccessPolicy,
    rules: &[(&AutoRule, &Condition)],
    bindings: &Bindings,
) -> Option<Outcome> {
    rules.iter().filter(|(rule, _)| rule.effect == Effect::Deny).find_map(|(rule, condition)| {
        let message = match holds(condition, bindings) {
            Ok(false) => return None,
            Ok(true) => match &rule.message {
                Some(message) => message.to_string(),
                None => denied(policy, rule, condition, bindings),
            },
            Err(cause) => format!(
                "rule {} of policy {} cannot be evaluated: its condition {cause}; until it can, it denies",
                rule.name, policy.name
            ),
        };
        Some(Outcome::Denied { rule: rule.name.clone(), message })
    })
}

/// For a rule that has no words of its own: which of its alternatives holds.
fn denied(
    policy: &AccessPolicy,
    rule: &AutoRule,
    condition: &Condition,
    bindings: &Bindings,
) -> String {
    let cause = bindings
        .context()
        .ok()
        .and_then(|context| condition.cause(context));
    let cause = cause
        .map(|cause| format!(", because this holds: {}", shorten(cause)))
        .unwrap_or_default();
    format!(
        "rule {} of policy {} denies this{cause}",
        rule.name, policy.name
    )
}

/// The first approving rule that takes this duration and holds; why others nearly did goes to the notes.
fn approval(
    policy: &AccessPolicy,
    rules: &[(&AutoRule, &Condition)],
    bindings: &Bindings,
    duration: Duration,
    notes: &mut Vec<String>,
) -> Option<Outcome> {
    for (rule, condition) in rules
        .iter()
        .filter(|(rule, _)| rule.effect == Effect::Approve)
    {
        match holds(condition, bindings) {
            Ok(false) => {}
            Ok(true) => match rule.max_duration {
                Some(max) if duration > max => notes.push(format!(
                    "rule {} approves at most {}, and this asks for {}",
                    rule.name,
                    write_duration(max),
                    write_duration(duration)
                )),
                Some(_) | None => {
                    let (rule, message) = (rule.name.clone(), rule.message.clone());
                    return Some(Outcome::Approved {
                        duration,
                        rule,
                        message,
                        staleness: policy.staleness,
                    });
                }
            },
            Err(cause) => notes.push(format!(
                "rule {} does not match: its condition {cause}",
                rule.name
            )),
        }
    }
    None
}

fn holds(condition: &Condition, bindings: &Bindings) -> Result<bool, String> {
    condition.holds(bindings.context()?)
}

#[cfg(test)]
mod tests;
