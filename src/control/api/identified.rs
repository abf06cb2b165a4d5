//! Who calls: found out by the listener, read by every service.

use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::model::decision::DenyReason;

/// Who calls, or why nobody: what the listener puts into the extensions of every request.
#[derive(Debug, Clone)]
pub(crate) struct Identified(pub Result<Caller, Fault>);

impl Identified {
    /// The caller that the listener identified.
    ///
    /// # Errors
    /// UNAUTHENTICATED; also when the listener left nothing, which never lets anybody in.
    pub(crate) fn of(extensions: &tonic::Extensions) -> Result<Caller, Fault> {
        let missing = || {
            let message = "the call carries no credential that was looked at";
            Err(Fault::new(
                FaultKind::Unauthenticated(DenyReason::CredentialMissing),
                message,
            ))
        };
        extensions
            .get::<Self>()
            .map_or_else(missing, |Self(identified)| identified.clone())
    }
}
