//! When to look whether a grant was used at all. Nothing is decided here.

use std::time::Duration;

use super::Change;
use crate::control::store::Table;
use crate::control::store::keys::{self, DueKind};
use crate::model::access::Issued;
use crate::model::time::Timestamp;

/// Usage are known this long after they were made, if whoever let them through is not cut off.
const USES_LAG: Duration = Duration::from_secs(10);

impl Change<'_> {
    /// Puts a new grant on the sweeper's list, if it is not to lie unused.
    pub(super) fn plan_look_at_use(&mut self, issued: &Issued) {
        if let Some(until) = issued.origin.unused_until {
            self.look_at_use(issued, until.plus(USES_LAG));
        }
    }

    /// Has the sweeper look at `at` whether the grant was used. A look that finds it ended does nothing.
    pub(crate) fn look_at_use(&mut self, issued: &Issued, at: Timestamp) {
        let id = issued.grant.id.as_str().as_bytes();
        self.rows
            .put(Table::Due, keys::due(at, DueKind::Unused, id), vec![]);
    }
}
