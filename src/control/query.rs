//! What is read and changes nothing: lists, explanations, verdicts, timelines, use and the audit trail.

pub(crate) mod audit;
pub(crate) mod explain;
pub(crate) mod follow;
pub(crate) mod grant_use;
pub(crate) mod lists;
pub(crate) mod page;
pub(crate) mod timeline;
pub(crate) mod usage;
