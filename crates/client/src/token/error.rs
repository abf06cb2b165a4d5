//! Why there is no token.

use tonic::Status;

use crate::reason::Reason;

/// Why there is no token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenError {
    /// The control plane refuses one: the grant is over, say, or belongs to somebody else.
    #[error("no token for this grant: {}", .0.message())]
    Refused(Status),
    /// None came in time; what the newest attempt failed with, if one did.
    #[error("no token in time{}", .0.as_ref().map(|last| format!(": {}", last.message())).unwrap_or_default())]
    Late(Option<Status>),
}

impl TokenError {
    /// Why the control plane refuses, where it does.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(status) => Reason::of(status),
            Self::Late(_) => None,
        }
    }

    /// As the status of a call that could not be made.
    pub fn into_status(self) -> Status {
        let message = self.to_string();
        match self {
            Self::Refused(status) => Status::new(status.code(), message),
            Self::Late(_) => Status::unavailable(message),
        }
    }
}
