//! Why jitgate refuses: one vocabulary for calls of its API and for calls of the services behind it.

use std::fmt;

use tonic::Status;
use tonic_types::StatusExt;

/// `ErrorInfo.domain` of every refusal of jitgate's.
pub const DOMAIN: &str = "jitgate.dev";
/// The header in which a refused HTTP call finds its reason.
pub const REASON_HEADER: &str = "x-jitgate-reason";

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $name:literal;)*) => {
        /// The one word for a refusal.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
            /// One that this version of the library does not know.
            Other(Box<str>),
        }

        impl Reason {
            /// As it is written in `ErrorInfo.reason` and in `x-jitgate-reason`.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other(name) => name,
                }
            }
        }

        impl From<&str> for Reason {
            fn from(name: &str) -> Self {
                match name {
                    $($name => Self::$variant,)*
                    other => Self::Other(other.into()),
                }
            }
        }

        #[cfg(test)]
        const KNOWN: &[Reason] = &[$(Reason::$variant,)*];
    };
}

reasons! {
    /// No credential that could name a principal.
    CredentialMissing "CREDENTIAL_MISSING";
    /// Not a JWS in compact form, or a claim is absent or of the wrong type.
    TokenMalformed "TOKEN_MALFORMED";
    /// The algorithm is not one of the issuer's key.
    TokenAlgNotAllowed "TOKEN_ALG_NOT_ALLOWED";
    /// The issuer has no such key.
    TokenKeyUnknown "TOKEN_KEY_UNKNOWN";
    /// The signature does not verify.
    TokenSignatureInvalid "TOKEN_SIGNATURE_INVALID";
    /// Past `exp`.
    TokenExpired "TOKEN_EXPIRED";
    /// Before `nbf`.
    TokenNotYetValid "TOKEN_NOT_YET_VALID";
    /// No configured issuer has this `iss`.
    TokenIssuerUnknown "TOKEN_ISSUER_UNKNOWN";
    /// `aud` names somebody else.
    TokenAudienceMismatch "TOKEN_AUDIENCE_MISMATCH";
    /// The token is bound to another workload.
    TokenBindingMismatch "TOKEN_BINDING_MISMATCH";
    /// The mTLS peer's identity is no canonical SPIFFE ID.
    PeerIdentityInvalid "PEER_IDENTITY_INVALID";

    /// None of the caller's principals holds a grant at this service.
    NoGrant "NO_GRANT";
    /// A live grant exists, but not for this call or not through this workload.
    ScopeMismatch "SCOPE_MISMATCH";
    /// The grant begins later.
    GrantNotStarted "GRANT_NOT_STARTED";
    /// The grant's time is up.
    GrantExpired "GRANT_EXPIRED";
    /// The grant was revoked.
    GrantRevoked "GRANT_REVOKED";
    /// The grant's owner gave it back.
    GrantReleased "GRANT_RELEASED";
    /// The grant is held back for now.
    GrantSuspended "GRANT_SUSPENDED";
    /// An access request for this waits for approval.
    RequestPending "REQUEST_PENDING";
    /// The path has more than one reading.
    PathNotCanonical "PATH_NOT_CANONICAL";

    /// The sidecar has no complete snapshot yet.
    NotSynced "NOT_SYNCED";
    /// The sidecar has heard nothing from the control plane for longer than allowed.
    Stale "STALE";
    /// The token names a revision that has not reached the sidecar yet.
    GrantNotYetVisible "GRANT_NOT_YET_VISIBLE";
    /// Envoy's check lacks what a decision needs.
    BadCheck "BAD_CHECK";

    /// A field is malformed; [`Refusal::violations`](crate::Refusal::violations) names it.
    InvalidArgument "INVALID_ARGUMENT";
    /// The caller may not do this.
    NotEligible "NOT_ELIGIBLE";
    /// No such thing, or not for this caller to see.
    NotFound "NOT_FOUND";
    /// It is over and stays so.
    StateTerminal "STATE_TERMINAL";
    /// The grant is not suspended.
    GrantNotSuspended "GRANT_NOT_SUSPENDED";
    /// A standing grant has no end that could be moved.
    GrantStanding "GRANT_STANDING";
    /// Another grant extends this one already.
    GrantExtended "GRANT_EXTENDED";
    /// Someone has changed it since the caller looked at it.
    EtagMismatch "ETAG_MISMATCH";
    /// Other policies are in force than those that were planned against.
    PoliciesChanged "POLICIES_CHANGED";
    /// A requester or subject cannot review its own request.
    SelfApproval "SELF_APPROVAL";
    /// The caller has reviewed it already.
    AlreadyReviewed "ALREADY_REVIEWED";
    /// The review is of other bytes than the request's.
    DigestMismatch "DIGEST_MISMATCH";

    /// No policy lets the caller ask for this.
    NoPolicy "NO_POLICY";
    /// The policies that apply do not cover this scope.
    ScopeNotRequestable "SCOPE_NOT_REQUESTABLE";
    /// The caller may not ask for this subject.
    SubjectNotAllowed "SUBJECT_NOT_ALLOWED";
    /// The policy does not allow these workloads in between.
    ViaNotAllowed "VIA_NOT_ALLOWED";
    /// The policy named does not apply.
    PolicyMismatch "POLICY_MISMATCH";
    /// The policy allows no wildcard here.
    WildcardNotAllowed "WILDCARD_NOT_ALLOWED";
    /// Beyond a bound of the policy or of the control plane.
    LimitExceeded "LIMIT_EXCEEDED";
    /// The policy wants a reason.
    ReasonRequired "REASON_REQUIRED";
    /// The policy wants a ticket.
    TicketRequired "TICKET_REQUIRED";
    /// Not at this time.
    OutsideWindow "OUTSIDE_WINDOW";
    /// The policy knows no break-glass access for the caller.
    BreakGlassNotAllowed "BREAK_GLASS_NOT_ALLOWED";
    /// The caller has break-glass access that nobody has reviewed in time.
    BreakGlassSuspended "BREAK_GLASS_SUSPENDED";

    /// Too much waits at the control plane.
    Busy "BUSY";
    /// The control plane cannot answer now.
    Unavailable "UNAVAILABLE";
    /// A defect, or a damaged store.
    Internal "INTERNAL";
}

