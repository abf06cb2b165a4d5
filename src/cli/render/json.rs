//! Our messages as JSON values, spelled out field by field so that their shape never changes by accident.

use serde_json::{Value, json};

use crate::wire::grant::{duration_from, duration_to, timestamp_from};
use crate::wire::v1;

use super::times::after_commit;

/// An access request.
pub(crate) fn access_request(request: &v1::AccessRequest) -> Value {
    json!({
        "id": request.id,
        "state": state(request.state().as_str_name(), "ACCESS_REQUEST_STATE_"),
        "requester": request.requester,
        "subject": request.subject,
        "via": request.via,
        "scope": scope(request.scope.as_ref()),
        "duration": span(request.duration.as_ref()),
        "reason": request.reason,
        "tickets": request.tickets,
        "policy": request.policy,
        "policyVersion": request.policy_version,
        "policyDigest": request.policy_digest,
        "requestDigest": request.request_digest,
        "grant": request.grant,
        "createTime": time(request.create_time.as_ref()),
        "pendingUntil": time(request.pending_until.as_ref()),
        "endTime": time(request.end_time.as_ref()),
        "decidedBy": request.decided_by,
        "decisionReason": request.decision_reason,
        "notes": request.notes,
        "traceparent": request.traceparent,
        "createRevision": request.create_revision,
        "modRevision": request.mod_revision,
        "reviews": request.reviews.iter().map(review).collect::<Vec<_>>(),
        "progress": request.progress.iter().map(step).collect::<Vec<_>>(),
        "etag": request.etag,
        "startTime": time(request.start_time.as_ref()),
        "extends": request.extends,
        "breakGlass": request.break_glass.as_ref().map(break_glass),
    })
}

fn review(review: &v1::Review) -> Value {
    json!({
        "reviewer": review.reviewer,
        "verdict": state(review.verdict().as_str_name(), "REVIEW_VERDICT_"),
        "reason": review.reason,
        "createTime": time(review.create_time.as_ref()),
        "principals": review.principals,
        "requestDigest": review.request_digest,
        "narrowedScope": scope(review.narrowed_scope.as_ref()),
        "narrowedDuration": span(review.narrowed_duration.as_ref()),
        "stage": review.stage,
        "step": review.step,
        "void": review.void,
    })
}

fn step(step: &v1::StepProgress) -> Value {
    json!({
        "stage": step.stage,
        "step": step.step,
        "have": step.have,
        "need": step.need,
        "denials": step.denials,
        "denialsRefuse": step.denials_refuse,
        "approvers": step.approvers,
        "open": step.open,
        "escalations": step.escalations.iter().map(escalation).collect::<Vec<_>>(),
    })
}

fn escalation(escalation: &v1::Escalation) -> Value {
    json!({ "after": span(escalation.after.as_ref()), "approvers": escalation.approvers })
}

/// The review afterwards.
fn break_glass(review: &v1::BreakGlass) -> Value {
    json!({
        "reviewDue": time(review.review_due.as_ref()),
        "overdueSince": time(review.overdue_since.as_ref()),
        "reviewer": review.reviewer,
        "opinion": state(review.opinion().as_str_name(), "BREAK_GLASS_OPINION_"),
        "reason": review.reason,
        "reviewTime": time(review.review_time.as_ref()),
    })
}

/// A grant.
pub(crate) fn grant(grant: &v1::Grant) -> Value {
    json!({
        "id": grant.id,
        "state": state(grant.state().as_str_name(), "GRANT_STATE_"),
        "subject": grant.subject,
        "via": grant.via,
        "scope": scope(grant.scope.as_ref()),
        "notBefore": time(grant.not_before.as_ref()),
        "expireTime": time(grant.expire_time.as_ref()),
        "standing": grant.standing,
        "request": grant.request,
        "policy": grant.policy,
        "policyVersion": grant.policy_version,
        "policyDigest": grant.policy_digest,
        "autoRule": grant.auto_rule,
        "breakGlass": grant.break_glass.as_ref().map(break_glass),
        "traceparent": grant.traceparent,
        "staleness": state(grant.staleness().as_str_name(), "STALENESS_"),
        "createRevision": grant.create_revision,
        "modRevision": grant.mod_revision,
        "createTime": time(grant.create_time.as_ref()),
        "endTime": time(grant.end_time.as_ref()),
        "endReason": grant.end_reason,
        "endedBy": grant.ended_by,
        "unusedUntil": time(grant.unused_until.as_ref()),
        "firstUseTime": time(grant.first_use_time.as_ref()),
        "lastUseTime": time(grant.last_use_time.as_ref()),
        "useCount": grant.use_count,
        "usedAt": grant.used_at,
        "etag": grant.etag,
        "suspendTime": time(grant.suspend_time.as_ref()),
        "suspendedBy": grant.suspended_by,
        "suspendReason": grant.suspend_reason,
        "extends": grant.extends,
        "extendedBy": grant.extended_by,
    })
}

/// What suspending or resuming did.
pub(crate) fn held(response: &v1::HoldGrantResponse) -> Value {
    beside(
        response.enforcement.as_ref(),
        [("grant", json!(response.grant.as_ref().map(grant)))],
    )
}

/// What a revoke did.
pub(crate) fn revoked(response: &v1::RevokeGrantsResponse) -> Value {
    beside(
        response.enforcement.as_ref(),
        [
            ("grants", response.grants.iter().map(grant).collect()),
            ("ended", json!(response.ended)),
            ("standingKept", json!(response.standing_kept)),
        ],
    )
}

