//! The terms of the policy in charge: wildcards, time, reason and tickets. A request that breaks one is refused, never
//! trimmed to fit.

use std::time::Duration;

use super::refuse;
use crate::control::policy::duration::write_duration;
use crate::control::policy::zone::end_within;
use crate::model::policy::{
    AccessPolicy, Ask, DURATION_MIN, LIST_MAX, REASON_MAX, Refusal, RefusalReason, TICKET_MAX,
    TICKETS_MAX, VIA_MAX,
};
use crate::model::time::Timestamp;

/// What no policy can allow.
pub(super) fn within_limits(ask: &Ask<'_>) -> Result<(), Refusal> {
    let limit =
        |field, message: String| Err(refuse::plain(RefusalReason::LimitExceeded, field, message));
    if ask.requester.len() > LIST_MAX {
        return limit(
            "requester",
            format!("the caller has more than {LIST_MAX} principals; ask with fewer groups"),
        );
    }
    if ask.via.len() > VIA_MAX {
        return limit(
            "via",
            format!("via names more than {VIA_MAX} workloads; name fewer"),
        );
    }
    if ask.reason.chars().count() > REASON_MAX {
        return limit(
            "reason",
            format!("the reason is longer than {REASON_MAX} characters; shorten it"),
        );
    }
    if ask.tickets.len() > TICKETS_MAX {
        return limit(
            "tickets",
            format!("there are more than {TICKETS_MAX} tickets; name fewer"),
        );
    }
    if ask
        .tickets
        .iter()
        .any(|ticket| ticket.trim().is_empty() || ticket.chars().count() > TICKET_MAX)
    {
        return limit(
            "tickets",
            format!("each ticket must have 1 to {TICKET_MAX} characters"),
        );
    }
    if ask.duration.is_some_and(|duration| duration < DURATION_MIN) {
        return limit("duration", "the duration must be at least 1s".to_owned());
    }
    Ok(())
}

/// Checks the policy's own terms; the duration that applies.
pub(super) fn accept(policy: &AccessPolicy, ask: &Ask<'_>) -> Result<Duration, Refusal> {
    wildcard(policy, ask)?;
    let duration = ask.duration.unwrap_or(policy.duration.default);
    if duration > policy.duration.max {
        let (asked, max) = (
            write_duration(duration),
            write_duration(policy.duration.max),
        );
        let message = format!(
            "policy {} allows at most {max}, and this asks for {asked}",
            policy.name
        );
        return Err(refuse::by(
            policy,
            RefusalReason::LimitExceeded,
            "duration",
            message,
        ));
    }
    reason(policy, ask.reason.trim())?;
    tickets(policy, ask)?;
    window(policy, ask.start.unwrap_or(ask.now), duration)?;
    Ok(duration)
}

/// Access begins inside a window. What is cut off at its end is cut off when the grant is issued.
fn window(policy: &AccessPolicy, start: Timestamp, duration: Duration) -> Result<(), Refusal> {
    let closed = |closed| {
        let message = format!("policy {} {closed}", policy.name);
        refuse::by(policy, RefusalReason::OutsideWindow, "start_time", message)
    };
    end_within(&policy.windows, start, duration)
        .map(drop)
        .map_err(closed)
}

fn wildcard(policy: &AccessPolicy, ask: &Ask<'_>) -> Result<(), Refusal> {
    match ask.scope.rules().iter().find(|rule| rule.has_wildcard()) {
        Some(rule) if !policy.allow_wildcard => {
            let message = format!(
                "policy {} wants each target named, and {rule} is a wildcard; ask for the methods and paths you need",
                policy.name
            );
            Err(refuse::by(
                policy,
                RefusalReason::WildcardNotAllowed,
                "scope",
                message,
            ))
        }
        Some(_) | None => Ok(()),
    }
}

fn reason(policy: &AccessPolicy, reason: &str) -> Result<(), Refusal> {
    let rule = &policy.reason;
    let missing = match reason.chars().count() {
        0 if !rule.required => return Ok(()),
        0 => Some("wants a reason".to_owned()),
        length if length < rule.min_length => Some(format!(
            "wants a reason of at least {} characters, and this one has {length}",
            rule.min_length
        )),
        _ => match &rule.pattern {
            Some(pattern) if !pattern.occurs_in(reason) => {
                Some(format!("wants a reason with the form {}", pattern.as_str()))
            }
            Some(_) | None => None,
        },
    };
    refuse_with_help(
        policy,
        RefusalReason::ReasonRequired,
        "reason",
        missing,
        rule.help.as_deref(),
    )
}

fn tickets(policy: &AccessPolicy, ask: &Ask<'_>) -> Result<(), Refusal> {
    let rule = &policy.tickets;
    let wrong = |ticket: &&String| {
        rule.pattern
            .as_ref()
            .is_some_and(|pattern| !pattern.matches_whole(ticket))
    };
    let missing = match (ask.tickets.iter().find(wrong), &rule.pattern) {
        (Some(ticket), Some(pattern)) => Some(format!(
            "wants tickets of the form {}, and {ticket:?} is not",
            pattern.as_str()
        )),
        _ if rule.required && ask.tickets.is_empty() => Some("wants a ticket".to_owned()),
        _ => None,
    };
    refuse_with_help(
        policy,
        RefusalReason::TicketRequired,
        "tickets",
        missing,
        rule.help.as_deref(),
    )
}

fn refuse_with_help(
    policy: &AccessPolicy,
    reason: RefusalReason,
    field: &'static str,
    missing: Option<String>,
    help: Option<&str>,
) -> Result<(), Refusal> {
    let Some(missing) = missing else {
        return Ok(());
    };
    let help = help.map(|help| format!(": {help}")).unwrap_or_default();
    Err(refuse::by(
        policy,
        reason,
        field,
        format!("policy {} {missing}{help}", policy.name),
    ))
}
