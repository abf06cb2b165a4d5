//! Breaking the glass: the policy's own terms hold, and these on top. Only the people are passed over; windows and denials are not.

use std::time::Duration;

use super::refuse;
use crate::control::policy::duration::write_duration;
use crate::model::policy::{AccessPolicy, Ask, Refusal, RefusalReason};

/// The duration that applies, and how long the review afterwards may take.
pub(super) fn accept(
    policy: &AccessPolicy,
    ask: &Ask<'_>,
) -> Result<(Duration, Duration), Refusal> {
    let refused = |message: String| {
        Err(refuse::by(
            policy,
            RefusalReason::BreakGlassNotAllowed,
            "break_glass",
            format!("policy {} {message}", policy.name),
        ))
    };
    let Some(rule) = &policy.break_glass else {
        return refused(
            "lets nobody break the glass; ask without, and its approvers decide".to_owned(),
        );
    };
    if !rule.admits(ask.requester) {
        return refused(
            "lets others break the glass, and not you; ask without, and its approvers decide"
                .to_owned(),
        );
    }
    if ask.start.is_some() {
        let message = format!(
            "policy {} lets the glass be broken for now, not for later; leave the start out",
            policy.name
        );
        return Err(refuse::by(
            policy,
            RefusalReason::BreakGlassNotAllowed,
            "start_time",
            message,
        ));
    }
    let duration = ask
        .duration
        .unwrap_or_else(|| policy.duration.default.min(rule.max_duration));
    if duration > rule.max_duration {
        let (asked, max) = (write_duration(duration), write_duration(rule.max_duration));
        let message = format!(
            "policy {} allows at most {max} behind broken glass, and this asks for {asked}",
            policy.name
        );
        return Err(refuse::by(
            policy,
            RefusalReason::LimitExceeded,
            "duration",
            message,
        ));
    }
    let length = ask.reason.trim().chars().count();
    if length < rule.reason_min {
        let message = format!(
            "policy {} wants a reason of at least {} characters from whoever breaks the glass, and this one has {length}",
            policy.name, rule.reason_min
        );
        return Err(refuse::by(
            policy,
            RefusalReason::ReasonRequired,
            "reason",
            message,
        ));
    }
    Ok((duration, rule.review_within))
}
