//! Automatic rules: read, compiled, and checked against their neighbours.

use std::collections::BTreeSet;

use super::fields::{AUTO, AUTO_MAX};
use crate::control::policy::condition::Condition;
use crate::control::policy::duration::{parse_duration, shorten, write_duration};
use crate::control::policy::read::{Field, Reader};
use crate::model::policy::{AutoRule, DURATION_MIN, DurationRule, Effect};

impl Reader<'_> {
    /// The rules of `auto`, each with its condition.
    pub(super) fn auto(
        &mut self,
        field: &Field<'_>,
        policy: Option<&DurationRule>,
    ) -> Option<Vec<(AutoRule, Condition)>> {
        let entries = self.list(field, AUTO_MAX);
        let mut names = BTreeSet::new();
        let mut rules = Vec::new();
        for entry in &entries {
            let Some((rule, condition)) = self.auto_rule(entry, policy) else {
                continue;
            };
            if !names.insert(rule.name.clone()) {
                self.error(
                    entry,
                    format!(
                        "has the name {:?} of a rule above; give it another",
                        shorten(&rule.name)
                    ),
                );
            }
            rules.push((rule, condition));
        }
        if rules.len() == entries.len() && !rules.is_empty() {
            self.warn_of_dead_rules(&entries, &rules, policy);
            return Some(rules);
        }
        None
    }

    fn auto_rule(
        &mut self,
        entry: &Field<'_>,
        policy: Option<&DurationRule>,
    ) -> Option<(AutoRule, Condition)> {
        let fields = self.open(entry, AUTO)?;
        let name = self
            .required(&fields, "name", "on-call")
            .and_then(|field| self.name(&field));
        let when = self.required(&fields, "when", "'…' in requester.groups");
        let when = when.and_then(|field| Some((self.text(&field)?, self.condition(&field)?)));
        let effects = [("APPROVE", Effect::Approve), ("DENY", Effect::Deny)];
        let effect = self
            .required(&fields, "effect", "APPROVE")
            .and_then(|field| self.choice(&field, &effects));
        let longest = policy.map_or(crate::model::policy::DURATION_MAX, |policy| policy.max);
        let max_duration = self.or(&fields, "maxDuration", None, |reader, field| {
            if effect == Some(Effect::Deny) {
                return reader.refuse(
                    field,
                    "means nothing on a denial; write request.duration into its condition",
                );
            }
            let value = reader.parsed(field, parse_duration)?;
            if (DURATION_MIN..=longest).contains(&value) {
                return Some(Some(value));
            }
            let longest = write_duration(longest);
            reader.refuse(
                field,
                format!("must be from 1s to the policy's duration.max of {longest}"),
            )
        });
        let message = self.or(&fields, "message", None, Self::words);
        let (when, condition) = when?;
        let rule = AutoRule {
            name: name?,
            when: when.trim().into(),
            effect: effect?,
            max_duration: max_duration?,
            message: message?,
        };
        Some((rule, condition))
    }

    fn condition(&mut self, field: &Field<'_>) -> Option<Condition> {
        let text = self.text(field)?;
        match Condition::compile(text) {
            Ok(condition) => Some(condition),
            Err(errors) => {
                for error in errors {
                    let place = self.within(field, text, error.line, error.column);
                    let cause = match place == field.place() {
                        true if error.line > 1 => {
                            format!("{} (line {} of it)", error.cause, error.line)
                        }
                        _ => error.cause,
                    };
                    self.findings.error(place, &field.path, cause);
                }
                None
            }
        }
    }

    fn warn_of_dead_rules(
        &mut self,
        entries: &[Field<'_>],
        rules: &[(AutoRule, Condition)],
        policy: Option<&DurationRule>,
    ) {
        let denial = rules
            .iter()
            .position(|rule| is_constant(rule, Effect::Deny, true));
        for (index, (entry, (rule, condition))) in entries.iter().zip(rules).enumerate() {
            let mut warn = |cause: String| self.findings.warning(entry.place(), &entry.path, cause);
            if condition.constant() == Some(false) {
                warn(format!(
                    "rule {} never matches: its condition is false; remove it",
                    rule.name
                ));
                continue;
            }
            let denied = denial
                .is_some_and(|at| at < index || (at > index && rule.effect == Effect::Approve));
            let before = rules.iter().take(index);
            let shadowed = rule.effect == Effect::Approve
                && before.clone().any(|earlier| takes_all_of(earlier, rule));
            if denied || shadowed {
                warn(format!(
                    "rule {} decides nothing: another rule always matches first; remove one",
                    rule.name
                ));
            }
            if let (Some(policy), Some(limit)) = (policy, rule.max_duration)
                && limit < policy.default
            {
                let (default, limit) = (write_duration(policy.default), write_duration(limit));
                warn(format!(
                    "rule {} takes at most {limit}, and a request that does not say how long asks for {default}; \
                     lower duration.default or raise maxDuration",
                    rule.name
                ));
            }
        }
    }
}

fn is_constant((rule, condition): &(AutoRule, Condition), effect: Effect, value: bool) -> bool {
    rule.effect == effect && condition.constant() == Some(value)
}

/// Whether an approving rule before leaves nothing for this one.
fn takes_all_of(earlier: &(AutoRule, Condition), rule: &AutoRule) -> bool {
    let long_enough = match (earlier.0.max_duration, rule.max_duration) {
        (None, _) => true,
        (Some(earlier), Some(own)) => own <= earlier,
        (Some(_), None) => false,
    };
    is_constant(earlier, Effect::Approve, true) && long_enough
}