impl Reason {
    /// Why jitgate refused a call, the control plane's own or one to a service behind a sidecar. `None` when the status
    /// is not jitgate's.
    pub fn of(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        (info.domain == DOMAIN).then(|| Self::from(info.reason.as_str()))
    }

    /// Whether the same call may pass later with nothing else done about it: nothing has been decided.
    pub fn is_worth_a_retry(&self) -> bool {
        matches!(
            self,
            Self::NotSynced
                | Self::Stale
                | Self::GrantNotYetVisible
                | Self::Busy
                | Self::Unavailable
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use tonic::Code;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_parses_back() {
        let names: HashSet<_> = KNOWN.iter().map(Reason::as_str).collect();
        assert_eq!(names.len(), KNOWN.len());
        for reason in KNOWN {
            assert_eq!(&Reason::from(reason.as_str()), reason);
        }
        assert_eq!(Reason::from("NEWER").as_str(), "NEWER");
    }

    #[test]
    fn a_status_of_somebody_else_has_no_reason() {
        let of = |domain: &str| {
            let details = ErrorDetails::with_error_info("NO_GRANT", domain, HashMap::new());
            Reason::of(&Status::with_error_details(
                Code::PermissionDenied,
                "no",
                details,
            ))
        };
        assert_eq!(of(DOMAIN), Some(Reason::NoGrant));
        assert_eq!(of("example.com"), None);
        assert_eq!(Reason::of(&Status::permission_denied("no")), None);
    }
}
