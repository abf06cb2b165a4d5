//! Requests of the API into the model. What does not parse is named by its field.

use std::time::Duration;

use crate::control::lifecycle::break_glass::Afterwards;
use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::extend::ExtendInput;
use crate::control::lifecycle::fault::Fault;
use crate::control::lifecycle::grants::{GrantFilter, Sweep};
use crate::control::lifecycle::input::RequestInput;
use crate::control::lifecycle::reviews::ReviewInput;
use crate::control::lifecycle::write_options::WriteOptions;
use crate::control::query::explain::Question;
use crate::control::query::lists::RequestFilter;
use crate::control::query::page::Page;
use crate::model::access::AccessState;
use crate::model::approval::{Opinion, Verdict};
use crate::model::call::WrittenCall;
use crate::model::identity::{Principal, Service};
use crate::model::scope::Scope;
use crate::telemetry::trace;
use crate::wire::access::state_from;
use crate::wire::grant::{FieldError, duration_from, principals_from, scope_from, timestamp_from};
use crate::wire::v1;
use crate::wire::v1::explain_access_request::Target;

mod text;
mod write_options;

pub(super) use text::reason;
use write_options::options_without_etag;
pub(super) use write_options::{cancel, options, release, resume, revoke, suspend};

use text::printable_all;

const PRINCIPALS_MAX: usize = 256;
const PATIENCE_DEFAULT: Duration = Duration::from_secs(5);
const PATIENCE_MAX: Duration = Duration::from_secs(60);

pub(super) fn asking(mut wire: v1::RequestAccessRequest) -> Result<RequestInput, Fault> {
    let options = wire.options.take();
    let options = options_without_etag("jitgate.request_access.v1", options, &wire)?;
    let v1::RequestAccessRequest {
        subject,
        via,
        scope,
        duration,
        reason,
        tickets,
        ..
    } = wire;
    let v1::RequestAccessRequest {
        policy,
        start_time,
        break_glass,
        ..
    } = wire;
    let scope = scope.ok_or_else(|| {
        Fault::invalid("scope", "is absent: name a service and what to call there")
    })?;
    let mut via = workloads(&via)?;
    via.sort();
    via.dedup();
    let duration = duration
        .map(|duration| duration_from(&duration, "duration"))
        .transpose()?;
    printable_all(&reason, &tickets)?;
    Ok(RequestInput {
        subject: optional_principal(&subject, "subject")?,
        via,
        scope: scope_from(&scope)?,
        duration,
        reason,
        tickets,
        policy,
        break_glass,
        start: start_time
            .map(|time| timestamp_from(&time, "start_time"))
            .transpose()?,
        extends: None,
        options,
        traceparent: trace::current_traceparent().map(Into::into),
    })
}

pub(super) fn extending(mut wire: v1::ExtendGrantRequest) -> Result<ExtendInput, Fault> {
    let options = wire.options.take();
    let options = self::options("jitgate.extend_grant.v1", options, &wire)?;
    let v1::ExtendGrantRequest {
        id,
        duration,
        reason,
        tickets,
        ..
    } = wire;
    printable_all(&reason, &tickets)?;
    let duration = duration
        .map(|duration| duration_from(&duration, "duration"))
        .transpose()?;
    let traceparent = trace::current_traceparent().map(Into::into);
    Ok(ExtendInput {
        id,
        duration,
        reason,
        tickets,
        options,
        traceparent,
    })
}

fn workloads(via: &[String]) -> Result<Vec<Principal>, Fault> {
    let parse = |(i, text): (usize, &String)| {
        Principal::workload(text)
            .map_err(|error| Fault::invalid(format!("via[{i}]"), error.to_string()))
    };
    via.iter().enumerate().map(parse).collect()
}

pub(super) fn approval(mut wire: v1::ApproveRequestRequest) -> Result<ReviewInput, Fault> {
    let options = wire.options.take();
    let options = self::options("jitgate.approve_request.v1", options, &wire)?;
    let span = wire.narrowed_duration.as_ref();
    Ok(ReviewInput {
        narrowed_scope: wire.narrowed_scope.as_ref().map(narrowed).transpose()?,
        narrowed_duration: span
            .map(|span| duration_from(span, "narrowed_duration"))
            .transpose()?,
        ..review(
            (wire.id, wire.request_digest),
            Verdict::Approve,
            wire.reason,
            options,
        )?
    })
}

/// A field of the narrowed scope keeps the name that it has there.
fn narrowed(scope: &v1::Scope) -> Result<Scope, Fault> {
    let named =
        |error: FieldError| Fault::invalid(format!("narrowed_{}", error.field), error.problem);
    scope_from(scope).map_err(named)
}

pub(super) fn denial(mut wire: v1::DenyRequestRequest) -> Result<ReviewInput, Fault> {
    let options = wire.options.take();
    let options = self::options("jitgate.deny_request.v1", options, &wire)?;
    review(
        (wire.id, wire.request_digest),
        Verdict::Deny,
        wire.reason,
        options,
    )
}

fn review(
    (request, request_digest): (String, String),
    verdict: Verdict,
    text: String,
    options: WriteOptions,
) -> Result<ReviewInput, Fault> {
    if request_digest.is_empty() {
        return Err(Fault::invalid(
            "request_digest",
            "is absent: send the digest of the request that was looked at",
        ));
    }
    Ok(ReviewInput {
        request,
        verdict,
        digest: request_digest,
        reason: reason(text)?,
        narrowed_scope: None,
        narrowed_duration: None,
        options,
        traceparent: trace::current_traceparent().map(Into::into),
    })
}