/// What was changed, and how far that is enforced, in one object.
fn beside<const N: usize>(
    enforcement: Option<&v1::Enforcement>,
    changed: [(&str, Value); N],
) -> Value {
    let enforced = enforcement.cloned().unwrap_or_default();
    let committed_at = enforced.committed_at.as_ref();
    let receipts = enforced.receipts.iter();
    let receipts = receipts.map(|row| receipt(row, committed_at));
    let enforced = [
        ("revision", json!(enforced.revision)),
        ("receipts", receipts.collect()),
        ("outstanding", json!(enforced.outstanding)),
        ("fencedBy", time(enforced.fenced_by.as_ref())),
        ("committedAt", time(committed_at)),
        ("serverTime", time(enforced.server_time.as_ref())),
        (
            "unconfirmed",
            enforced.unconfirmed.iter().map(unconfirmed).collect(),
        ),
    ];
    let members = changed.into_iter().chain(enforced);
    let members = members.map(|(name, value)| (name.to_owned(), value));
    Value::Object(members.collect())
}

/// A sidecar's word that a revision is enforced.
pub(crate) fn receipt(
    receipt: &v1::Receipt,
    committed_at: Option<&prost_types::Timestamp>,
) -> Value {
    let delay = after_commit(committed_at, receipt.applied_at.as_ref()).map(duration_to);
    json!({
        "sidecar": receipt.sidecar,
        "instance": receipt.instance,
        "revision": receipt.revision,
        "appliedAt": time(receipt.applied_at.as_ref()),
        "delay": span(delay.as_ref()),
        "streamsClosed": receipt.streams_closed,
    })
}

/// A sidecar that has not confirmed.
pub(crate) fn unconfirmed(silent: &v1::Unconfirmed) -> Value {
    json!({
        "sidecar": silent.sidecar,
        "instance": silent.instance,
        "connected": silent.connected,
        "ackedRevision": silent.acked_revision,
        "lastSeen": time(silent.last_seen.as_ref()),
        "fencedBy": time(silent.fenced_by.as_ref()),
        "fenced": silent.fenced,
    })
}

/// An explanation.
pub(crate) fn explanation(response: &v1::ExplainAccessResponse) -> Value {
    let step = |step: &v1::explain_access_response::Step| json!({ "check": step.check, "ok": step.ok, "detail": step.detail });
    json!({
        "allowed": response.allowed,
        "reason": response.reason,
        "grant": response.grant.as_ref().map(grant),
        "steps": response.steps.iter().map(step).collect::<Vec<_>>(),
        "requestable": response.requestable,
        "revision": response.revision,
    })
}

/// One sidecar.
pub(crate) fn sidecar(sidecar: &v1::Sidecar) -> Value {
    json!({
        "id": sidecar.id,
        "instance": sidecar.instance,
        "services": sidecar.services,
        "connected": sidecar.connected,
        "ackedRevision": sidecar.acked_revision,
        "lastSeen": time(sidecar.last_seen.as_ref()),
        "clockOffset": span(sidecar.clock_offset.as_ref()),
        "software": sidecar.software,
        "nacks": sidecar.nacks,
        "lastNack": sidecar.last_nack,
        "connectedSince": time(sidecar.connected_since.as_ref()),
        "lastAck": time(sidecar.last_ack.as_ref()),
        "clockError": span(sidecar.clock_error.as_ref()),
        "clockVerdict": state(sidecar.clock_verdict().as_str_name(), "CLOCK_VERDICT_"),
        "refusesSkewed": sidecar.refuses_skewed,
        "openLeashes": sidecar.open_leashes,
        "maxStaleness": span(sidecar.max_staleness.as_ref()),
        "sessions": sidecar.sessions,
        "identity": sidecar.identity,
        "mode": mode(sidecar),
        "merged": sidecar.merged,
    })
}

/// Whether it refuses anything, as `--mode` says it.
pub(crate) fn mode(sidecar: &v1::Sidecar) -> &'static str {
    if sidecar.shadow { "shadow" } else { "enforce" }
}

fn scope(scope: Option<&v1::Scope>) -> Value {
    let Some(scope) = scope else {
        return Value::Null;
    };
    let rule = |rule: &v1::HttpRule| json!({ "methods": rule.methods, "path": rule.path });
    json!({
        "service": scope.service,
        "grpc": scope.grpc,
        "http": scope.http.iter().map(rule).collect::<Vec<_>>(),
    })
}

/// RFC 3339, or null where there is none or none that can be written.
pub(crate) fn time(time: Option<&prost_types::Timestamp>) -> Value {
    time.and_then(|time| timestamp_from(time, "").ok())
        .map_or(Value::Null, |time| Value::String(time.to_string()))
}

/// Seconds with as many decimals as are needed: "20s", "1.5s", "-0.002s".
pub(crate) fn span(span: Option<&prost_types::Duration>) -> Value {
    let Some(span) = span else { return Value::Null };
    let negative = span.seconds < 0 || span.nanos < 0;
    let positive = prost_types::Duration {
        seconds: span.seconds.saturating_abs(),
        nanos: span.nanos.saturating_abs(),
    };
    let Ok(length) = duration_from(&positive, "") else {
        return Value::Null;
    };
    let sign = if negative { "-" } else { "" };
    let mut decimals = format!(".{:09}", length.subsec_nanos());
    decimals.truncate(decimals.trim_end_matches(['0', '.']).len());
    Value::String(format!("{sign}{}{decimals}s", length.as_secs()))
}

/// The bare value of an enum.
pub(crate) fn state(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_owned()
}
