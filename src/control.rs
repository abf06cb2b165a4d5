//! The control plane: who may ask for what, and the store of what was granted.

pub mod fanout;
pub mod policy;
