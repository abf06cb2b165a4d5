//! What is read and changes nothing: lists, explanations, verdicts, timelines, use and the audit trail.

pub mod audit;
pub mod explain;
pub mod follow;
pub mod page;
pub mod timeline;
pub mod usage;
pub mod validate;
