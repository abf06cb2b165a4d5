//! A refusal as gRPC status: code, sentence, `google.rpc.ErrorInfo`, and `BadRequest` with the field where there is one.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::model::policy::RefusalReason;

/// `ErrorInfo.domain` of every refusal.
pub(crate) const DOMAIN: &str = "jitgate.dev";

/// The status of a refusal.
pub(crate) fn from_fault(fault: &Fault) -> Status {
    let metadata: HashMap<String, String> = fault
        .metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
    let mut details = ErrorDetails::with_error_info(fault.kind.reason(), DOMAIN, metadata);
    if let Some(field) = &fault.field {
        details.add_bad_request_violation(field, &*fault.message);
    }
    if matches!(fault.kind, FaultKind::Busy | FaultKind::Unavailable) {
        details.set_retry_info(Some(Duration::from_secs(1)));
    }
    let message = match &fault.field {
        Some(field) if fault.kind == FaultKind::Invalid => format!("{field}: {}", fault.message),
        Some(_) | None => fault.message.to_string(),
    };
    Status::with_error_details(code(fault.kind), message, details)
}

fn code(kind: FaultKind) -> Code {
    match kind {
        FaultKind::Unauthenticated(_) => Code::Unauthenticated,
        FaultKind::Invalid => Code::InvalidArgument,
        FaultKind::Refused(reason) => refused(reason),
        FaultKind::NotEligible => Code::PermissionDenied,
        FaultKind::NotFound => Code::NotFound,
        FaultKind::Terminal
        | FaultKind::State(_)
        | FaultKind::Review(_)
        | FaultKind::Inactive(_)
        | FaultKind::HistoryUnknown
        | FaultKind::PoliciesChanged => Code::FailedPrecondition,
        FaultKind::EtagMismatch => Code::Aborted,
        FaultKind::Limit | FaultKind::Busy => Code::ResourceExhausted,
        FaultKind::Unavailable => Code::Unavailable,
        FaultKind::Internal => Code::Internal,
    }
}

fn refused(reason: RefusalReason) -> Code {
    match reason {
        RefusalReason::NoPolicy
        | RefusalReason::ScopeNotRequestable
        | RefusalReason::SubjectNotAllowed
        | RefusalReason::ViaNotAllowed
        | RefusalReason::BreakGlassNotAllowed => Code::PermissionDenied,
        RefusalReason::PolicyMismatch
        | RefusalReason::OutsideWindow
        | RefusalReason::BreakGlassSuspended => Code::FailedPrecondition,
        RefusalReason::WildcardNotAllowed
        | RefusalReason::LimitExceeded
        | RefusalReason::ReasonRequired
        | RefusalReason::TicketRequired => Code::InvalidArgument,
    }
}
