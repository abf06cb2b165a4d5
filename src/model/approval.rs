//! Approval by people: stages in sequence, steps of a stage side by side, so many distinct people in each step.
//!
//! [`progress`] computes where a request stands from its reviews alone, and is total. Who counts for which step is a
//! matching: a person counts once in the whole request, and is moved to another step of theirs whenever that lets one
//! more person count. So an approval more never takes anything away, and no order of approvals leads into a dead end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::canonical::Hash;
use super::identity::{Principal, PrincipalKind};
use super::policy::{Matcher, Persons};
use super::scope::Scope;
use super::time::Timestamp;

mod recheck;
mod task;

pub(crate) use recheck::InForce;
pub(crate) use task::{AfterTheFact, Opinion, Said};

/// Most stages of one policy, and most steps of one stage.
pub(crate) const STAGES_MAX: usize = 8;
/// Most people that one step can want.
pub(crate) const PEOPLE_MAX: usize = 256;
/// Most escalations of one step.
pub(crate) const ESCALATIONS_MAX: usize = 8;

/// Steps that are open at the same time. The next stage opens when all of them are complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Unique within its policy.
    pub name: Arc<str>,
    /// At least one.
    pub steps: Vec<Step>,
}

/// So many of these people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Unique within its stage.
    pub name: Arc<str>,
    /// Who may review: users, and members of groups.
    pub approvers: Vec<Matcher>,
    /// How many different people have to approve; never less than one.
    pub approvals: usize,
    /// How many different people refuse the request; never less than one.
    pub denials: usize,
    /// Who else may review once the request has waited for so long, by that time. It takes no fewer people.
    pub escalate: Vec<Escalation>,
}

/// Further approvers of a step, from some time on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escalation {
    /// Once the request has been pending for so long.
    pub after: Duration,
    /// Users, and members of groups.
    pub approvers: Vec<Matcher>,
}

impl Step {
    /// Whether somebody who has proved to be all of these may review here, once the request has waited for so long.
    pub fn admits(&self, proven: &[Principal], waited: Duration) -> bool {
        let mut approvers = self.approvers_after(waited);
        approvers.any(|matcher| proven.iter().any(|principal| matcher.matches(principal)))
    }

    /// Who may review here once the request has waited for so long.
    pub fn approvers_after(&self, waited: Duration) -> impl Iterator<Item = &Matcher> {
        let escalated = self
            .escalate
            .iter()
            .filter(move |escalation| escalation.after <= waited);
        self.approvers
            .iter()
            .chain(escalated.flat_map(|escalation| &escalation.approvers))
    }

    fn wanted(&self) -> usize {
        self.approvals.max(1)
    }
}

/// What a person says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// Yes.
    Approve,
    /// No.
    Deny,
}

impl Verdict {}

/// What one person has said of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Review {
    /// Who: always a user.
    pub reviewer: Principal,
    /// What.
    pub verdict: Verdict,
    /// Why, in the reviewer's words.
    pub reason: String,
    /// When.
    pub time: Timestamp,
    /// What the reviewer had proved to be at that moment, as far as it makes them an approver.
    pub proven: Vec<Principal>,
    /// Of the terms that were looked at.
    pub digest: Hash,
    /// Only this much of the scope.
    pub narrowed_scope: Option<Scope>,
    /// Only for so long.
    pub narrowed_duration: Option<Duration>,
    /// For how long the request had been pending.
    pub waited: Duration,
    /// Why it does not count, as of the last counting.
    pub void: Option<Arc<str>>,
}

/// Where a request stands with the people who decide it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// What follows from the reviews.
    pub standing: Standing,
    /// Every step, in order.
    pub steps: Vec<StepProgress>,
    /// For each review, the step (an index into `steps`) in which its approval counts.
    pub counted: Vec<Option<usize>>,
}

/// What follows from the reviews.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// More people are needed.
    Open,
    /// Every step of every stage is complete.
    Approved,
    /// A step has as many denials as refuse the request.
    Denied,
}

