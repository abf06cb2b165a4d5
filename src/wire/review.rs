//! Reviews and the progress of an approval as the API shows them: counted again each time.

use super::grant::{duration_to, scope_to, timestamp_to};
use super::v1;
use crate::model::access::AccessRequest;
use crate::model::approval::{AfterTheFact, Escalation, Opinion, Review, Stage, Step, Verdict};

/// As `jitgate.v1.Review` and `jitgate.v1.StepProgress`.
pub(crate) fn reviews_to(request: &AccessRequest) -> (Vec<v1::Review>, Vec<v1::StepProgress>) {
    let progress = request.progress();
    let steps: Vec<(&Stage, &Step)> = request
        .stages
        .iter()
        .flat_map(|stage| stage.steps.iter().map(move |step| (stage, step)))
        .collect();
    let countable = request.countable();
    let reviews = request.reviews.iter().map(|review| {
        let at = countable
            .iter()
            .position(|counted| counted.reviewer == review.reviewer);
        let counted = at
            .and_then(|at| *progress.counted.get(at)?)
            .and_then(|spot| steps.get(spot));
        review_to(review, counted)
    });
    let steps = steps
        .iter()
        .zip(&progress.steps)
        .map(|((stage, step), at)| v1::StepProgress {
            stage: stage.name.to_string(),
            step: step.name.to_string(),
            have: number(at.have),
            need: number(at.need),
            denials: number(at.denials),
            denials_refuse: number(step.denials),
            approvers: step.approvers.iter().map(ToString::to_string).collect(),
            open: at.opened,
            escalations: step.escalate.iter().map(escalation_to).collect(),
        });
    (reviews.collect(), steps.collect())
}

fn escalation_to(escalation: &Escalation) -> v1::Escalation {
    let approvers = escalation
        .approvers
        .iter()
        .map(ToString::to_string)
        .collect();
    v1::Escalation {
        after: Some(duration_to(escalation.after)),
        approvers,
    }
}

fn review_to(review: &Review, counted: Option<&(&Stage, &Step)>) -> v1::Review {
    v1::Review {
        reviewer: review.reviewer.to_string(),
        verdict: match review.verdict {
            Verdict::Approve => v1::ReviewVerdict::Approved.into(),
            Verdict::Deny => v1::ReviewVerdict::Denied.into(),
        },
        reason: review.reason.clone(),
        create_time: Some(timestamp_to(review.time)),
        principals: review.proven.iter().map(ToString::to_string).collect(),
        request_digest: review.digest.to_string(),
        narrowed_scope: review.narrowed_scope.as_ref().map(scope_to),
        narrowed_duration: review.narrowed_duration.map(duration_to),
        stage: counted
            .map(|(stage, _)| stage.name.to_string())
            .unwrap_or_default(),
        step: counted
            .map(|(_, step)| step.name.to_string())
            .unwrap_or_default(),
        void: review.void.as_deref().unwrap_or_default().to_owned(),
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// As `jitgate.v1.BreakGlass`.
pub(super) fn break_glass_to(review: &AfterTheFact) -> v1::BreakGlass {
    let said = review.said.as_ref();
    let opinion = match said.map(|said| said.opinion) {
        Some(Opinion::Fine) => v1::BreakGlassOpinion::Ok,
        Some(Opinion::Objection) => v1::BreakGlassOpinion::Objection,
        None => v1::BreakGlassOpinion::Unspecified,
    };
    v1::BreakGlass {
        review_due: Some(timestamp_to(review.due)),
        overdue_since: review.overdue_since.map(timestamp_to),
        reviewer: said
            .map(|said| said.reviewer.to_string())
            .unwrap_or_default(),
        opinion: opinion.into(),
        reason: said.map(|said| said.reason.clone()).unwrap_or_default(),
        review_time: said.map(|said| timestamp_to(said.time)),
    }
}
