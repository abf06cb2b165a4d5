//! What the sidecar knows: the grant table, the clocks' difference, and the control plane's token keys.

mod freshness;
pub(crate) mod skew;
pub(crate) mod table;
mod token_keys;
pub(crate) mod view;
