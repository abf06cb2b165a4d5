//! What the sidecar knows: the grant table, the clocks' difference, and the control plane's token keys.

pub mod skew;
pub mod table;
mod token_keys;
