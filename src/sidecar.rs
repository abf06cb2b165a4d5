//! The data plane: answers every check of one Envoy from an in-memory table that the control plane's watch stream feeds.
//!
//! ```text
//! Envoy --Check--> check:  input (read) -> identify -> decide on table -> respond;  record (span, counters, log line)
//! control plane --WatchGrants--> watch -> table
//! ```

pub mod check;
pub mod config;
pub mod health;
pub mod identify;
pub mod input;
pub mod listen;
pub mod record;
pub mod respond;
pub mod routes;
pub mod table;

#[cfg(test)]
mod scene;
