//! Why a call of the API is refused: one word, one sentence, and the field to change. Knows no wire format.

use std::borrow::Cow;

use crate::model::access::Terminal;
use crate::model::decision::DenyReason;
use crate::model::grant::{GrantState, StepRefused};
use crate::model::policy::{Refusal, RefusalReason};
use crate::wire::grant::FieldError;

use crate::control::store::StoreError;
use crate::control::store::change::ChangeError;

/// A refused call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fault {
    /// What kind of refusal.
    pub kind: FaultKind,
    /// In one sentence, with the way out.
    pub message: Cow<'static, str>,
    /// The field of the request at fault.
    pub field: Option<String>,
    /// For programs: more words about it.
    pub metadata: Vec<(&'static str, String)>,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// No credential that counts.
    Unauthenticated(DenyReason),
    /// The request is malformed.
    Invalid,
    /// No policy takes the access request.
    Refused(RefusalReason),
    /// The caller may not do this.
    NotEligible,
    /// The review cannot count.
    Review(ReviewRefusal),
    /// No such thing, or not for this caller to see.
    NotFound,
    /// It is over and stays so.
    Terminal,
    /// The grant is not in force.
    Inactive(DenyReason),
    /// What was in force at a past moment is not known any more.
    HistoryUnknown,
    /// Another set of policies is in force than the one planned against.
    PoliciesChanged,
    /// The grant is not where this can be done to it.
    State(StateRefusal),
    /// The caller has looked at an older state.
    EtagMismatch,
    /// A bound of the control plane.
    Limit,
    /// Too much waits; a retry may pass.
    Busy,
    /// Not now; a retry may pass.
    Unavailable,
    /// The store is damaged, or a defect.
    Internal,
}

/// Why a review cannot count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReviewRefusal {
    /// Of the requester or the subject.
    SelfApproval,
    /// Of somebody who has reviewed already.
    AlreadyReviewed,
    /// Of somebody for whom nothing waits here.
    NotEligible,
    /// Of other bytes.
    DigestMismatch,
}

impl ReviewRefusal {
    /// The one word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::SelfApproval => "SELF_APPROVAL",
            Self::AlreadyReviewed => "ALREADY_REVIEWED",
            Self::NotEligible => "NOT_ELIGIBLE",
            Self::DigestMismatch => "DIGEST_MISMATCH",
        }
    }
}

/// Why a grant cannot take a step, although it is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateRefusal {
    /// It has not begun.
    NotStarted,
    /// It is held back.
    Suspended,
    /// It is not held back.
    NotSuspended,
    /// It has no end to be moved.
    Standing,
    /// Another grant extends it already.
    Extended,
}

impl StateRefusal {
    /// The one word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NotStarted => "GRANT_NOT_STARTED",
            Self::Suspended => "GRANT_SUSPENDED",
            Self::NotSuspended => "GRANT_NOT_SUSPENDED",
            Self::Standing => "GRANT_STANDING",
            Self::Extended => "GRANT_EXTENDED",
        }
    }
}

impl FaultKind {
    /// The one word: `ErrorInfo.reason` and metric label.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Unauthenticated(reason) => reason.as_str(),
            Self::Invalid => "INVALID_ARGUMENT",
            Self::Refused(reason) => reason.as_str(),
            Self::NotEligible => "NOT_ELIGIBLE",
            Self::Review(refusal) => refusal.as_str(),
            Self::NotFound => "NOT_FOUND",
            Self::Terminal => "STATE_TERMINAL",
            Self::Inactive(reason) => reason.as_str(),
            Self::HistoryUnknown => "HISTORY_UNKNOWN",
            Self::PoliciesChanged => "POLICIES_CHANGED",
            Self::State(refusal) => refusal.as_str(),
            Self::EtagMismatch => "ETAG_MISMATCH",
            Self::Limit => "LIMIT_EXCEEDED",
            Self::Busy => "BUSY",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "INTERNAL",
        }
    }
}

impl Fault {
    /// A refusal of some kind.
    pub(crate) fn new(kind: FaultKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            field: None,
            metadata: vec![],
        }
    }

    /// A malformed field.
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<Cow<'static, str>>) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::new(FaultKind::Invalid, problem)
        }
    }

    /// `what` does not exist, or not for this caller.
    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        let id: String = id.chars().take(64).collect();
        Self::new(
            FaultKind::NotFound,
            format!("there is no {what} {id:?} that this caller may see"),
        )
    }

    /// The same with a word for programs.
    #[must_use]
    pub(crate) fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.metadata.push((key, value.into()));
        self
    }
}

impl From<FieldError> for Fault {
    fn from(error: FieldError) -> Self {
        Self::invalid(error.field, error.problem)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        // Paths and rows are the operator's business; the caller learns that it was not their doing.
        let (kind, message) = match error {
            StoreError::Busy => (FaultKind::Busy, "too many requests wait; try again shortly"),
            StoreError::Medium(_) | StoreError::Closed | StoreError::Conflict => (
                FaultKind::Unavailable,
                "the control plane cannot use its store now; try again later",
            ),
            StoreError::Damaged(_) => {
                tracing::error!(%error, "a call failed");
                (
                    FaultKind::Internal,
                    "the control plane's store is damaged; its operator has to look at the log",
                )
            }
        };
        Self::new(kind, message)
    }
}

impl From<Terminal> for Fault {
    fn from(terminal: Terminal) -> Self {
        Self::new(
            FaultKind::Terminal,
            format!("the access request cannot change: {terminal}"),
        )
        .with("state", terminal.0.as_str())
    }
}

impl From<StepRefused> for Fault {
    fn from(refused: StepRefused) -> Self {
        let kind = match refused.at {
            GrantState::Expired | GrantState::Revoked | GrantState::Released => FaultKind::Terminal,
            GrantState::Scheduled => FaultKind::State(StateRefusal::NotStarted),
            GrantState::Suspended => FaultKind::State(StateRefusal::Suspended),
            GrantState::Active => FaultKind::State(StateRefusal::NotSuspended),
        };
        Self::new(kind, refused.to_string()).with("state", refused.at.as_str())
    }
}

impl From<ChangeError> for Fault {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Request(terminal) => terminal.into(),
            ChangeError::Grant(refused) => refused.into(),
            ChangeError::Store(error) => error.into(),
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let fault = Self {
            field: Some(refusal.field.to_owned()).filter(|field| !field.is_empty()),
            ..Self::new(FaultKind::Refused(refusal.reason), refusal.message)
        };
        match refusal.policy {
            Some(policy) => fault.with("policy", &*policy),
            None => fault,
        }
    }
}