pub(super) fn afterwards(mut wire: v1::ReviewBreakGlassRequest) -> Result<Afterwards, Fault> {
    let options = wire.options.take();
    let options = self::options("jitgate.review_break_glass.v1", options, &wire)?;
    let opinion = match v1::BreakGlassOpinion::try_from(wire.opinion) {
        Ok(v1::BreakGlassOpinion::Ok) => Opinion::Fine,
        Ok(v1::BreakGlassOpinion::Objection) => Opinion::Objection,
        Ok(v1::BreakGlassOpinion::Unspecified) | Err(_) => {
            return Err(Fault::invalid("opinion", "must be OK or OBJECTION"));
        }
    };
    let reason = reason(wire.reason)?;
    if opinion == Opinion::Objection && reason.trim().is_empty() {
        return Err(Fault::invalid(
            "reason",
            "is absent: say what there is to object to",
        ));
    }
    Ok(Afterwards {
        id: wire.id,
        opinion,
        reason,
        options,
    })
}

fn optional_principal(text: &str, field: &str) -> Result<Option<Principal>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    Principal::parse(text)
        .map(Some)
        .map_err(|error| Fault::invalid(field, error.to_string()))
}

fn optional_service(text: &str) -> Result<Option<Service>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    Service::parse(text)
        .map(Some)
        .map_err(|error| Fault::invalid("service", error.to_string()))
}

pub(super) fn request_page(
    wire: &v1::ListAccessRequestsRequest,
) -> Result<(Page, RequestFilter), Fault> {
    let state = state_from(wire.state, "state")?;
    let mut names = vec!["requests", state.map_or("", AccessState::as_str)];
    names.extend(wire.for_review.then_some("for review"));
    let page = Page::parse(wire.page_size, &wire.page_token, &names)?;
    Ok((
        page,
        RequestFilter {
            state,
            for_review: wire.for_review,
        },
    ))
}

pub(super) fn grant_page(wire: &v1::ListGrantsRequest) -> Result<(Page, GrantFilter), Fault> {
    let filter = GrantFilter {
        subject: optional_principal(&wire.subject, "subject")?,
        service: optional_service(&wire.service)?,
        include_ended: wire.include_ended,
    };
    let ended = if wire.include_ended { "ended" } else { "" };
    let page = Page::parse(
        wire.page_size,
        &wire.page_token,
        &["grants", &wire.subject, &wire.service, ended],
    )?;
    Ok((page, filter))
}

/// Which grants are to end: everything would be a mistake.
/// Which grants to end, why, and how.
pub(super) fn revoked(
    mut wire: v1::RevokeGrantsRequest,
) -> Result<(Sweep, String, WriteOptions), Fault> {
    let options = wire.options.take();
    wire.wait = v1::RevokeWait::Unspecified.into();
    wire.timeout = None;
    let options = options_without_etag("jitgate.revoke_grants.v1", options, &wire)?;
    let v1::RevokeGrantsRequest {
        subject,
        service,
        include_standing,
        reason,
        ..
    } = wire;
    if subject.is_empty() && service.is_empty() {
        return Err(Fault::invalid(
            "subject",
            "name a subject, a service or both: revoking everything is not offered",
        ));
    }
    let of = GrantFilter {
        subject: optional_principal(&subject, "subject")?,
        service: optional_service(&service)?,
        include_ended: false,
    };
    let sweep = Sweep {
        of,
        include_standing,
    };
    Ok((sweep, self::reason(reason)?, options))
}

/// How long to wait for enforcement; zero: only until it is durable.
pub(super) fn patience(
    wait: i32,
    timeout: Option<prost_types::Duration>,
) -> Result<Duration, Fault> {
    let wait = v1::RevokeWait::try_from(wait)
        .map_err(|_| Fault::invalid("wait", format!("{wait} is not known to this version")))?;
    let timeout = timeout.map_or(Ok(PATIENCE_DEFAULT), |timeout| {
        duration_from(&timeout, "timeout")
    })?;
    if timeout > PATIENCE_MAX {
        return Err(Fault::invalid(
            "timeout",
            format!("must be at most {} s", PATIENCE_MAX.as_secs()),
        ));
    }
    Ok(match wait {
        v1::RevokeWait::All => timeout,
        v1::RevokeWait::Unspecified | v1::RevokeWait::Committed => Duration::ZERO,
    })
}

pub(crate) fn question(wire: v1::ExplainAccessRequest, caller: &Caller) -> Result<Question, Fault> {
    if wire.principals.len() > PRINCIPALS_MAX {
        return Err(Fault::invalid(
            "principals",
            format!("are more than {PRINCIPALS_MAX}"),
        ));
    }
    let principals = match wire.principals.as_slice() {
        [] => caller.principals().to_vec(),
        named => principals_from(named, "principals")?,
    };
    let call = match wire.target {
        Some(Target::Grpc(path)) => WrittenCall::grpc(path),
        Some(Target::Http(line)) => {
            WrittenCall::http(&line).map_err(|error| Fault::invalid("http", error.to_string()))?
        }
        None => {
            return Err(Fault::invalid(
                "target",
                "say what would be called: grpc or http",
            ));
        }
    };
    Ok(Question {
        principals,
        service: optional_service(&wire.service)?
            .ok_or_else(|| Fault::invalid("service", "is absent"))?,
        call,
        at: wire.at.map(|at| timestamp_from(&at, "at")).transpose()?,
    })
}

#[cfg(test)]
mod tests;
