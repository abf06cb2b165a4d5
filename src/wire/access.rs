//! Access requests and grants as the API shows them, with what is computed of them.

use super::grant::{FieldError, duration_to, ended_to, entry_to, scope_to, timestamp_to};
use super::review::{break_glass_to, reviews_to};
use super::v1;
use crate::model::access::{AccessRequest, AccessState, Issued, Outcome};
use crate::model::grant::{End, GrantId, Phase, Revision};
use crate::model::time::Timestamp;

/// A revision as protobuf carries it.
pub(crate) fn revision_to(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// As `jitgate.v1.AccessRequestState`.
pub(crate) fn state_to(state: AccessState) -> v1::AccessRequestState {
    match state {
        AccessState::Pending => v1::AccessRequestState::Pending,
        AccessState::Approved => v1::AccessRequestState::Approved,
        AccessState::Denied => v1::AccessRequestState::Denied,
        AccessState::Cancelled => v1::AccessRequestState::Cancelled,
        AccessState::Expired => v1::AccessRequestState::Expired,
        AccessState::Failed => v1::AccessRequestState::Failed,
    }
}

/// `None` for UNSPECIFIED, which as a filter means "all".
///
/// # Errors
/// When the number is no state of this version.
pub(crate) fn state_from(wire: i32, field: &str) -> Result<Option<AccessState>, FieldError> {
    let known = v1::AccessRequestState::try_from(wire)
        .map_err(|_| FieldError::new(field, format!("{wire} is no state known to this version")))?;
    Ok(match known {
        v1::AccessRequestState::Unspecified => None,
        v1::AccessRequestState::Pending => Some(AccessState::Pending),
        v1::AccessRequestState::Approved => Some(AccessState::Approved),
        v1::AccessRequestState::Denied => Some(AccessState::Denied),
        v1::AccessRequestState::Cancelled => Some(AccessState::Cancelled),
        v1::AccessRequestState::Expired => Some(AccessState::Expired),
        v1::AccessRequestState::Failed => Some(AccessState::Failed),
    })
}

/// As `jitgate.v1.AccessRequest`.
pub(crate) fn request_to(request: &AccessRequest) -> v1::AccessRequest {
    let AccessRequest { terms, outcome, .. } = request;
    let (reviews, progress) = reviews_to(request);
    let text = |of: fn(&Outcome) -> &str| outcome.as_ref().map(of).unwrap_or_default().to_owned();
    v1::AccessRequest {
        id: request.id.to_string(),
        requester: request.requester.to_string(),
        subject: terms.subject.to_string(),
        via: terms.via.iter().map(ToString::to_string).collect(),
        scope: Some(scope_to(&terms.scope)),
        duration: Some(duration_to(terms.duration)),
        reason: request.reason.clone(),
        tickets: request.tickets.clone(),
        state: state_to(request.state).into(),
        policy: terms.policy.name.to_string(),
        policy_version: i64::try_from(terms.policy.version).unwrap_or(i64::MAX),
        policy_digest: terms.policy.digest.to_string(),
        request_digest: terms.digest().to_string(),
        grant: outcome
            .as_ref()
            .and_then(|o| o.grant.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default(),
        create_time: Some(timestamp_to(request.create_time)),
        pending_until: Some(timestamp_to(request.pending_until)),
        end_time: outcome.as_ref().map(|o| timestamp_to(o.time)),
        decided_by: text(|o| &o.by),
        decision_reason: text(|o| &o.reason),
        traceparent: request
            .traceparent
            .as_deref()
            .unwrap_or_default()
            .to_owned(),
        create_revision: revision_to(request.create_revision),
        mod_revision: revision_to(request.mod_revision),
        reviews,
        progress,
        notes: request.notes.clone(),
        break_glass: request.break_glass.as_ref().map(break_glass_to),
        etag: request.etag(),
        start_time: terms.start.map(timestamp_to),
        extends: id_to(terms.extends.as_ref()),
    }
}

fn id_to(id: Option<&GrantId>) -> String {
    id.map(ToString::to_string).unwrap_or_default()
}

/// Where a grant stands at `now`, as `jitgate.v1.GrantState`.
pub(crate) fn phase_to(phase: Phase) -> v1::GrantState {
    match phase {
        Phase::NotStarted => v1::GrantState::Scheduled,
        Phase::Live(_) => v1::GrantState::Active,
        Phase::Suspended => v1::GrantState::Suspended,
        Phase::Ended(how) => ended_to(how),
    }
}

/// As `jitgate.v1.Grant`, with its state at `now`.
pub(crate) fn issued_to(issued: &Issued, now: Timestamp) -> v1::Grant {
    let Issued {
        grant,
        origin,
        suspension,
        ending,
    } = issued;
    let entry = entry_to(grant);
    v1::Grant {
        id: entry.id,
        subject: entry.subject,
        via: entry.via,
        scope: entry.scope,
        not_before: entry.not_before,
        expire_time: entry.expire_time,
        state: phase_to(grant.phase(now)).into(),
        standing: grant.end == End::Standing,
        request: origin.request.as_deref().unwrap_or_default().to_owned(),
        policy: entry.policy,
        policy_version: entry.policy_version,
        policy_digest: origin.policy_digest.to_string(),
        traceparent: entry.traceparent,
        staleness: entry.staleness,
        create_revision: revision_to(origin.create_revision),
        mod_revision: entry.mod_revision,
        create_time: Some(timestamp_to(origin.create_time)),
        end_time: ending.as_ref().map(|ending| timestamp_to(ending.time)),
        end_reason: ending
            .as_ref()
            .map(|ending| ending.reason.clone())
            .unwrap_or_default(),
        ended_by: ending
            .as_ref()
            .map(|ending| ending.by.clone())
            .unwrap_or_default(),
        auto_rule: origin.auto_rule.as_deref().unwrap_or_default().to_owned(),
        etag: issued.etag(),
        suspend_time: suspension
            .as_ref()
            .map(|suspension| timestamp_to(suspension.time)),
        suspended_by: suspension
            .as_ref()
            .map(|suspension| suspension.by.clone())
            .unwrap_or_default(),
        suspend_reason: suspension
            .as_ref()
            .map(|suspension| suspension.reason.clone())
            .unwrap_or_default(),
        extends: id_to(origin.chain.extends.as_ref()),
        extended_by: id_to(origin.chain.extended_by.as_ref()),
        break_glass: origin
            .break_glass
            .as_ref()
            .map(|passed_over| break_glass_to(&passed_over.review)),
        unused_until: origin.unused_until.map(timestamp_to),
        // What sidecars have reported of it is not known here.
        ..v1::Grant::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::access::{PinnedPolicy, Terms};
    use crate::model::approval::{Escalation, Review, Stage, Step, Verdict};
    use crate::model::identity::{Principal, Service};
    use crate::model::policy::Matcher;
    use crate::model::scope::{GrpcRule, Rule, Scope};
    use std::time::Duration;

    fn scope() -> Scope {
        let rule = Rule::Grpc(GrpcRule::parse("/a.B/C").unwrap());
        Scope::new(Service::parse("payments").unwrap(), vec![rule]).unwrap()
    }

    fn request() -> AccessRequest {
        let alice = Principal::parse("user:iss|alice").unwrap();
        AccessRequest {
            id: "01J".into(),
            requester: alice.clone(),
            terms: Terms {
                subject: alice,
                via: vec![Principal::parse("spiffe://td/a").unwrap()],
                scope: scope(),
                duration: Duration::from_secs(60),
                policy: PinnedPolicy {
                    name: "p".into(),
                    version: 2,
                    digest: "abc".into(),
                },
                start: Some(Timestamp::from_micros(70)),
                extends: Some(GrantId::parse("01F").unwrap()),
            },
            reason: "look".into(),
            tickets: vec!["T-1".into()],
            create_time: Timestamp::from_micros(7),
            pending_until: Timestamp::from_micros(9),
            state: AccessState::Pending,
            outcome: None,
            stages: vec![],
            break_glass: None,
            reviews: vec![],
            notes: vec!["rule x approves at most 1m, and this asks for 2m".into()],
            traceparent: Some("00-a-b-01".into()),
            create_revision: Revision(3),
            mod_revision: Revision(4),
        }
    }

    fn reviewed() -> AccessRequest {
        let step = |name: &str, approver: &str| Step {
            name: name.into(),
            approvers: vec![Matcher::parse(approver).unwrap()],
            approvals: 2,
            denials: 3,
            escalate: vec![Escalation {
                after: Duration::from_secs(1800),
                approvers: vec![Matcher::parse("group:iss|bosses").unwrap()],
            }],
        };
        let review = Review {
            reviewer: Principal::parse("user:iss|bob").unwrap(),
            verdict: Verdict::Approve,
            reason: "fine".into(),
            time: Timestamp::from_micros(8),
            proven: vec![Principal::parse("group:iss|leads").unwrap()],
            digest: request().terms.digest(),
            narrowed_scope: Some(scope()),
            narrowed_duration: Some(Duration::from_secs(30)),
            waited: Duration::from_micros(1),
            void: None,
        };
        let stages = vec![
            Stage {
                name: "s".into(),
                steps: vec![step("a", "group:iss|leads"), step("b", "user:iss|*")],
            },
            Stage {
                name: "t".into(),
                steps: vec![step("a", "user:iss|olga")],
            },
        ];
        AccessRequest {
            stages,
            reviews: vec![review],
            ..request()
        }
    }

    #[test]
    fn the_progress_on_the_wire_says_for_which_step_a_review_counts() {
        let wire = request_to(&reviewed());
        assert_eq!(
            (&*wire.reviews[0].stage, &*wire.reviews[0].step),
            ("s", "a")
        );
        let shown: Vec<_> = wire
            .progress
            .iter()
            .map(|step| (step.have, step.need, step.open))
            .collect();
        assert_eq!(shown, [(1, 2, true), (0, 2, true), (0, 2, false)]);
    }
}
