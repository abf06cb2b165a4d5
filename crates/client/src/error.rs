//! What can go wrong, as types: a setting, the way to the control plane, its refusal, or its decision.

use std::collections::HashMap;
use std::path::PathBuf;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::reason::{DOMAIN, Reason};
use crate::token::error::TokenError;
use crate::v1;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting cannot be used. Nothing was sent.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The control plane does not answer. What was asked of it may have been done.
    #[error("no answer from {server}: {cause}")]
    Unreachable {
        /// Its address, as configured.
        server: String,
        /// The innermost cause.
        cause: String,
    },
    /// The control plane says no.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The access request was decided, and not in the caller's favour; its state says how.
    #[error("{}", not_approved(.0))]
    NotApproved(Box<v1::AccessRequest>),
    /// Nobody has decided in time. The access request goes on waiting.
    #[error("access request {request} is not decided yet")]
    Undecided {
        /// Its ID.
        request: String,
    },
    /// There is no token of the grant.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl Error {
    /// Why it was refused, where somebody refused it.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Refused(refusal) => refusal.reason.as_ref(),
            Self::Setting(_)
            | Self::Unreachable { .. }
            | Self::NotApproved(_)
            | Self::Undecided { .. }
            | Self::Token(_) => None,
        }
    }

    /// What the failure of a call to `server` means.
    pub fn from_status(status: &Status, server: &str) -> Self {
        let refusal = Refusal::from(status);
        if refusal.reason.is_none() && is_transport(status) {
            return Self::Unreachable {
                server: server.to_owned(),
                cause: root_cause(status),
            };
        }
        Self::Refused(Box::new(refusal))
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// The address of the control plane.
    #[error("{url:?} {problem}")]
    Server {
        /// As given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The address is plaintext beyond this machine, where anybody on the way could read tokens.
    #[error("{url:?} is plaintext to another machine, and tokens would be readable on the way")]
    Plaintext {
        /// As given.
        url: String,
    },
    /// A file.
    #[error("{}: {problem}", .file.display())]
    File {
        /// What it was to hold.
        setting: FileSetting,
        /// Its path.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The system has no certificate authorities that could be trusted.
    #[error("the system's certificate authorities: {0}")]
    SystemRoots(String),
    /// The token is empty or has characters that no header can carry.
    #[error("the token is empty, or has characters that no JWT has")]
    Token,
    /// Only one of certificate and key is given.
    #[error("a certificate needs its private key, and the other way round")]
    HalfIdentity,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileSetting {
    /// The authorities that sign the control plane's certificate.
    Ca,
    /// The caller's own certificate chain.
    Certificate,
    /// Its private key.
    Key,
    /// The caller's token.
    Token,
}

/// A refusal of the control plane.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", .reason.as_ref().map(|reason| format!("{reason}: ")).unwrap_or_default())]
#[non_exhaustive]
pub struct Refusal {
    /// The word for it; `None` when whoever answered is not jitgate.
    pub reason: Option<Reason>,
    /// The gRPC status.
    pub code: Code,
    /// One sentence.
    pub message: String,
    /// Each field at fault and what is wrong with it.
    pub violations: Vec<(String, String)>,
    /// What to do about it, where the control plane says so.
    pub hint: Option<String>,
    /// More about it, by name.
    pub metadata: HashMap<String, String>,
}

impl From<&Status> for Refusal {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let metadata = info.map(|info| info.metadata.clone()).unwrap_or_default();
        let link = details.help().and_then(|help| help.links.first());
        let violations = details.bad_request().map(|bad| &bad.field_violations);
        Self {
            reason: info.map(|info| Reason::from(info.reason.as_str())),
            code: status.code(),
            message: status.message().to_owned(),
            violations: violations
                .into_iter()
                .flatten()
                .map(|violation| (violation.field.clone(), violation.description.clone()))
                .collect(),
            hint: metadata
                .get("hint")
                .cloned()
                .or_else(|| link.map(|link| link.description.clone())),
            metadata,
        }
    }
}

/// Whether the transport failed before anybody answered.
fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
        && matches!(status.code(), Code::Unavailable | Code::Unknown)
}

/// The deepest source: "connection refused" instead of five wrappers around it.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

fn not_approved(request: &v1::AccessRequest) -> String {
    let name = request.state().as_str_name();
    let state = name.trim_start_matches("ACCESS_REQUEST_STATE_");
    let mut text = format!("access request {} is {state}", request.id);
    for (before, what) in [
        (" by ", &request.decided_by),
        (": ", &request.decision_reason),
    ] {
        if !what.is_empty() {
            text += before;
            text += what;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_refusal_is_read_with_its_fields_and_its_hint() {
        let metadata = HashMap::from([("hint".to_owned(), "ask for at most 1h".to_owned())]);
        let mut details = ErrorDetails::with_error_info("LIMIT_EXCEEDED", DOMAIN, metadata);
        details.add_bad_request_violation("duration", "is over the policy's 1h");
        let status = Status::with_error_details(Code::InvalidArgument, "too long", details);
        let error = Error::from_status(&status, "https://cp");
        assert_eq!(error.reason(), Some(&Reason::LimitExceeded));
        assert_eq!(error.to_string(), "LIMIT_EXCEEDED: too long");
        let Error::Refused(refusal) = error else {
            panic!("{error:?}")
        };
        let violation = ("duration".to_owned(), "is over the policy's 1h".to_owned());
        assert_eq!(refusal.violations, [violation]);
        assert_eq!(refusal.hint.as_deref(), Some("ask for at most 1h"));
    }

    #[test]
    fn a_broken_connection_is_no_refusal() {
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let status = Status::from_error(Box::new(reset));
        let error = Error::from_status(&status, "https://cp");
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        let status = Status::unavailable("the server says so itself");
        let error = Error::from_status(&status, "https://cp");
        assert!(matches!(error, Error::Refused(_)), "{error:?}");
    }

    #[test]
    fn a_decision_against_the_caller_says_by_whom_and_why() {
        let request = v1::AccessRequest {
            id: "01".to_owned(),
            state: v1::AccessRequestState::Denied.into(),
            decided_by: "user:i|bob".to_owned(),
            decision_reason: "not now".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            Error::NotApproved(Box::new(request)).to_string(),
            "access request 01 is DENIED by user:i|bob: not now"
        );
    }
}
