//! Counting anew: which reviews still count, by the policy and the persons that are in force at that moment. Who has lost the right to
//! approve has lost it for what they approved before, too; nothing here gives anybody a right that the pinned policy did not.

use std::sync::Arc;

use super::{Review, Stage, Step};
use crate::model::access::AccessRequest;
use crate::model::identity::Principal;
use crate::model::policy::Persons;

/// What is in force at the moment of counting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InForce<'f> {
    /// The stages of the policy of that name; `None`: it is not enforced any more.
    pub stages: Option<&'f [Stage]>,
    /// Whose accounts belong together.
    pub persons: &'f Persons,
}

impl AccessRequest {
    /// Notes at each review of a pending request whether it counts, and why not.
    pub(crate) fn recheck(&mut self, in_force: &InForce<'_>) {
        let mut reviews = std::mem::take(&mut self.reviews);
        for at in 0..reviews.len() {
            let (before, rest) = reviews.split_at_mut(at);
            let Some(review) = rest.first_mut() else {
                break;
            };
            review.void = self.void(review, before, in_force).map(Into::into);
        }
        self.reviews = reviews;
    }

    /// Whether the principal asked for it or is to get it, be it by another account of the same person.
    pub(crate) fn concerns_person(&self, principal: &Principal, persons: &Persons) -> bool {
        [&self.requester, &self.terms.subject]
            .into_iter()
            .any(|concerned| persons.same(concerned, principal))
    }

    fn void(&self, review: &Review, before: &[Review], in_force: &InForce<'_>) -> Option<String> {
        let (persons, policy) = (in_force.persons, &self.terms.policy.name);
        if self.concerns_person(&review.reviewer, persons) {
            return Some(match persons.of(&review.reviewer) {
                Some(person) => {
                    format!("an account of {person}, who asked for access or is to get it")
                }
                None => "whoever asked for access or is to get it does not review it".to_owned(),
            });
        }
        if let Some(person) = persons.of(&review.reviewer)
            && before
                .iter()
                .any(|earlier| persons.same(&earlier.reviewer, &review.reviewer))
        {
            return Some(format!(
                "another account of {person} has reviewed already, and a person counts once"
            ));
        }
        let Some(stages) = in_force.stages else {
            return Some(format!("policy {policy} is not in force any more"));
        };
        let confirmed = each(&self.stages).any(|(stage, step)| {
            step.admits(&review.proven, review.waited) && is_confirmed(review, stage, step, stages)
        });
        (!confirmed).then(|| format!("no approver under policy {policy} as it is in force now"))
    }
}

/// Whether the step of the same name, or any step where there is none of that name, still admits the reviewer.
fn is_confirmed(review: &Review, stage: &Arc<str>, step: &Step, in_force: &[Stage]) -> bool {
    let admits = |step: &Step| step.admits(&review.proven, review.waited);
    match each(in_force).find(|(of, other)| *of == stage && other.name == step.name) {
        Some((_, same)) => admits(same),
        None => each(in_force).any(|(_, other)| admits(other)),
    }
}

fn each(stages: &[Stage]) -> impl Iterator<Item = (&Arc<str>, &Step)> {
    stages
        .iter()
        .flat_map(|stage| stage.steps.iter().map(move |step| (&stage.name, step)))
}
