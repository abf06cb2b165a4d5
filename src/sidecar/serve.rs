//! Everything around the decision: configuration, listeners, routes, health, and what the admin listener shows.

pub mod config;
pub mod gauges;
pub mod health;
pub mod listen;
pub mod listing;
pub mod routes;
