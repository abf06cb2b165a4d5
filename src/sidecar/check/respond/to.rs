//! What an answer is addressed to, and what every answer that cannot be given now says.

use std::time::Duration;

use crate::model::caller::Caller;
use crate::model::decide::Freshness;
use crate::model::grant::Revision;
use crate::sidecar::check::decision_id::DecisionId;
use crate::sidecar::check::input::Inbound;

/// When a caller whose check could not be decided may come back.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What an answer is addressed to.
#[derive(Debug)]
pub struct To<'a> {
    /// The check as it was read.
    pub inbound: &'a Inbound<'a>,
    /// This decision's name.
    pub id: DecisionId,
    /// The revision of the table that decided.
    pub revision: Revision,
    /// How long before it the control plane vouched for that table; `None` before the first time.
    pub age: Option<Duration>,
    /// How far that table could be trusted.
    pub freshness: Freshness,
    /// Who called, when that was proven.
    pub caller: Option<&'a Caller>,
}
