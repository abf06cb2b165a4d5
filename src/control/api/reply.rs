//! Answers of the API. Sizes are bounded: what does not fit into one message is left out, never sent cut.

use std::time::Duration;

use prost::Message;
use tracing::Span;

use crate::control::fanout::fleet::{Outstanding, Receipt};
use crate::control::fanout::{Enforcement, Sidecar};
use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::control::lifecycle::grants::EndReport;
use crate::control::lifecycle::plane::Plane;
use crate::control::query::explain::{Explanation, Step};
use crate::model::access::Issued;
use crate::model::grant::Revision;
use crate::telemetry::names;
use crate::wire::access::{issued_to, revision_to};
use crate::wire::grant::{duration_to, scope_to, timestamp_to};
use crate::wire::v1;

/// Grants and receipts listed in the answer to a revoke, in bytes each: a client takes 4 MiB by default.
const LISTED_BYTES_MAX: usize = 3 << 19;
/// Sidecars listed there that have not confirmed.
const UNCONFIRMED_BYTES_MAX: usize = 1 << 19;

pub(super) fn record_ends(ends: &EndReport) {
    let span = Span::current();
    span.record(names::STORE_REVISION, revision_to(ends.revision));
    if let [one] = ends.grants.as_slice() {
        span.record(names::GRANT_ID, one.grant.id.as_str());
        span.record(names::SERVICE, one.grant.scope.service().as_str());
    }
}

/// What ended, and how far that is enforced after `patience`.
pub(super) async fn ends(
    plane: &Plane,
    caller: &Caller,
    ends: &EndReport,
    patience: Duration,
) -> v1::RevokeGrantsResponse {
    record_ends(ends);
    let enforcement = enforcement(plane, caller, ends, patience).await;
    let now = plane.now();
    v1::RevokeGrantsResponse {
        grants: what_fits(
            ends.grants.iter().map(|issued| issued_to(issued, now)),
            LISTED_BYTES_MAX,
        ),
        ended: number(ends.changed),
        standing_kept: number(ends.standing_kept),
        enforcement: Some(enforcement),
    }
}

/// The grant that was held back or let go, and how far that is enforced after `patience`.
pub(super) async fn held(
    plane: &Plane,
    caller: &Caller,
    ends: &EndReport,
    patience: Duration,
) -> Result<v1::HoldGrantResponse, Fault> {
    record_ends(ends);
    let enforcement = enforcement(plane, caller, ends, patience).await;
    Ok(v1::HoldGrantResponse {
        grant: Some(issued_to(only(ends)?, plane.now())),
        enforcement: Some(enforcement),
    })
}

/// The one grant that was changed.
pub(super) fn only(ends: &EndReport) -> Result<&Issued, Fault> {
    ends.grants
        .first()
        .ok_or_else(|| Fault::new(FaultKind::Internal, "nothing was changed"))
}

