//! Access requests and grant records on the wire, and as the store keeps them. A stored value that does not parse is corruption.

use std::sync::Arc;

use super::grant::{
    FieldError, duration_from, duration_to, ended_to, entry_from, entry_to, principals_from,
    scope_from, scope_to, timestamp_from, timestamp_to,
};
use super::review::{
    break_glass_from, break_glass_to, matchers_from, reviews_from, reviews_to, stages_from,
};
use super::{store, v1};
use crate::model::access::{
    AccessRequest, AccessState, Chain, Ending, Issued, Origin, Outcome, PassedOver, PinnedPolicy,
    Suspension, Terms,
};
use crate::model::grant::{End, GrantId, Phase, Revision};
use crate::model::identity::Principal;
use crate::model::time::Timestamp;

/// A revision as protobuf carries it.
pub(crate) fn revision_to(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn count_from(wire: i64, field: &str) -> Result<u64, FieldError> {
    u64::try_from(wire).map_err(|_| FieldError::new(field, "is negative"))
}

fn principal_from(wire: &str, field: &str) -> Result<Principal, FieldError> {
    Principal::parse(wire).map_err(|e| FieldError::new(field, e))
}

fn required<T>(wire: Option<&T>, field: &str) -> Result<T, FieldError>
where
    T: Clone,
{
    wire.cloned()
        .ok_or_else(|| FieldError::new(field, "is absent"))
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

/// Parses a stored access request.
///
/// # Errors
/// [`FieldError`]; also when its digest is not the one of its terms.
pub(crate) fn request_from(wire: v1::AccessRequest) -> Result<AccessRequest, FieldError> {
    let state =
        state_from(wire.state, "state")?.ok_or_else(|| FieldError::new("state", "is absent"))?;
    let terms = Terms {
        subject: principal_from(&wire.subject, "subject")?,
        via: principals_from(&wire.via, "via")?,
        scope: scope_from(&required(wire.scope.as_ref(), "scope")?)?,
        duration: duration_from(&required(wire.duration.as_ref(), "duration")?, "duration")?,
        policy: PinnedPolicy {
            name: wire.policy.into(),
            version: count_from(wire.policy_version, "policy_version")?,
            digest: wire.policy_digest.into(),
        },
        start: instant_from(wire.start_time.as_ref(), "start_time")?,
        extends: optional_grant(&wire.extends, "extends")?,
    };
    let digest = terms.digest();
    if digest.to_string() != wire.request_digest {
        return Err(FieldError::new(
            "request_digest",
            "is not the digest of these terms",
        ));
    }
    let outcome = match (state.is_terminal(), &wire.end_time) {
        (false, None) => None,
        (true, Some(time)) => Some(Outcome {
            time: timestamp_from(time, "end_time")?,
            by: wire.decided_by,
            reason: wire.decision_reason,
            grant: optional_grant(&wire.grant, "grant")?,
        }),
        (false, Some(_)) | (true, None) => {
            return Err(FieldError::new("end_time", "does not fit the state"));
        }
    };
    let asked = timestamp_from(
        &required(wire.create_time.as_ref(), "create_time")?,
        "create_time",
    )?;
    Ok(AccessRequest {
        id: wire.id.into(),
        requester: principal_from(&wire.requester, "requester")?,
        terms,
        reason: wire.reason,
        tickets: wire.tickets,
        create_time: asked,
        pending_until: timestamp_from(
            &required(wire.pending_until.as_ref(), "pending_until")?,
            "pending_until",
        )?,
        state,
        outcome,
        stages: stages_from(&wire.progress)?,
        break_glass: wire
            .break_glass
            .as_ref()
            .map(break_glass_from)
            .transpose()?,
        reviews: reviews_from(&wire.reviews, digest, asked)?,
        notes: wire.notes,
        traceparent: shared(&wire.traceparent),
        create_revision: Revision(count_from(wire.create_revision, "create_revision")?),
        mod_revision: Revision(count_from(wire.mod_revision, "mod_revision")?),
    })
}

fn optional_grant(id: &str, field: &str) -> Result<Option<GrantId>, FieldError> {
    if id.is_empty() {
        Ok(None)
    } else {
        GrantId::parse(id)
            .map(Some)
            .map_err(|e| FieldError::new(field, e))
    }
}

fn instant_from(
    wire: Option<&prost_types::Timestamp>,
    field: &str,
) -> Result<Option<Timestamp>, FieldError> {
    wire.map(|time| timestamp_from(time, field)).transpose()
}

fn shared(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
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

/// As the store keeps it.
pub(crate) fn stored_to(issued: &Issued) -> store::StoredGrant {
    let Issued {
        grant,
        origin,
        suspension,
        ending,
    } = issued;
    let Chain {
        extends,
        extended_by,
        extensions,
        since,
    } = &origin.chain;
    store::StoredGrant {
        entry: Some(entry_to(grant)),
        request: origin.request.as_deref().unwrap_or_default().to_owned(),
        requester: origin
            .requester
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        policy_digest: origin.policy_digest.to_string(),
        auto_rule: origin.auto_rule.as_deref().unwrap_or_default().to_owned(),
        create_time: Some(timestamp_to(origin.create_time)),
        create_revision: revision_to(origin.create_revision),
        end_time: ending.as_ref().map(|ending| timestamp_to(ending.time)),
        end_reason: ending
            .as_ref()
            .map(|ending| ending.reason.clone())
            .unwrap_or_default(),
        ended_by: ending
            .as_ref()
            .map(|ending| ending.by.clone())
            .unwrap_or_default(),
        break_glass: origin
            .break_glass
            .as_ref()
            .map(|passed_over| break_glass_to(&passed_over.review)),
        passed_over: origin
            .break_glass
            .iter()
            .flat_map(|over| &over.approvers)
            .map(ToString::to_string)
            .collect(),
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
        extends: id_to(extends.as_ref()),
        extended_by: id_to(extended_by.as_ref()),
        extensions: i32::try_from(*extensions).unwrap_or(i32::MAX),
        chain_start: since.map(timestamp_to),
        unused_until: origin.unused_until.map(timestamp_to),
    }
}

/// Parses a stored grant.
///
/// # Errors
/// [`FieldError`] names what is wrong with it.
pub(crate) fn stored_from(wire: store::StoredGrant) -> Result<Issued, FieldError> {
    let grant = entry_from(&required(wire.entry.as_ref(), "entry")?)?;
    let ending = match &wire.end_time {
        Some(time) => Some(Ending {
            time: timestamp_from(time, "end_time")?,
            reason: wire.end_reason,
            by: wire.ended_by,
        }),
        None => None,
    };
    let suspension = instant_from(wire.suspend_time.as_ref(), "suspend_time")?;
    let suspension = suspension.map(|time| Suspension {
        time,
        reason: wire.suspend_reason,
        by: wire.suspended_by,
    });
    let chain = Chain {
        extends: optional_grant(&wire.extends, "extends")?,
        extended_by: optional_grant(&wire.extended_by, "extended_by")?,
        extensions: u32::try_from(wire.extensions)
            .map_err(|_| FieldError::new("extensions", "is negative"))?,
        since: instant_from(wire.chain_start.as_ref(), "chain_start")?,
    };
    let requester = match wire.requester.as_str() {
        "" => None,
        text => Some(principal_from(text, "requester")?),
    };
    let break_glass = match &wire.break_glass {
        Some(review) => Some(PassedOver {
            approvers: matchers_from(&wire.passed_over, "passed_over")?,
            review: break_glass_from(review)?,
        }),
        None => None,
    };
    let origin = Origin {
        request: shared(&wire.request),
        requester,
        policy_digest: wire.policy_digest.into(),
        auto_rule: shared(&wire.auto_rule),
        break_glass,
        chain,
        unused_until: instant_from(wire.unused_until.as_ref(), "unused_until")?,
        create_time: timestamp_from(
            &required(wire.create_time.as_ref(), "create_time")?,
            "create_time",
        )?,
        create_revision: Revision(count_from(wire.create_revision, "create_revision")?),
    };
    Ok(Issued {
        grant,
        origin,
        suspension,
        ending,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::approval::{
        AfterTheFact, Escalation, Opinion, Review, Said, Stage, Step, Verdict,
    };
    use crate::model::policy::Matcher;
    use std::time::Duration;

    use crate::model::grant::{Ended, Grant, Hold, PolicyRef, Staleness};
    use crate::model::identity::Service;
    use crate::model::scope::{GrpcRule, Rule, Scope};

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

    #[test]
    fn a_stored_review_of_other_terms_is_damage() {
        let mut wire = request_to(&reviewed());
        wire.reviews[0].request_digest = "0".repeat(64);
        assert_eq!(
            request_from(wire).unwrap_err().field,
            "reviews.request_digest"
        );
    }

    #[test]
    fn a_request_survives_the_round_trip() {
        let outcome = Outcome {
            time: Timestamp::from_micros(8),
            by: "rule:x".into(),
            reason: "so".into(),
            grant: None,
        };
        let denied = AccessRequest {
            state: AccessState::Denied,
            outcome: Some(outcome),
            ..request()
        };
        let void = Review {
            void: Some("no approver any more".into()),
            ..reviewed().reviews[0].clone()
        };
        let said = Said {
            reviewer: void.reviewer.clone(),
            opinion: Opinion::Objection,
            reason: "why".into(),
            time: Timestamp::from_micros(99),
        };
        let outstanding = AfterTheFact::by(Timestamp::from_micros(50));
        let late = AfterTheFact {
            overdue_since: Some(Timestamp::from_micros(50)),
            said: Some(said),
            ..outstanding.clone()
        };
        let broken = [outstanding, late].map(|review| AccessRequest {
            break_glass: Some(review),
            ..denied.clone()
        });
        let voided = AccessRequest {
            reviews: vec![void],
            ..reviewed()
        };
        for request in [request(), denied, reviewed(), voided]
            .into_iter()
            .chain(broken)
        {
            assert_eq!(request_from(request_to(&request)).unwrap(), request);
        }
    }

    #[test]
    fn a_request_whose_terms_were_altered_is_refused() {
        let wire = v1::AccessRequest {
            subject: "user:iss|mallory".into(),
            ..request_to(&request())
        };
        assert_eq!(request_from(wire).unwrap_err().field, "request_digest");
    }

    #[test]
    fn a_grant_record_survives_the_round_trip() {
        let grant = Grant {
            id: GrantId::parse("01G").unwrap(),
            subject: Principal::parse("user:iss|alice").unwrap(),
            via: vec![],
            scope: scope(),
            not_before: Timestamp::from_micros(1),
            end: End::At(Timestamp::from_micros(5)),
            hold: Hold::None,
            staleness: Staleness::LastKnown,
            policy: PolicyRef {
                name: "p".into(),
                version: 1,
            },
            traceparent: None,
            mod_revision: Revision(2),
        };
        let origin = Origin {
            request: Some("01J".into()),
            create_revision: Revision(2),
            ..Origin::default()
        };
        let chain = Chain {
            extends: Some(GrantId::parse("01F").unwrap()),
            extended_by: Some(GrantId::parse("01H").unwrap()),
            extensions: 2,
            since: Some(Timestamp::from_micros(1)),
        };
        let origin = Origin {
            chain,
            unused_until: Some(Timestamp::from_micros(4)),
            ..origin
        };
        let suspension = Suspension {
            time: Timestamp::from_micros(3),
            reason: "odd".into(),
            by: "root".into(),
        };
        let live = Issued {
            grant,
            origin,
            suspension: Some(suspension),
            ending: None,
        };
        let hold = Hold::Ended {
            how: Ended::Revoked,
            keep_until: Timestamp::from_micros(99),
        };
        let ending = Ending {
            time: Timestamp::from_micros(4),
            reason: "done".into(),
            by: "user:iss|bob".into(),
        };
        let over = Issued {
            grant: Grant {
                hold,
                ..live.grant.clone()
            },
            ending: Some(ending),
            ..live.clone()
        };
        let approvers = vec![Matcher::parse("group:iss|leads").unwrap()];
        let passed_over = PassedOver {
            approvers,
            review: AfterTheFact::by(Timestamp::from_micros(50)),
        };
        let origin = Origin {
            break_glass: Some(passed_over),
            ..live.origin.clone()
        };
        let broken = Issued {
            origin,
            ..live.clone()
        };
        for issued in [live, over, broken] {
            assert_eq!(stored_from(stored_to(&issued)).unwrap(), issued);
        }
    }
}
