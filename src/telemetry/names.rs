//! Every span, attribute and metric name, in one place. A golden test prints them.

/// The span of one decision.
pub const SPAN_CHECK: &str = "jitgate.check";
