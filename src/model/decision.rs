//! The outcome of a check and its vocabulary. A [`Permit`] is the only thing an allowing answer can be built from.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::entry::{PendingRequest, TableEntry};
use super::grant::Grant;
use super::identity::Principal;
use super::scope::Rule;
use super::target::TargetError;
use super::time::Timestamp;

/// Allowed by a live grant, or denied for a reason.
#[derive(Debug, Clone)]
pub(crate) enum Decision {
    /// A live grant covers the call.
    Permit(Permit),
    /// None does, or it cannot be told.
    Deny(Denial),
}

/// Proof that a live grant covers the call. Only [`decide`](super::decide::decide) makes one.
///
/// ```compile_fail,E0451
/// // An allow out of thin air does not type-check: the fields are private and there is no constructor.
/// use std::sync::Arc;
/// use jitgate::proofs::{Grant, Permit, Principal};
///
/// fn forge(grant: Arc<Grant>, principal: Principal) -> Permit {
///     Permit { grant, principal, rule: 0, remaining: None, others: vec![] }
/// }
/// ```
/// ```
/// // All that is wrong above is the forging.
/// use std::sync::Arc;
/// use jitgate::proofs::{Grant, Permit, Principal};
///
/// fn read(permit: Permit) -> (Arc<Grant>, Principal) {
///     (permit.grant().clone(), permit.principal().clone())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Permit {
    grant: Arc<Grant>,
    principal: Principal,
    rule: usize,
    remaining: Option<Duration>,
    others: Vec<Arc<Grant>>,
}

impl Permit {
    /// Most grants that one call is carried by; more would let nothing live longer.
    pub const GRANTS_MAX: usize = 8;

    pub(super) fn new(
        grant: Arc<Grant>,
        principal: Principal,
        rule: usize,
        remaining: Option<Duration>,
    ) -> Self {
        Self {
            grant,
            principal,
            rule,
            remaining,
            others: Vec::new(),
        }
    }

    /// Both permits in one: the grant that ends last speaks for it, and the other is kept for what outlives the first.
    #[must_use]
    pub(super) fn beside(self, other: Self) -> Self {
        let (mut best, less) = if ends(&other.grant) > ends(&self.grant) {
            (other, self)
        } else {
            (self, other)
        };
        let less_known = std::iter::once(less.grant).chain(less.others);
        best.others
            .extend(less_known.filter(|grant| grant.id != best.grant.id));
        best.others
            .sort_by_key(|grant| std::cmp::Reverse(ends(grant)));
        best.others.truncate(Self::GRANTS_MAX - 1);
        best
    }

    /// The grant that allows.
    pub fn grant(&self) -> &Arc<Grant> {
        &self.grant
    }

    /// Every grant that carries the call, the one that allows first, then by their ends, latest first.
    pub fn grants(&self) -> impl Iterator<Item = &Arc<Grant>> {
        std::iter::once(&self.grant).chain(&self.others)
    }

    /// Which of the caller's principals holds it.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The rule that covers the call, as written: bounded in number, unlike the path itself.
    pub fn rule(&self) -> Option<&Rule> {
        self.grant.scope.rules().get(self.rule)
    }

    /// What was left of the grant when it was decided; `None` for a standing grant.
    pub fn remaining(&self) -> Option<Duration> {
        self.remaining
    }

    /// When the grant ends; `None` for a standing grant.
    pub fn expires(&self) -> Option<Timestamp> {
        self.grant.expires()
    }
}

/// For the order among grants: the one that ends last wins, a standing grant over all.
fn ends(grant: &Grant) -> Timestamp {
    grant.expires().unwrap_or(Timestamp::MAX)
}

/// Why a call is not allowed.
#[derive(Debug, Clone)]
pub struct Denial {
    /// The one word for it, everywhere.
    pub reason: DenyReason,
    /// One sentence for whoever reads it. Never holds a credential or a query string.
    pub detail: Cow<'static, str>,
    /// What came nearest.
    pub nearest: Option<Nearest>,
}

/// The entry of the table that came nearest to allowing a call.
#[derive(Debug, Clone)]
pub struct Nearest {
    /// A grant, or a request that waits for approval.
    pub entry: TableEntry,
    rule: Option<usize>,
}

impl Nearest {
    /// The rule of it that covers the call, if any does.
    pub fn rule(&self) -> Option<&Rule> {
        self.entry.scope().rules().get(self.rule?)
    }
}

impl Denial {
    /// A denial that nothing came near.
    pub fn new(reason: DenyReason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            nearest: None,
        }
    }

    /// The same with what came nearest, and which rule of it covers the call.
    #[must_use]
    pub fn nearest(mut self, entry: TableEntry, rule: Option<usize>) -> Self {
        self.nearest = Some(Nearest { entry, rule });
        self
    }

    /// The grant that came nearest.
    pub fn grant(&self) -> Option<&Arc<Grant>> {
        self.nearest.as_ref()?.entry.as_grant()
    }

    /// The access request that waits for approval.
    pub fn request(&self) -> Option<&Arc<PendingRequest>> {
        self.nearest.as_ref()?.entry.as_request()
    }
}

