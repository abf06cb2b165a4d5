//! What an answer is addressed to, and what every answer that cannot be given now says.

use std::time::Duration;

use crate::model::caller::Caller;
use crate::sidecar::check::decision_id::DecisionId;
use crate::sidecar::check::input::Inbound;
use crate::sidecar::state::view::TableState;

/// When a caller whose check could not be decided may come back.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What an answer is addressed to.
#[derive(Debug)]
pub struct To<'a> {
    /// The check as it was read.
    pub inbound: &'a Inbound<'a>,
    /// This decision's name.
    pub id: DecisionId,
    /// Of the view that was decided from.
    pub table: TableState,
    /// Who called, when that was proven.
    pub caller: Option<&'a Caller>,
}
