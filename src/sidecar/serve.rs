//! Everything around the decision: configuration, listeners, routes, health, and what the admin listener shows.

pub(crate) mod config;
pub(crate) mod gauges;
pub(crate) mod health;
pub(crate) mod listen;
pub(crate) mod listing;
pub(crate) mod routes;
