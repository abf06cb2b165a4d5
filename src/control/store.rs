//! The store: what was asked, granted, ended and audited. Durable, then visible, then answered; one revision for each change.
//!
//! ```text
//! Store (handle) --job--> Writer: many jobs -> one Engine::commit (fsync) -> publish in revision order -> answer
//!       |                           each job fills a Change: typed rows, indices, audit events, one revision
//!       +--read--> Reader over a View: everything at one revision
//! ```
//!
//! An [`Engine`] knows keys and bytes only, so that another one can take its place: it needs ordered keys, a consistent
//! view, and one atomic commit guarded by the meta row (etcd: a transaction that compares one key).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::ControlFlow;

pub(crate) mod chain;
pub(crate) mod change;
pub(crate) mod commit;
pub(crate) mod difference;
pub(crate) mod embedded;
pub(crate) mod handle;
pub(crate) mod keys;
pub(crate) mod migration;
pub(crate) mod opening;
pub(crate) mod overlay;
pub(crate) mod reader;
pub(crate) mod rows;
pub(crate) mod token_key;
pub(crate) mod usable;
pub(crate) mod writer;

pub(crate) use change::Change;
pub(crate) use commit::{Commit, GrantChange};
pub(crate) use handle::Store;
pub(crate) use reader::Reader;
pub(crate) use usable::{Clock, Usable};
pub(crate) use writer::Writer;

/// Version of the rows' layout. An earlier one is migrated, a later one is refused, and none is guessed at.
pub(crate) const SCHEMA: i32 = 2;
/// The one key of [`Table::Meta`].
pub(crate) const META_KEY: &[u8] = b"meta";

/// Ordered sets of keys, each with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    /// One row: schema, epoch, revision, head of the audit chain. It guards every commit.
    Meta,
    /// Access requests by id.
    Requests,
    /// Party (approvers included) and create revision -> access request id. The empty party stands for all.
    RequestsByParty,
    /// Requester and id of what is pending.
    Pending,
    /// Grants by id, ended ones included.
    Grants,
    /// Party and create revision -> grant id. The empty party stands for all.
    GrantsByParty,
    /// Subject and id of every grant that sidecars hold: live, or a tombstone not yet forgotten.
    Enforced,
    /// Moment, kind and id of what the sweeper has to do.
    Due,
    /// Requester and access request of every review of broken glass that is outstanding -> when it is due, and under which policy.
    OpenReviews,
    /// Revision -> grants that it changed; the newest only.
    Changes,
    /// Policy name and version -> text and digest.
    Policies,
    /// Policy name and digest -> version.
    PolicyDigests,
    /// Policy name -> what is in force.
    CurrentPolicies,
    /// Caller and request id -> what was answered; for a day.
    Answered,
    /// Index -> audit event.
    Audit,
    /// Key id -> key that tokens are signed with.
    TokenKeys,
    /// Kind and name -> policy document that was applied through the API.
    AppliedDocuments,
    /// Resource and index of its audit events.
    AuditByResource,
    /// Grant id -> when and how often it was used. From here on: what sidecars report, in no revision.
    Usage,
    /// Decision id -> what was decided.
    Decisions,
    /// Grant id, arrival and id of the decisions that name it.
    DecisionsByGrant,
    /// Arrival and id of every decision, to forget the oldest.
    DecisionsByArrival,
    /// Instance of a sidecar -> how far it has reported.
    Reporters,
}

impl Table {
    /// Every table.
    pub(crate) const ALL: [Self; 23] = [
        Self::Meta,
        Self::Requests,
        Self::RequestsByParty,
        Self::Pending,
        Self::Grants,
        Self::GrantsByParty,
        Self::Enforced,
        Self::Due,
        Self::OpenReviews,
        Self::Changes,
        Self::Policies,
        Self::PolicyDigests,
        Self::CurrentPolicies,
        Self::Answered,
        Self::Audit,
        Self::TokenKeys,
        Self::AppliedDocuments,
        Self::AuditByResource,
        Self::Usage,
        Self::Decisions,
        Self::DecisionsByGrant,
        Self::DecisionsByArrival,
        Self::Reporters,
    ];