/// A call without a target: not described, or in more than one reading.
impl From<TargetError> for Denial {
    fn from(why: TargetError) -> Self {
        let reason = match why {
            TargetError::NoMethod | TargetError::NoPath => DenyReason::BadCheck,
            TargetError::NotAbsolute
            | TargetError::TooLong
            | TargetError::EmptySegment
            | TargetError::DotSegment
            | TargetError::Character
            | TargetError::Encoding
            | TargetError::NeedlessEncoding
            | TargetError::NotUtf8
            | TargetError::GrpcForm
            | TargetError::Method => DenyReason::PathNotCanonical,
        };
        Self::new(reason, why.to_string())
    }
}

/// What the caller should make of a denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenyClass {
    /// Bad or absent credential: gRPC 16, HTTP 401.
    Unauthenticated,
    /// Good credential, no right: gRPC 7, HTTP 403.
    PermissionDenied,
    /// The sidecar cannot decide: gRPC 14, HTTP 503. Worth a retry.
    Unavailable,
}

macro_rules! deny_reasons {
    ($($(#[$doc:meta])* $variant:ident $name:literal $class:ident;)*) => {
        /// The closed vocabulary of denials: metric label, span attribute, header and `ErrorInfo.reason` alike.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DenyReason { $($(#[$doc])* $variant,)* }

        impl DenyReason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word for it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What kind of denial it is.
            pub const fn class(self) -> DenyClass {
                match self { $(Self::$variant => DenyClass::$class,)* }
            }
        }
    };
}

deny_reasons! {
    /// No credential that could name a principal.
    CredentialMissing "CREDENTIAL_MISSING" Unauthenticated;
    /// Not a JWS in compact form, or a claim is absent or of the wrong type.
    TokenMalformed "TOKEN_MALFORMED" Unauthenticated;
    /// The algorithm is not one of the issuer's key.
    TokenAlgNotAllowed "TOKEN_ALG_NOT_ALLOWED" Unauthenticated;
    /// The issuer has no such key.
    TokenKeyUnknown "TOKEN_KEY_UNKNOWN" Unauthenticated;
    /// The signature does not verify.
    TokenSignatureInvalid "TOKEN_SIGNATURE_INVALID" Unauthenticated;
    /// Past `exp`.
    TokenExpired "TOKEN_EXPIRED" Unauthenticated;
    /// Before `nbf`.
    TokenNotYetValid "TOKEN_NOT_YET_VALID" Unauthenticated;
    /// No configured issuer has this `iss` (only where a token must be jitgate's or an issuer's).
    TokenIssuerUnknown "TOKEN_ISSUER_UNKNOWN" Unauthenticated;
    /// `aud` names somebody else.
    TokenAudienceMismatch "TOKEN_AUDIENCE_MISMATCH" Unauthenticated;
    /// The token is bound to another workload.
    TokenBindingMismatch "TOKEN_BINDING_MISMATCH" Unauthenticated;
    /// The mTLS peer's identity is no canonical SPIFFE ID.
    PeerIdentityInvalid "PEER_IDENTITY_INVALID" Unauthenticated;
    /// None of the caller's principals holds a grant at this service.
    NoGrant "NO_GRANT" PermissionDenied;
    /// A live grant exists, but not for this target or not through this workload.
    ScopeMismatch "SCOPE_MISMATCH" PermissionDenied;
    /// The grant begins later.
    GrantNotStarted "GRANT_NOT_STARTED" PermissionDenied;
    /// The grant's time is up.
    GrantExpired "GRANT_EXPIRED" PermissionDenied;
    /// The grant was revoked.
    GrantRevoked "GRANT_REVOKED" PermissionDenied;
    /// The grant's owner gave it back.
    GrantReleased "GRANT_RELEASED" PermissionDenied;
    /// The grant is held back for now.
    GrantSuspended "GRANT_SUSPENDED" PermissionDenied;
    /// An access request for this waits for approval.
    RequestPending "REQUEST_PENDING" PermissionDenied;
    /// The path has more than one reading.
    PathNotCanonical "PATH_NOT_CANONICAL" PermissionDenied;
    /// No complete snapshot yet.
    NotSynced "NOT_SYNCED" Unavailable;
    /// Nothing heard from the control plane for longer than allowed.
    Stale "STALE" Unavailable;
    /// The token names a revision that has not arrived yet.
    GrantNotYetVisible "GRANT_NOT_YET_VISIBLE" Unavailable;
    /// Envoy's check lacks what a decision needs.
    BadCheck "BAD_CHECK" Unavailable;
}

impl DenyReason {
    /// The reason of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == name)
    }
}

impl DenyClass {
    /// `google.rpc.Code`.
    pub const fn grpc_code(self) -> i32 {
        match self {
            Self::Unauthenticated => 16,
            Self::PermissionDenied => 7,
            Self::Unavailable => 14,
        }
    }

    /// HTTP status.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::Unavailable => 503,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_its_own_name_and_parses_back() {
        let names: HashSet<_> = DenyReason::ALL
            .iter()
            .map(|reason| reason.as_str())
            .collect();
        assert_eq!(names.len(), DenyReason::ALL.len());
        for reason in DenyReason::ALL {
            assert_eq!(DenyReason::parse(reason.as_str()), Some(*reason));
        }
    }

    #[test]
    fn a_permit_is_bound_to_the_decision_that_made_it() {
        // The compile_fail example on `Permit` is the real check; this keeps the class table honest.
        assert_eq!(DenyReason::NotSynced.class().http_status(), 503);
        assert_eq!(DenyReason::NoGrant.class().grpc_code(), 7);
        assert_eq!(DenyReason::CredentialMissing.class().grpc_code(), 16);
    }
}
