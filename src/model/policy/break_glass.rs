//! Breaking the glass: access at once, for a short time, without the people who would have to approve it, who look at it afterwards.

use std::time::Duration;

use super::Matcher;
use crate::model::identity::Principal;

/// Fewest characters that a reason for breaking the glass can have.
pub(crate) const BREAK_GLASS_REASON_MIN: usize = 10;
/// Reviews of one requester, over all policies, that may be outstanding.
pub(crate) const BREAK_GLASS_OPEN_MAX: usize = 20;

/// Who may, for how long, and by when it is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakGlass {
    /// Any one principal of the caller suffices; the policy's requesters have to name them, too.
    pub who: Vec<Matcher>,
    /// Its grant lasts no longer.
    pub max_duration: Duration,
    /// One of those who were passed over has to say what they think of it within this time.
    pub review_within: Duration,
    /// Fewest characters of the reason, blanks around it not counted.
    pub reason_min: usize,
}

impl BreakGlass {
    /// Whether a caller with these principals may.
    pub fn admits(&self, caller: &[Principal]) -> bool {
        caller
            .iter()
            .any(|principal| self.who.iter().any(|matcher| matcher.matches(principal)))
    }
}
