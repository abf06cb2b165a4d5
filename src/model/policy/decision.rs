//! What is asked of a policy set and what it answers. A refusal always names the rule and what would satisfy it.

use std::sync::Arc;
use std::time::Duration;

use super::PolicyDigest;
use crate::model::grant::Staleness;
use crate::model::identity::Principal;
use crate::model::scope::Scope;
use crate::model::time::Timestamp;

/// An access request, as a policy set is asked about it.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Everything that the caller has proved to be; first the one that it acts as.
    pub requester: &'a [Principal],
    /// The claims of the caller's token, if it came with one.
    pub claims: Option<&'a serde_json::Map<String, serde_json::Value>>,
    /// Who shall get the grant.
    pub subject: &'a Principal,
    /// Only through these workloads; empty: through any.
    pub via: &'a [Principal],
    /// What for.
    pub scope: &'a Scope,
    /// How long; `None`: as the policy says.
    pub duration: Option<Duration>,
    /// From when that time counts; `None`: from approval. Of an extension: the end of the grant extended.
    pub start: Option<Timestamp>,
    /// Why.
    pub reason: &'a str,
    /// Under which tickets.
    pub tickets: &'a [String],
    /// The policy that the caller expects to decide. It never makes another one decide: see [`RefusalReason::PolicyMismatch`].
    pub policy: Option<&'a str>,
    /// Whether it breaks the glass: at once, without people.
    pub break_glass: bool,
    /// Whether no rule may approve it: what it goes on from was never approved.
    pub people_only: bool,
    /// The moment of the decision.
    pub now: Timestamp,
}

/// What the policy in charge makes of an access request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyDecision {
    /// The policy in charge, in the version to pin.
    pub policy: PolicyPin,
    /// What it says.
    pub outcome: Outcome,
    /// Why rules did not match although they nearly did, one sentence each.
    pub notes: Vec<String>,
    /// What policies in shadow mode would have said. Never more than a report.
    pub would: Vec<Would>,
}

/// One policy in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyPin {
    /// Its name.
    pub name: Arc<str>,
    /// Its content.
    pub digest: PolicyDigest,
}

/// What becomes of an access request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A rule approves: issue the grant.
    Approved {
        /// The grant's length.
        duration: Duration,
        /// The rule that approves.
        rule: Arc<str>,
        /// Its message.
        message: Option<Arc<str>>,
        /// The grant's.
        staleness: Staleness,
    },
    /// The glass is broken: issue the grant, and have it looked at afterwards.
    BreakGlass {
        /// The grant's length.
        duration: Duration,
        /// By when one of those passed over has to have looked at it, counted from now.
        review_within: Duration,
        /// The grant's.
        staleness: Staleness,
    },
    /// A rule denies.
    Denied {
        /// The rule that denies.
        rule: Arc<str>,
        /// For whoever asked.
        message: String,
    },
    /// It takes people.
    Pending {
        /// The grant's length, once approved.
        duration: Duration,
        /// How long it may wait.
        pending_ttl: Duration,
        /// The grant's, once approved.
        staleness: Staleness,
    },
}

impl Outcome {
    /// One word for logs and labels.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Approved { .. } => "APPROVED",
            Self::BreakGlass { .. } => "BREAK_GLASS",
            Self::Denied { .. } => "DENIED",
            Self::Pending { .. } => "PENDING",
        }
    }
}

/// What a policy in shadow mode would have said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Would {
    /// Which policy.
    pub policy: PolicyPin,
    /// `APPROVED`, `BREAK_GLASS`, `DENIED`, `PENDING`, or the reason of the refusal.
    pub outcome: &'static str,
    /// The rule or the message behind it.
    pub detail: String,
}

/// Why no policy takes the access request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The one word for it.
    pub reason: RefusalReason,
    /// The field of the request to change.
    pub field: &'static str,
    /// Which rule refused and what would satisfy it. Names only policies that the caller may ask under.
    pub message: String,
    /// The policy that refused, or came nearest.
    pub policy: Option<Arc<str>>,
    /// What policies in shadow mode would have said.
    pub would: Vec<Would>,
}

macro_rules! refusal_reasons {
    ($($(#[$doc:meta])* $variant:ident $name:literal;)*) => {
        /// The closed vocabulary of refusals.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum RefusalReason { $($(#[$doc])* $variant,)* }

        impl RefusalReason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word for it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

refusal_reasons! {
    /// No policy lets this caller ask for anything at this service.
    NoPolicy "NO_POLICY";
    /// The caller may ask at this service, but not for all of this scope.
    ScopeNotRequestable "SCOPE_NOT_REQUESTABLE";
    /// The caller may ask for this scope, but not for this subject.
    SubjectNotAllowed "SUBJECT_NOT_ALLOWED";
    /// The caller may ask for this scope and subject, but only through certain workloads.
    ViaNotAllowed "VIA_NOT_ALLOWED";
    /// The caller names a policy that is not the one in charge.
    PolicyMismatch "POLICY_MISMATCH";
    /// The scope holds a wildcard, and the policy wants each target named.
    WildcardNotAllowed "WILDCARD_NOT_ALLOWED";
    /// Over a limit of the policy or of every policy.
    LimitExceeded "LIMIT_EXCEEDED";
    /// The reason is absent, too short, or not of the form that the policy wants.
    ReasonRequired "REASON_REQUIRED";
    /// A ticket is absent, or not of the form that the policy wants.
    TicketRequired "TICKET_REQUIRED";
    /// The policy's windows are closed when the access would begin.
    OutsideWindow "OUTSIDE_WINDOW";
    /// The policy lets nobody, or not this caller, break the glass.
    BreakGlassNotAllowed "BREAK_GLASS_NOT_ALLOWED";
    /// What the caller broke the glass for before has not been looked at in time.
    BreakGlassSuspended "BREAK_GLASS_SUSPENDED";
}
