//! The review after the fact: access was given without the people who would have had to approve it, and one of them looks at it afterwards.

use crate::model::identity::Principal;
use crate::model::time::Timestamp;

/// What one of those who were passed over thinks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Opinion {
    /// It was right.
    Fine,
    /// It was not; a grant that still lives ends.
    Objection,
}

impl Opinion {}

/// A review that is due because the glass was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AfterTheFact {
    /// By when.
    pub due: Timestamp,
    /// When it was recorded that nobody had looked at it in time.
    pub overdue_since: Option<Timestamp>,
    /// What was said; absent while it is outstanding.
    pub said: Option<Said>,
}

/// What was said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    /// By whom: always a user.
    pub reviewer: Principal,
    /// In one word.
    pub opinion: Opinion,
    /// Why.
    pub reason: String,
    /// When.
    pub time: Timestamp,
}

impl AfterTheFact {
    /// Due by then, and not looked at.
    pub(crate) const fn by(due: Timestamp) -> Self {
        Self {
            due,
            overdue_since: None,
            said: None,
        }
    }
}
