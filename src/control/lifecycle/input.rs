//! What a caller asks for, parsed.

use std::sync::Arc;
use std::time::Duration;

use super::write_options::WriteOptions;
use crate::model::grant::GrantId;
use crate::model::identity::Principal;
use crate::model::scope::Scope;
use crate::model::time::Timestamp;

/// What a caller asks for, parsed.
#[derive(Debug, Clone)]
pub(crate) struct RequestInput {
    /// For whom; `None`: for the caller.
    pub subject: Option<Principal>,
    /// Only through these workloads.
    pub via: Vec<Principal>,
    /// What.
    pub scope: Scope,
    /// How long; `None`: as the policy says.
    pub duration: Option<Duration>,
    /// Why.
    pub reason: String,
    /// Where that is written down.
    pub tickets: Vec<String>,
    /// The policy that the caller expects; empty: any.
    pub policy: String,
    /// At once, without people, who review it afterwards.
    pub break_glass: bool,
    /// When its time begins to count; `None`: on approval.
    pub start: Option<Timestamp>,
    /// The grant that it extends.
    pub extends: Option<Extension>,
    /// How. There is no state yet that it could be meant for.
    pub options: WriteOptions,
    /// W3C trace context of the call.
    pub traceparent: Option<Arc<str>>,
}

/// The grant that an access request extends, as its requester has looked at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extension {
    /// The grant.
    pub grant: GrantId,
    /// Its etag; empty: whatever it is now.
    pub etag: String,
    /// The glass was broken for it: nobody has approved it, so no rule lets it go on.
    pub people_only: bool,
}
