//! The control plane: who may ask for what, and the store of what was granted.

pub mod audit;
pub mod fanout;
pub mod metrics;
pub mod policy;
pub mod store;
