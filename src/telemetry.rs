//! Traces and metrics: what leaves the process to be looked at. Nothing here can change a decision.

pub mod metrics;
pub mod names;
pub mod span;
pub mod spans;
