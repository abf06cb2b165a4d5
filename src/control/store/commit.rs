//! What a committed revision changed for the sidecars: the store writes it, the fan-out publishes it.

use crate::model::entry::TableEntry;
use crate::model::grant::{GrantId, Revision};
use crate::model::identity::Service;

/// What one committed revision changed, for the sidecars.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    /// The revision; one more than the commit before.
    pub revision: Revision,
    /// Newest values. May be empty: a change that concerns no sidecar still has its revision.
    pub changes: Vec<GrantChange>,
}

/// One grant's new value.
#[derive(Debug, Clone)]
pub(crate) enum GrantChange {
    /// A grant, tombstone or waiting request as it now is.
    Put(TableEntry),
    /// Forgotten: past its `keep_until`.
    Forget {
        /// Which.
        id: GrantId,
        /// Whose sidecars.
        service: Service,
    },
}

impl GrantChange {
    /// Whose sidecars it concerns, and which grant it is.
    pub(crate) fn touches(&self) -> (&Service, &GrantId) {
        match self {
            Self::Put(entry) => (entry.scope().service(), entry.id()),
            Self::Forget { id, service } => (service, id),
        }
    }
}
