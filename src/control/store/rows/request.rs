//! Access requests as rows: what was asked, the policy pinned, what people said, and the outcome. What follows from these is
//! computed again when it is read.

use super::{
    break_glass_from, break_glass_row, count_from, matchers_from, number_row, optional_id_from,
    optional_id_row, optional_text_from, optional_text_row, optional_time, principal_from,
    required, revision_from, scope_from, scope_row, time_from,
};
use crate::model::access::{AccessRequest, AccessState, Outcome, PinnedPolicy, Terms};
use crate::model::approval::{Escalation, Review, Stage, Step, Verdict};
use crate::model::canonical::Hash;
use crate::model::time::Timestamp;
use crate::wire::grant::{
    FieldError, duration_from, duration_to, principals_from, timestamp_from, timestamp_to,
};
use crate::wire::store;

/// As the store keeps it.
pub(crate) fn request_row(request: &AccessRequest) -> store::AccessRequest {
    let AccessRequest {
        id,
        requester,
        terms,
        reason,
        tickets,
        create_time,
        pending_until,
        state,
        outcome,
        stages,
        break_glass,
        reviews,
        notes,
        traceparent,
        create_revision,
        mod_revision,
    } = request;
    let outcome = outcome.as_ref();
    let text = |of: fn(&Outcome) -> &str| outcome.map(of).unwrap_or_default().to_owned();
    store::AccessRequest {
        id: id.to_string(),
        requester: requester.to_string(),
        subject: terms.subject.to_string(),
        via: terms.via.iter().map(ToString::to_string).collect(),
        scope: Some(scope_row(&terms.scope)),
        duration: Some(duration_to(terms.duration)),
        reason: reason.clone(),
        tickets: tickets.clone(),
        state: state_row(*state).into(),
        policy: terms.policy.name.to_string(),
        policy_version: number_row(terms.policy.version),
        policy_digest: terms.policy.digest.to_string(),
        request_digest: terms.digest().to_string(),
        grant: optional_id_row(outcome.and_then(|outcome| outcome.grant.as_ref())),
        create_time: Some(timestamp_to(*create_time)),
        pending_until: Some(timestamp_to(*pending_until)),
        end_time: outcome.map(|outcome| timestamp_to(outcome.time)),
        decided_by: text(|outcome| &outcome.by),
        decision_reason: text(|outcome| &outcome.reason),
        traceparent: optional_text_row(traceparent.as_deref()),
        create_revision: number_row(create_revision.0),
        mod_revision: number_row(mod_revision.0),
        reviews: reviews.iter().map(review_row).collect(),
        steps: stages
            .iter()
            .flat_map(|stage| stage.steps.iter().map(|step| step_row(stage, step)))
            .collect(),
        start_time: terms.start.map(timestamp_to),
        extends: optional_id_row(terms.extends.as_ref()),
        break_glass: break_glass.as_ref().map(break_glass_row),
        notes: notes.clone(),
    }
}

/// Parses a row.
///
/// # Errors
/// [`FieldError`]; also when its digest is not the one of its terms.
pub(crate) fn request_from(row: store::AccessRequest) -> Result<AccessRequest, FieldError> {
    let state = state_from(row.state)?;
    let terms = Terms {
        subject: principal_from(&row.subject, "subject")?,
        via: principals_from(&row.via, "via")?,
        scope: scope_from(required(row.scope.as_ref(), "scope")?)?,
        duration: duration_from(required(row.duration.as_ref(), "duration")?, "duration")?,
        policy: PinnedPolicy {
            name: row.policy.into(),
            version: count_from(row.policy_version, "policy_version")?,
            digest: row.policy_digest.into(),
        },
        start: optional_time(row.start_time.as_ref(), "start_time")?,
        extends: optional_id_from(&row.extends, "extends")?,
    };
    let digest = terms.digest();
    if digest.to_string() != row.request_digest {
        return Err(FieldError::new(
            "request_digest",
            "is not the digest of these terms",
        ));
    }
    let outcome = match (state.is_terminal(), &row.end_time) {
        (false, None) => None,
        (true, Some(time)) => Some(Outcome {
            time: timestamp_from(time, "end_time")?,
            by: row.decided_by,
            reason: row.decision_reason,
            grant: optional_id_from(&row.grant, "grant")?,
        }),
        (false, Some(_)) | (true, None) => {
            return Err(FieldError::new("end_time", "does not fit the state"));
        }
    };
    let asked = time_from(row.create_time.as_ref(), "create_time")?;
    let break_glass = row.break_glass.as_ref().map(break_glass_from).transpose()?;
    Ok(AccessRequest {
        id: row.id.into(),
        requester: principal_from(&row.requester, "requester")?,
        terms,
        reason: row.reason,
        tickets: row.tickets,
        create_time: asked,
        pending_until: time_from(row.pending_until.as_ref(), "pending_until")?,
        state,
        outcome,
        stages: stages_from(&row.steps)?,
        break_glass,
        reviews: row
            .reviews
            .iter()
            .map(|review| review_from(review, digest, asked))
            .collect::<Result<_, _>>()?,
        notes: row.notes,
        traceparent: optional_text_from(&row.traceparent),
        create_revision: revision_from(row.create_revision, "create_revision")?,
        mod_revision: revision_from(row.mod_revision, "mod_revision")?,
    })
}

