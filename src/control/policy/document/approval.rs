//! Approval by people: read, bounded, and checked for what can never be complete.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::fields::{APPROVAL, ESCALATION, PENDING_MAX, PENDING_MIN, STAGE, STEP};
use crate::control::policy::duration::{shorten, write_duration};
use crate::control::policy::read::{Field, Fields, Reader};
use crate::model::approval::{
    ESCALATIONS_MAX, Escalation, PEOPLE_MAX, STAGES_MAX, Stage, Step, unattainable,
};
use crate::model::identity::PrincipalKind;
use crate::model::policy::{LIST_MAX, Matcher, Persons};

impl Reader<'_> {
    /// The stages of `approval`.
    pub(super) fn approval(&mut self, field: &Field<'_>) -> Option<Vec<Stage>> {
        let before = self.findings.errors();
        let fields = self.open(field, APPROVAL)?;
        let listed = self.required(&fields, "stages", "[{name: leads, steps: […]}]")?;
        let entries = self.list(&listed, STAGES_MAX);
        let mut names = BTreeSet::new();
        let stages: Vec<Stage> = entries
            .iter()
            .filter_map(|entry| self.stage(entry, &mut names))
            .collect();
        let people: usize = stages
            .iter()
            .flat_map(|stage| &stage.steps)
            .map(|step| step.approvals)
            .sum();
        if people > PEOPLE_MAX {
            self.error(
                &listed,
                format!("wants {people} people in all; at most {PEOPLE_MAX} can be asked for"),
            );
        }
        if self.findings.errors() > before || stages.is_empty() {
            return None;
        }
        if let Some((stage, step)) = unattainable(&stages, Persons::NONE, |_| false) {
            let cause = format!(
                "can never be complete: step {} of stage {} lists too few people, each of whom counts once in the whole \
                 request; list more, or a group",
                step.name, stage.name
            );
            return self.refuse(&listed, cause);
        }
        Some(stages)
    }

    fn stage(&mut self, entry: &Field<'_>, names: &mut BTreeSet<Arc<str>>) -> Option<Stage> {
        let fields = self.open(entry, STAGE)?;
        let name = self.unique_name(entry, &fields, names);
        let steps = self.required(
            &fields,
            "steps",
            "[{name: leads, approvers: ['group:…|leads']}]",
        )?;
        let mut names = BTreeSet::new();
        let entries = self.list(&steps, STAGES_MAX);
        let steps = entries
            .iter()
            .filter_map(|entry| self.step(entry, &mut names))
            .collect();
        Some(Stage { name: name?, steps })
    }

    fn step(&mut self, entry: &Field<'_>, names: &mut BTreeSet<Arc<str>>) -> Option<Step> {
        let fields = self.open(entry, STEP)?;
        let name = self.unique_name(entry, &fields, names);
        let approvers = self.required(&fields, "approvers", "['group:https://idp.example|leads']");
        let approvers = approvers.map(|field| self.people(&field));
        let count = |reader: &mut Self, field: &Field<'_>| {
            reader
                .integer(field, 1, PEOPLE_MAX as i64)
                .and_then(|count| usize::try_from(count).ok())
        };
        let approvals = self.or(&fields, "approvals", 1, count);
        let denials = self.or(&fields, "denials", 1, count);
        let escalate = self.or(&fields, "escalate", Vec::new(), Self::escalations);
        let (approvers, approvals) = (approvers?, approvals?);
        Some(Step {
            name: name?,
            approvers,
            approvals,
            denials: denials?,
            escalate: escalate?,
        })
    }

    /// Earliest first.
    fn escalations(&mut self, field: &Field<'_>) -> Option<Vec<Escalation>> {
        let entries = self.list(field, ESCALATIONS_MAX);
        let mut escalations: Vec<Escalation> = Vec::new();
        for entry in &entries {
            let Some(escalation) = self.escalation(entry) else {
                continue;
            };
            if escalations
                .iter()
                .any(|other| other.after == escalation.after)
            {
                self.error(
                    entry,
                    "comes after the same time as one above; put their approvers into one",
                );
            }
            escalations.push(escalation);
        }
        escalations.sort_by_key(|escalation| escalation.after);
        (escalations.len() == entries.len() && !escalations.is_empty()).then_some(escalations)
    }

    fn escalation(&mut self, entry: &Field<'_>) -> Option<Escalation> {
        let fields = self.open(entry, ESCALATION)?;
        let after = self.required(&fields, "after", "30m");
        let after = after.and_then(|field| self.duration(&field, PENDING_MIN, PENDING_MAX));
        let approvers = self.required(
            &fields,
            "approvers",
            "['group:https://idp.example|managers']",
        );
        let approvers = approvers.map(|field| self.people(&field));
        Some(Escalation {
            after: after?,
            approvers: approvers?,
        })
    }

    /// What comes when the request is over never comes.
    pub(super) fn escalates_in_time(&mut self, spec: &Fields<'_>, ttl: Duration, stages: &[Stage]) {
        let Some(field) = spec.field("approval") else {
            return;
        };
        for step in stages.iter().flat_map(|stage| &stage.steps) {
            if let Some(late) = step
                .escalate
                .iter()
                .find(|escalation| escalation.after >= ttl)
            {
                let (name, after, ttl) =
                    (&step.name, write_duration(late.after), write_duration(ttl));
                let cause = format!(
                    "step {name} escalates after {after}, but a request waits only {ttl}; raise pendingTtl"
                );
                self.error(&field, cause);
            }
        }
    }

    fn unique_name(
        &mut self,
        entry: &Field<'_>,
        fields: &Fields<'_>,
        names: &mut BTreeSet<Arc<str>>,
    ) -> Option<Arc<str>> {
        let name = self
            .required(fields, "name", "leads")
            .and_then(|field| self.name(&field))?;
        if !names.insert(Arc::clone(&name)) {
            self.error(
                entry,
                format!(
                    "has the name {:?} of one above; give it another",
                    shorten(&name)
                ),
            );
        }
        Some(name)
    }

    /// Users and groups: a workload reviews nothing.
    fn people(&mut self, field: &Field<'_>) -> Vec<Matcher> {
        let entries = self.list(field, LIST_MAX);
        let person = |text: &str| match Matcher::parse(text) {
            Ok(matcher) if matcher.kind() != PrincipalKind::Workload => Ok(matcher),
            Ok(_) => Err("must be a user or a group: only people review".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let mut people: Vec<Matcher> = entries
            .iter()
            .filter_map(|entry| self.parsed(entry, person))
            .collect();
        people.sort();
        people.dedup();
        people
    }
}