/// Where one step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepProgress {
    /// Its stage.
    pub stage: usize,
    /// People who count for it.
    pub have: usize,
    /// People that it takes.
    pub need: usize,
    /// Its approvers who denied.
    pub denials: usize,
    /// Whether its stage has been reached.
    pub opened: bool,
}

/// Computes where a request stands. The first review of a person counts, and no other.
pub(crate) fn progress(stages: &[Stage], reviews: &[Review]) -> Progress {
    let mut matching = Matching::new(stages, reviews);
    let mut reached = 0;
    let mut complete = !stages.is_empty();
    for (index, stage) in stages.iter().enumerate() {
        reached = index;
        matching.open(index);
        if stage.steps.is_empty() || !matching.is_complete(index) {
            complete = false;
            break;
        }
    }
    let steps: Vec<StepProgress> = matching.steps(reached);
    let refused = matching
        .spots
        .iter()
        .zip(&steps)
        .any(|(spot, step)| step.denials >= spot.step.denials.max(1));
    let standing = match (refused, complete) {
        (true, _) => Standing::Denied,
        (false, true) => Standing::Approved,
        (false, false) => Standing::Open,
    };
    Progress {
        standing,
        steps,
        counted: matching.counted,
    }
}

/// Whether one more review would change anything now: an approval that lets one more person count, or a denial by an
/// approver of a stage that has been reached. What adds nothing now to the stages reached never will to these.
pub(crate) fn adds(stages: &[Stage], reviews: &[Review], review: &Review) -> bool {
    let before = progress(stages, reviews);
    match review.verdict {
        Verdict::Deny => {
            let steps = stages.iter().flat_map(|stage| &stage.steps);
            steps
                .zip(&before.steps)
                .any(|(step, at)| at.opened && step.admits(&review.proven, review.waited))
        }
        Verdict::Approve => {
            let mut with = reviews.to_vec();
            with.push(review.clone());
            let counted = |progress: &Progress| progress.counted.iter().flatten().count();
            counted(&progress(stages, &with)) > counted(&before)
        }
    }
}

/// The first step that can never be complete, as far as that can be told: its approvers, those of its escalations included,
/// are listed by name, and without those who are `barred` too few people of them are left, whatever accounts they use.
pub(crate) fn unattainable<'s>(
    stages: &'s [Stage],
    persons: &Persons,
    barred: impl Fn(&Principal) -> bool,
) -> Option<(&'s Stage, &'s Step)> {
    let mut known: Vec<Review> = Vec::new();
    let (mut closed, mut places) = (Vec::new(), Vec::new());
    for (stage, step) in stages
        .iter()
        .flat_map(|stage| stage.steps.iter().map(move |step| (stage, step)))
    {
        let Some(people) = named(step) else { continue };
        closed.push(Stage {
            name: Arc::clone(&stage.name),
            steps: vec![step.clone()],
        });
        places.push((stage, step));
        for account in people.into_iter().filter(|person| !barred(person)) {
            match known
                .iter_mut()
                .find(|review| persons.same(&review.reviewer, account))
            {
                Some(review) => review.proven.push(account.clone()),
                None => known.push(approval_of(account)),
            }
        }
    }
    let at = progress(&closed, &known);
    let missing = at.steps.iter().position(|step| step.have < step.need)?;
    places.get(missing).copied()
}

/// Everybody who can ever review in a step; `None` when they are not all listed by name.
fn named(step: &Step) -> Option<Vec<&Principal>> {
    step.approvers_after(Duration::MAX).map(user).collect()
}

fn user(matcher: &Matcher) -> Option<&Principal> {
    match matcher {
        Matcher::Exact(one) if one.kind() == PrincipalKind::User => Some(one),
        Matcher::Exact(_) | Matcher::Workload(_) | Matcher::AnyUser(_) => None,
    }
}

/// As if this person had approved, at the very end.
fn approval_of(person: &Principal) -> Review {
    Review {
        reviewer: person.clone(),
        verdict: Verdict::Approve,
        reason: String::new(),
        time: Timestamp::default(),
        proven: vec![person.clone()],
        digest: Hash::default(),
        narrowed_scope: None,
        narrowed_duration: None,
        waited: Duration::MAX,
        void: None,
    }
}

