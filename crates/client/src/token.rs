//! A token of one grant: issued by the control plane, kept good, and put on each call.
//!
//! A [`TokenSource`] asks the control plane for a token of one grant, renews it at two thirds of its life, and goes on
//! with the one that it has while the control plane cannot be reached. It never hands out a token that has ended: it
//! waits instead, for as long as its caller wants to. [`TokenLayer`] puts the token on each call of a tonic client.

pub mod error;
pub mod issue;
pub mod layer;
pub mod source;

pub use error::TokenError;
pub use issue::{GrantTokens, Issue};
pub use layer::{TokenInterceptor, TokenLayer, WithToken};
pub use source::{Token, TokenSource};

/// The header, and metadata key, that carries a token.
pub const HEADER: &str = "x-jitgate-token";
