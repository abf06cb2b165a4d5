//! The name of one decision: in the answer, the span, the log line and the report.

use std::fmt;

use ulid::Ulid;

/// The name of one decision: a ULID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecisionId(Ulid);

impl DecisionId {
    /// A new name.
    pub fn generate() -> Self {
        Self(Ulid::generate())
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
