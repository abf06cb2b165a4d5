//! The server end of the watch: a mirror of all grants at the newest revision, and one session for each sidecar.

use std::sync::Arc;

use crate::model::grant::{Grant, GrantId, Revision};
use crate::model::identity::Service;

/// What one committed revision changed, for the sidecars.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The revision; one more than the commit before.
    pub revision: Revision,
    /// Newest values. May be empty: a change that concerns no sidecar still has its revision.
    pub changes: Vec<Change>,
}

/// One grant's new value.
#[derive(Debug, Clone)]
pub enum Change {
    /// A grant or tombstone as it now is.
    Put(Arc<Grant>),
    /// Forgotten: past its `keep_until`.
    Forget {
        /// Which.
        id: GrantId,
        /// Whose sidecars.
        service: Service,
    },
}
