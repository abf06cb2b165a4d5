//! What the table holds under one id: a grant, or an access request that waits for approval. A request is no grant: it
//! has no phase and no end, so nothing that asks for those can take it for one. It only explains refusals.

use std::sync::Arc;

use super::grant::{Grant, GrantId, PolicyRef, Revision};
use super::identity::Principal;
use super::scope::Scope;
use super::time::Timestamp;

/// One entry of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableEntry {
    /// A grant, live or ended.
    Grant(Arc<Grant>),
    /// An access request that nobody has decided yet.
    Request(Arc<PendingRequest>),
}

/// What sidecars know of an access request while it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRequest {
    /// Its name, by the rule of grants: both are entries of one table.
    pub id: GrantId,
    /// Who would hold the grant.
    pub subject: Principal,
    /// Only through these workloads; empty: through any.
    pub via: Vec<Principal>,
    /// What is asked for.
    pub scope: Scope,
    /// It waits no longer than this, exclusive.
    pub until: Timestamp,
    /// The policy that it is decided by.
    pub policy: PolicyRef,
    /// W3C trace context of the asking.
    pub traceparent: Option<Arc<str>>,
    /// The store's revision that made it. Reviews do not change the entry.
    pub revision: Revision,
}

impl PendingRequest {
    /// Whether it still waits. Nobody has to say that it does not.
    pub fn waits(&self, now: Timestamp) -> bool {
        now < self.until
    }
}

impl TableEntry {
    /// The grant, if it is one.
    pub fn as_grant(&self) -> Option<&Arc<Grant>> {
        match self {
            Self::Grant(grant) => Some(grant),
            Self::Request(_) => None,
        }
    }

    /// The access request, if it is one.
    pub fn as_request(&self) -> Option<&Arc<PendingRequest>> {
        match self {
            Self::Grant(_) => None,
            Self::Request(request) => Some(request),
        }
    }

    /// Its name.
    pub fn id(&self) -> &GrantId {
        match self {
            Self::Grant(grant) => &grant.id,
            Self::Request(request) => &request.id,
        }
    }

    /// Who holds it, or would.
    pub fn subject(&self) -> &Principal {
        match self {
            Self::Grant(grant) => &grant.subject,
            Self::Request(request) => &request.subject,
        }
    }

    /// What it allows, or would.
    pub fn scope(&self) -> &Scope {
        match self {
            Self::Grant(grant) => &grant.scope,
            Self::Request(request) => &request.scope,
        }
    }

    /// Only through these workloads; empty: through any.
    pub fn via(&self) -> &[Principal] {
        match self {
            Self::Grant(grant) => &grant.via,
            Self::Request(request) => &request.via,
        }
    }

    /// The policy behind it.
    pub fn policy(&self) -> &PolicyRef {
        match self {
            Self::Grant(grant) => &grant.policy,
            Self::Request(request) => &request.policy,
        }
    }

    /// W3C trace context of its approval, or of the asking.
    pub fn traceparent(&self) -> Option<&str> {
        match self {
            Self::Grant(grant) => grant.traceparent.as_deref(),
            Self::Request(request) => request.traceparent.as_deref(),
        }
    }

    /// The store's revision of its last change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Grant(grant) => grant.mod_revision,
            Self::Request(request) => request.revision,
        }
    }

    /// When it ends by itself, or waits no longer; `None` for a standing grant.
    pub fn ends(&self) -> Option<Timestamp> {
        match self {
            Self::Grant(grant) => grant.expires(),
            Self::Request(request) => Some(request.until),
        }
    }
}

impl From<Arc<Grant>> for TableEntry {
    fn from(grant: Arc<Grant>) -> Self {
        Self::Grant(grant)
    }
}

impl From<Grant> for TableEntry {
    fn from(grant: Grant) -> Self {
        Self::Grant(Arc::new(grant))
    }
}

impl From<PendingRequest> for TableEntry {
    fn from(request: PendingRequest) -> Self {
        Self::Request(Arc::new(request))
    }
}
