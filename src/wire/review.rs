//! Reviews and the progress of an approval on the wire, and as the store keeps them. What was computed is computed anew.

use super::grant::{
    FieldError, duration_from, duration_to, principals_from, scope_from, scope_to, timestamp_from,
    timestamp_to,
};
use super::v1;
use crate::model::access::AccessRequest;
use crate::model::approval::{
    AfterTheFact, Escalation, Opinion, Review, Said, Stage, Step, Verdict,
};
use crate::model::canonical::Hash;
use crate::model::identity::Principal;
use crate::model::policy::Matcher;
use crate::model::time::Timestamp;

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

/// Parses the reviews of a stored request; each must be of exactly its terms.
///
/// # Errors
/// [`FieldError`] names what is wrong.
pub(crate) fn reviews_from(
    wire: &[v1::Review],
    terms: Hash,
    asked: Timestamp,
) -> Result<Vec<Review>, FieldError> {
    wire.iter()
        .map(|wire| review_from(wire, terms, asked))
        .collect()
}

fn review_from(wire: &v1::Review, terms: Hash, asked: Timestamp) -> Result<Review, FieldError> {
    if wire.request_digest != terms.to_string() {
        return Err(FieldError::new(
            "reviews.request_digest",
            "is not the digest of the request's terms",
        ));
    }
    let time = wire
        .create_time
        .as_ref()
        .ok_or_else(|| FieldError::new("reviews.create_time", "is absent"))?;
    let time = timestamp_from(time, "reviews.create_time")?;
    let span = wire.narrowed_duration.as_ref();
    Ok(Review {
        reviewer: Principal::parse(&wire.reviewer)
            .map_err(|error| FieldError::new("reviews.reviewer", error))?,
        verdict: match wire.verdict() {
            v1::ReviewVerdict::Approved => Verdict::Approve,
            v1::ReviewVerdict::Denied => Verdict::Deny,
            v1::ReviewVerdict::Unspecified => {
                return Err(FieldError::new("reviews.verdict", "is absent"));
            }
        },
        reason: wire.reason.clone(),
        time,
        proven: principals_from(&wire.principals, "reviews.principals")?,
        digest: terms,
        narrowed_scope: wire.narrowed_scope.as_ref().map(scope_from).transpose()?,
        narrowed_duration: span
            .map(|span| duration_from(span, "reviews.narrowed_duration"))
            .transpose()?,
        waited: time.since(asked),
        void: (!wire.void.is_empty()).then(|| wire.void.as_str().into()),
    })
}

/// Parses the stages of a stored request.
///
/// # Errors
/// [`FieldError`] names what is wrong.
pub(crate) fn stages_from(wire: &[v1::StepProgress]) -> Result<Vec<Stage>, FieldError> {
    let mut stages: Vec<Stage> = Vec::new();
    for wire in wire {
        let step = step_from(wire)?;
        match stages.last_mut() {
            Some(stage) if *stage.name == *wire.stage => stage.steps.push(step),
            Some(_) | None => stages.push(Stage {
                name: wire.stage.as_str().into(),
                steps: vec![step],
            }),
        }
    }
    Ok(stages)
}

fn step_from(wire: &v1::StepProgress) -> Result<Step, FieldError> {
    let positive = |value: i32, field: &str| {
        let value = usize::try_from(value).ok().filter(|value| *value > 0);
        value.ok_or_else(|| FieldError::new(field, "must be 1 or more"))
    };
    Ok(Step {
        name: wire.step.as_str().into(),
        approvers: matchers_from(&wire.approvers, "progress.approvers")?,
        approvals: positive(wire.need, "progress.need")?,
        denials: positive(wire.denials_refuse, "progress.denials_refuse")?,
        escalate: wire
            .escalations
            .iter()
            .map(escalation_from)
            .collect::<Result<_, _>>()?,
    })
}

fn escalation_from(wire: &v1::Escalation) -> Result<Escalation, FieldError> {
    let field = "progress.escalations.after";
    let after = wire
        .after
        .as_ref()
        .ok_or_else(|| FieldError::new(field, "is absent"))?;
    Ok(Escalation {
        after: duration_from(after, field)?,
        approvers: matchers_from(&wire.approvers, "progress.escalations.approvers")?,
    })
}

/// Parses who is meant.
///
/// # Errors
/// [`FieldError`] with the name of the field.
pub(super) fn matchers_from(wire: &[String], field: &str) -> Result<Vec<Matcher>, FieldError> {
    wire.iter()
        .map(|text| Matcher::parse(text).map_err(|error| FieldError::new(field, error)))
        .collect()
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

/// Parses a stored review afterwards.
///
/// # Errors
/// [`FieldError`] names what is wrong.
pub(super) fn break_glass_from(wire: &v1::BreakGlass) -> Result<AfterTheFact, FieldError> {
    let absent = |field: &str| FieldError::new(field, "is absent");
    let due = wire
        .review_due
        .as_ref()
        .ok_or_else(|| absent("break_glass.review_due"))?;
    let since = wire.overdue_since.as_ref();
    let opinion = match wire.opinion() {
        v1::BreakGlassOpinion::Ok => Some(Opinion::Fine),
        v1::BreakGlassOpinion::Objection => Some(Opinion::Objection),
        v1::BreakGlassOpinion::Unspecified => None,
    };
    let said = match (opinion, &wire.review_time) {
        (Some(opinion), Some(time)) => Some(Said {
            reviewer: Principal::parse(&wire.reviewer)
                .map_err(|error| FieldError::new("break_glass.reviewer", error))?,
            opinion,
            reason: wire.reason.clone(),
            time: timestamp_from(time, "break_glass.review_time")?,
        }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err(absent("break_glass.opinion")),
    };
    Ok(AfterTheFact {
        due: timestamp_from(due, "break_glass.review_due")?,
        overdue_since: since
            .map(|since| timestamp_from(since, "break_glass.overdue_since"))
            .transpose()?,
        said,
    })
}