async fn enforcement(
    plane: &Plane,
    caller: &Caller,
    ends: &EndReport,
    patience: Duration,
) -> v1::Enforcement {
    let enforcement = if ends.revision == Revision(0) {
        // What was only rehearsed is nobody's to enforce.
        Enforcement::default()
    } else {
        plane.await_enforced(ends, patience).await
    };
    let enforcement = if caller.is_admin() {
        enforcement
    } else {
        enforcement.without_instances()
    };
    let still = number(enforcement.still());
    let Enforcement {
        committed_at,
        receipts,
        outstanding,
        fenced,
        fenced_by,
    } = enforcement;
    v1::Enforcement {
        revision: revision_to(ends.revision),
        outstanding: still,
        receipts: what_fits(receipts.into_iter().map(receipt), LISTED_BYTES_MAX),
        unconfirmed: what_fits(unconfirmed(outstanding, fenced), UNCONFIRMED_BYTES_MAX),
        fenced_by: fenced_by.map(timestamp_to),
        committed_at: committed_at.map(timestamp_to),
        server_time: Some(timestamp_to(plane.now())),
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn receipt(receipt: Receipt) -> v1::Receipt {
    v1::Receipt {
        sidecar: receipt.sidecar,
        instance: receipt.instance,
        revision: revision_to(receipt.revision),
        applied_at: receipt.applied_at.map(timestamp_to),
        streams_closed: i32::try_from(receipt.streams_closed).unwrap_or(i32::MAX),
    }
}

fn unconfirmed(
    outstanding: Vec<Outstanding>,
    fenced: Vec<Outstanding>,
) -> impl Iterator<Item = v1::Unconfirmed> {
    let outstanding = outstanding.into_iter().map(|silent| (silent, false));
    outstanding
        .chain(fenced.into_iter().map(|silent| (silent, true)))
        .map(|(silent, fenced)| v1::Unconfirmed {
            sidecar: named(silent.sidecar, silent.merged),
            instance: silent.instance,
            connected: silent.connected,
            acked_revision: revision_to(silent.acked),
            last_seen: Some(timestamp_to(silent.last_seen)),
            fenced_by: Some(timestamp_to(silent.fenced_by)),
            fenced,
        })
}

/// A row that stands for several departed sidecars names one of them.
fn named(sidecar: String, merged: usize) -> String {
    if merged == 0 {
        return sidecar;
    }
    format!("{sidecar} and {merged} more")
}

/// As many from the beginning as one message takes.
fn what_fits<M: Message>(messages: impl Iterator<Item = M>, bytes: usize) -> Vec<M> {
    let mut left = bytes;
    let fitting = messages.take_while(|message| {
        let fits = left.checked_sub(message.encoded_len());
        left = fits.unwrap_or(0);
        fits.is_some()
    });
    fitting.collect()
}

pub(super) fn explanation(explanation: Explanation) -> v1::ExplainAccessResponse {
    let Explanation {
        denied,
        grant,
        steps,
        requestable,
        revision,
        told_by,
    } = explanation;
    let step = |Step { check, ok, detail }| v1::explain_access_response::Step {
        check: check.to_owned(),
        ok,
        detail,
    };
    v1::ExplainAccessResponse {
        allowed: denied.is_none(),
        reason: denied
            .map(|reason| reason.as_str().to_owned())
            .unwrap_or_default(),
        grant: grant.map(|issued| issued_to(&issued, told_by)),
        steps: steps.into_iter().map(step).collect(),
        requestable: requestable.iter().map(ToString::to_string).collect(),
        revision: revision_to(revision),
    }
}

pub(super) fn sidecar(sidecar: Sidecar) -> v1::Sidecar {
    let micros = sidecar.clock_offset_micros;
    let nanos = i32::try_from(micros % 1_000_000 * 1000).unwrap_or(0);
    let told = sidecar.clock_verdict != v1::ClockVerdict::Unspecified;
    v1::Sidecar {
        id: named(sidecar.id, sidecar.merged),
        instance: sidecar.instance,
        services: sidecar.services.iter().map(ToString::to_string).collect(),
        connected: sidecar.connected_since.is_some(),
        acked_revision: revision_to(sidecar.acked),
        last_seen: Some(timestamp_to(sidecar.last_seen)),
        clock_offset: Some(prost_types::Duration {
            seconds: micros / 1_000_000,
            nanos,
        }),
        software: sidecar.software,
        nacks: i64::try_from(sidecar.nacks).unwrap_or(i64::MAX),
        last_nack: sidecar
            .last_nack
            .map(|nack| format!("{}: {}", nack.grant, nack.error))
            .unwrap_or_default(),
        connected_since: sidecar.connected_since.map(timestamp_to),
        clock_error: told.then(|| duration_to(sidecar.clock_error)),
        clock_verdict: sidecar.clock_verdict.into(),
        open_leashes: i32::try_from(sidecar.open_leashes).unwrap_or(i32::MAX),
        refuses_skewed: sidecar.refuses_skewed,
        last_ack: sidecar.last_ack.map(timestamp_to),
        max_staleness: Some(duration_to(sidecar.max_staleness)),
        sessions: i64::try_from(sidecar.sessions).unwrap_or(i64::MAX),
        identity: sidecar.identity.as_str().to_owned(),
        shadow: sidecar.shadow,
        merged: i64::try_from(sidecar.merged).unwrap_or(i64::MAX),
    }
}

/// Policies in force: all of them for an administrator, else those that the caller may ask under.
pub(super) async fn policies(
    plane: &Plane,
    caller: &Caller,
) -> Result<Vec<v1::PolicySummary>, Fault> {
    let policies_in_force = plane.policies_in_force();
    let asks = |policy: &crate::model::policy::AccessPolicy| {
        policy.requesters.iter().any(|who| {
            caller
                .principals()
                .iter()
                .any(|principal| who.matches(principal))
        })
    };
    let mut policies: Vec<_> = policies_in_force
        .policies()
        .into_iter()
        .filter(|policy| caller.is_admin() || asks(policy))
        .map(|policy| v1::PolicySummary {
            name: policy.name.to_string(),
            version: 0,
            digest: policy.digest.to_string(),
            mode: policy.mode.as_str().to_owned(),
            priority: policy.priority,
            scope: Some(scope_to(&policy.scope)),
        })
        .collect();
    plane
        .store()
        .read(move |reader| {
            for policy in &mut policies {
                let version = reader.policy_version(&policy.name, &policy.digest)?;
                policy.version = version
                    .and_then(|version| i64::try_from(version).ok())
                    .unwrap_or(0);
            }
            Ok(policies)
        })
        .await
}
