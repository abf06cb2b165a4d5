//! The injector against models of what it meets: Istio's webhook, the API server's rounds of admission, Pod Security.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]

mod behaviour;
mod cluster;
mod corpus;
mod documents;
mod istio;
mod pods;
mod properties;
mod reference;
mod restricted;
mod reviews;
