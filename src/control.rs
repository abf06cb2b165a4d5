//! The control plane: who may ask for what, and the store of what was granted.

pub mod audit;
pub mod caller;
pub mod fanout;
pub mod fault;
pub mod listing;
pub mod metrics;
pub mod policy;
pub mod store;
pub mod waiting;