    /// Its name in the engine.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Requests => "requests",
            Self::RequestsByParty => "requests_by_party",
            Self::Pending => "pending",
            Self::Grants => "grants",
            Self::GrantsByParty => "grants_by_party",
            Self::Enforced => "enforced",
            Self::Due => "due",
            Self::OpenReviews => "open_reviews",
            Self::Changes => "changes",
            Self::Policies => "policies",
            Self::PolicyDigests => "policy_digests",
            Self::CurrentPolicies => "current_policies",
            Self::Answered => "answered",
            Self::Audit => "audit",
            Self::TokenKeys => "token_keys",
            Self::AppliedDocuments => "applied_documents",
            Self::AuditByResource => "audit_by_resource",
            Self::Usage => "uses",
            Self::Decisions => "decisions",
            Self::DecisionsByGrant => "decisions_by_grant",
            Self::DecisionsByArrival => "decisions_by_arrival",
            Self::Reporters => "reporters",
        }
    }
}

/// What a commit writes: the value of each key, or `None` to take it out.
pub(crate) type Writes = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

/// Which keys, and in which direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// First key, inclusive.
    pub from: Vec<u8>,
    /// End, exclusive; `None`: to the end of the table.
    pub to: Option<Vec<u8>>,
    /// From the end towards the beginning.
    pub descending: bool,
}

impl Span {
    /// The whole table, ascending.
    pub(crate) const ALL: Self = Self {
        from: Vec::new(),
        to: None,
        descending: false,
    };

    /// Every key that begins with `prefix`, ascending.
    pub(crate) fn prefix(prefix: &[u8]) -> Self {
        Self {
            from: prefix.to_vec(),
            to: after_prefix(prefix),
            descending: false,
        }
    }

    /// The same keys from the end.
    #[must_use]
    pub(crate) fn descending(mut self) -> Self {
        self.descending = true;
        self
    }

    /// Only the keys below `to`.
    #[must_use]
    pub(crate) fn below(mut self, to: Vec<u8>) -> Self {
        self.to = Some(to);
        self
    }

    fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }
}

/// The first key after all that begin with `prefix`.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if let Some(higher) = last.checked_add(1) {
            next.push(higher);
            return Some(next);
        }
    }
    None
}

/// Called for each key and value of a scan; breaks to end it.
pub(crate) type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError> + 'v;

/// Everything as it was at one revision.
pub(crate) trait View {
    /// # Errors
    /// [`StoreError`] when the engine cannot read.
    fn fetch(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits the keys of `span` in order.
    ///
    /// # Errors
    /// [`StoreError`] when the engine cannot read, or what `visit` fails with.
    fn scan(&self, table: Table, span: &Span, visit: &mut Visit<'_>) -> Result<(), StoreError>;
}

/// A place to keep rows.
pub(crate) trait Engine: Debug + Send + Sync + 'static {
    /// Everything as committed last.
    ///
    /// # Errors
    /// [`StoreError`] when the engine cannot read.
    fn view(&self) -> Result<Box<dyn View + Send>, StoreError>;

    /// Writes all or nothing, and returns only once it is durable. `guard` is the meta row that the writes were made on.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the meta row is another by now; otherwise the outcome is unknown until
    /// [`Engine::recover`] has succeeded.
    fn commit(&self, guard: Option<&[u8]>, writes: &Writes) -> Result<(), StoreError>;

    /// Writes all or nothing, without a guard and perhaps not yet durable: a crash may take it back. Only for tables that
    /// no revision speaks of.
    ///
    /// # Errors
    /// As [`Engine::commit`], but never a conflict.
    fn note(&self, writes: &Writes) -> Result<(), StoreError>;

    /// Makes the engine usable again after a failed commit, if that is possible.
    ///
    /// # Errors
    /// [`StoreError`] while it is not.
    fn recover(&self) -> Result<(), StoreError>;
}

/// What can go wrong below a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// The medium fails: full, gone, read-only.
    #[error("the store cannot be used: {0}")]
    Medium(String),
    /// A row is not what it should be.
    #[error("the store is damaged: {0}; restore it from a backup")]
    Damaged(String),
    /// Somebody else has committed in between.
    #[error("another process has written to this store in between")]
    Conflict,
    /// Too many changes or reads wait.
    #[error("too many requests wait for the store")]
    Busy,
    /// The control plane is stopping.
    #[error("the store is closed: the control plane is stopping")]
    Closed,
}

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(super) mod memory;
#[cfg(test)]
mod tests;
