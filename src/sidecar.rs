//! The data plane: answers every check of one Envoy from an in-memory table that the control plane's watch stream feeds.

pub mod table;
pub mod watch;
