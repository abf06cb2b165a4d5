//! The review after the fact: access was given without the people who would have had to approve it, and one of them looks at it afterwards.

use crate::model::identity::Principal;
use crate::model::time::Timestamp;

/// What one of those who were passed over thinks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opinion {
    /// It was right.
    Fine,
    /// It was not; a grant that still lives ends.
    Objection,
}

impl Opinion {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "OK",
            Self::Objection => "OBJECTION",
        }
    }
}

/// A review that is due because the glass was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AfterTheFact {
    /// By when.
    pub due: Timestamp,
    /// When it was recorded that nobody had looked at it in time.
    pub overdue_since: Option<Timestamp>,
    /// What was said; absent while it is outstanding.
    pub said: Option<Said>,
}

/// What was said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
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
    pub const fn by(due: Timestamp) -> Self {
        Self { due, overdue_since: None, said: None }
    }

    /// Whether nobody has looked at it although the time is up. By the clock, whether recorded or not.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.said.is_none() && now >= self.due
    }
}