fn state_row(state: AccessState) -> store::AccessRequestState {
    match state {
        AccessState::Pending => store::AccessRequestState::Pending,
        AccessState::Approved => store::AccessRequestState::Approved,
        AccessState::Denied => store::AccessRequestState::Denied,
        AccessState::Cancelled => store::AccessRequestState::Cancelled,
        AccessState::Expired => store::AccessRequestState::Expired,
        AccessState::Failed => store::AccessRequestState::Failed,
    }
}

fn state_from(row: i32) -> Result<AccessState, FieldError> {
    match store::AccessRequestState::try_from(row) {
        Ok(store::AccessRequestState::Pending) => Ok(AccessState::Pending),
        Ok(store::AccessRequestState::Approved) => Ok(AccessState::Approved),
        Ok(store::AccessRequestState::Denied) => Ok(AccessState::Denied),
        Ok(store::AccessRequestState::Cancelled) => Ok(AccessState::Cancelled),
        Ok(store::AccessRequestState::Expired) => Ok(AccessState::Expired),
        Ok(store::AccessRequestState::Failed) => Ok(AccessState::Failed),
        Ok(store::AccessRequestState::Unspecified) | Err(_) => {
            Err(FieldError::new("state", format!("{row} is no state")))
        }
    }
}

fn review_row(review: &Review) -> store::Review {
    store::Review {
        reviewer: review.reviewer.to_string(),
        verdict: match review.verdict {
            Verdict::Approve => store::ReviewVerdict::Approved.into(),
            Verdict::Deny => store::ReviewVerdict::Denied.into(),
        },
        reason: review.reason.clone(),
        create_time: Some(timestamp_to(review.time)),
        principals: review.proven.iter().map(ToString::to_string).collect(),
        request_digest: review.digest.to_string(),
        narrowed_scope: review.narrowed_scope.as_ref().map(scope_row),
        narrowed_duration: review.narrowed_duration.map(duration_to),
        void: optional_text_row(review.void.as_deref()),
    }
}

fn review_from(row: &store::Review, terms: Hash, asked: Timestamp) -> Result<Review, FieldError> {
    // An approval counts for exactly the terms that were looked at, also after the row was altered on disk.
    if row.request_digest != terms.to_string() {
        return Err(FieldError::new(
            "reviews.request_digest",
            "is not the digest of the request's terms",
        ));
    }
    let time = time_from(row.create_time.as_ref(), "reviews.create_time")?;
    let span = row.narrowed_duration.as_ref();
    Ok(Review {
        reviewer: principal_from(&row.reviewer, "reviews.reviewer")?,
        verdict: match row.verdict() {
            store::ReviewVerdict::Approved => Verdict::Approve,
            store::ReviewVerdict::Denied => Verdict::Deny,
            store::ReviewVerdict::Unspecified => {
                return Err(FieldError::new("reviews.verdict", "is absent"));
            }
        },
        reason: row.reason.clone(),
        time,
        proven: principals_from(&row.principals, "reviews.principals")?,
        digest: terms,
        narrowed_scope: row.narrowed_scope.as_ref().map(scope_from).transpose()?,
        narrowed_duration: span
            .map(|span| duration_from(span, "reviews.narrowed_duration"))
            .transpose()?,
        waited: time.since(asked),
        void: optional_text_from(&row.void),
    })
}

fn step_row(stage: &Stage, step: &Step) -> store::Step {
    let number = |count| i32::try_from(count).unwrap_or(i32::MAX);
    store::Step {
        stage: stage.name.to_string(),
        step: step.name.to_string(),
        need: number(step.approvals),
        denials_refuse: number(step.denials),
        approvers: step.approvers.iter().map(ToString::to_string).collect(),
        escalations: step.escalate.iter().map(escalation_row).collect(),
    }
}

fn stages_from(rows: &[store::Step]) -> Result<Vec<Stage>, FieldError> {
    let mut stages: Vec<Stage> = Vec::new();
    for row in rows {
        let step = step_from(row)?;
        match stages.last_mut() {
            Some(stage) if *stage.name == *row.stage => stage.steps.push(step),
            Some(_) | None => stages.push(Stage {
                name: row.stage.as_str().into(),
                steps: vec![step],
            }),
        }
    }
    Ok(stages)
}

fn step_from(row: &store::Step) -> Result<Step, FieldError> {
    let positive = |value: i32, field: &str| {
        let value = usize::try_from(value).ok().filter(|value| *value > 0);
        value.ok_or_else(|| FieldError::new(field, "must be 1 or more"))
    };
    Ok(Step {
        name: row.step.as_str().into(),
        approvers: matchers_from(&row.approvers, "steps.approvers")?,
        approvals: positive(row.need, "steps.need")?,
        denials: positive(row.denials_refuse, "steps.denials_refuse")?,
        escalate: row
            .escalations
            .iter()
            .map(escalation_from)
            .collect::<Result<_, _>>()?,
    })
}

fn escalation_row(escalation: &Escalation) -> store::Escalation {
    let approvers = escalation.approvers.iter();
    store::Escalation {
        after: Some(duration_to(escalation.after)),
        approvers: approvers.map(ToString::to_string).collect(),
    }
}

fn escalation_from(row: &store::Escalation) -> Result<Escalation, FieldError> {
    let field = "steps.escalations.after";
    Ok(Escalation {
        after: duration_from(required(row.after.as_ref(), field)?, field)?,
        approvers: matchers_from(&row.approvers, "steps.escalations.approvers")?,
    })
}