/// One step with its place and who counts for it.
struct Spot<'s> {
    stage: usize,
    step: &'s Step,
    people: Vec<usize>,
}

/// Who counts for which step.
struct Matching<'s> {
    spots: Vec<Spot<'s>>,
    reviews: &'s [Review],
    /// For each review, the spots that it may count for or against; none but for the first of its person.
    eligible: Vec<Vec<usize>>,
    counted: Vec<Option<usize>>,
}

impl<'s> Matching<'s> {
    fn new(stages: &'s [Stage], reviews: &'s [Review]) -> Self {
        let spots: Vec<Spot<'s>> = stages
            .iter()
            .enumerate()
            .flat_map(|(stage, of)| {
                of.steps.iter().map(move |step| Spot {
                    stage,
                    step,
                    people: Vec::new(),
                })
            })
            .collect();
        let mut seen = HashSet::new();
        let eligible = reviews.iter().map(|review| {
            if !seen.insert(&review.reviewer) {
                return Vec::new();
            }
            let admitting = spots
                .iter()
                .enumerate()
                .filter(|(_, spot)| spot.step.admits(&review.proven, review.waited));
            admitting.map(|(at, _)| at).collect()
        });
        let eligible = eligible.collect();
        Self {
            spots,
            reviews,
            eligible,
            counted: vec![None; reviews.len()],
        }
    }

    /// Opens the steps of a stage beside those before it, and counts whoever can be counted. A step that was complete
    /// stays so: whoever is moved away from it is replaced.
    fn open(&mut self, stage: usize) {
        let opened = self
            .spots
            .iter()
            .take_while(|spot| spot.stage <= stage)
            .count();
        for (person, review) in self.reviews.iter().enumerate() {
            if review.verdict == Verdict::Approve && self.counted.get(person) == Some(&None) {
                self.place(person, &mut vec![false; opened]);
            }
        }
    }

    /// Finds an open spot for a person, moving others to other spots of theirs where that makes room. `tried` has one
    /// mark for each open spot; no spot is tried twice, so this ends.
    fn place(&mut self, person: usize, tried: &mut [bool]) -> bool {
        for at in self.eligible.get(person).cloned().unwrap_or_default() {
            let (Some(spot), Some(mark @ false)) = (self.spots.get(at), tried.get_mut(at)) else {
                continue;
            };
            *mark = true;
            let free = spot.people.len() < spot.step.wanted();
            let others = spot.people.clone();
            if free || others.into_iter().any(|other| self.place(other, tried)) {
                self.settle(person, at);
                return true;
            }
        }
        false
    }

    fn settle(&mut self, person: usize, at: usize) {
        let Some(counted) = self.counted.get_mut(person) else {
            return;
        };
        let before = counted.replace(at);
        if let Some(left) = before.and_then(|before| self.spots.get_mut(before)) {
            left.people.retain(|other| *other != person);
        }
        if let Some(spot) = self.spots.get_mut(at) {
            spot.people.push(person);
        }
    }

    fn is_complete(&self, stage: usize) -> bool {
        let mut of_stage = self.spots.iter().filter(|spot| spot.stage == stage);
        of_stage.all(|spot| spot.people.len() >= spot.step.wanted())
    }

    fn steps(&self, reached: usize) -> Vec<StepProgress> {
        let denied = |at: usize| {
            let reviews = self.reviews.iter().zip(&self.eligible);
            reviews
                .filter(|(review, spots)| review.verdict == Verdict::Deny && spots.contains(&at))
                .count()
        };
        let one = |(at, spot): (usize, &Spot<'_>)| StepProgress {
            stage: spot.stage,
            have: spot.people.len(),
            need: spot.step.wanted(),
            denials: denied(at),
            opened: spot.stage <= reached,
        };
        self.spots.iter().enumerate().map(one).collect()
    }
}

#[cfg(test)]
mod tests;
