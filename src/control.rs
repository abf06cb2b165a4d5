//! The control plane: who may ask for what, and the store of what was granted.

pub mod api;
pub mod apply;
pub mod audit;
pub mod caller;
pub mod expiry;
pub mod explain;
pub mod fanout;
pub mod fault;
pub mod grants;
pub mod listing;
pub mod metrics;
pub mod plane;
pub mod policy;
pub mod requests;
pub mod store;
pub mod waiting;
