//! For programs that call protected services: a token that is always good, on each call.
//!
//! A [`TokenSource`] asks the control plane for a token of one grant, renews it at two thirds of its life, and goes on
//! with the one that it has while the control plane cannot be reached. It never hands out a token that has ended: it
//! waits instead, for as long as its caller wants to. [`TokenLayer`] puts the token on each call of a tonic client.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use jitgate_client::{Asking, TokenLayer, TokenSource};
//! use tonic::transport::Channel;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // The workload's own certificate says who asks; see tonic's ClientTlsConfig.
//! let control_plane = Channel::from_static("https://jitgate.example:7400").connect().await?;
//! let source = TokenSource::new(Asking::new(control_plane, "01J9Z3NDEKTSV4RRFFQ69G5FAV"));
//!
//! // Every call through this channel carries a token, for which it waits up to two seconds.
//! let payments = Channel::from_static("http://payments.shop:8080").connect().await?;
//! let payments = tower::ServiceBuilder::new()
//!     .layer(TokenLayer::new(source.clone(), Duration::from_secs(2)))
//!     .service(payments);
//! # let _ = payments;
//!
//! // Or by hand, for any other kind of client:
//! let token = source.token(Duration::from_secs(2)).await?;
//! let header = (jitgate_client::HEADER, token.header_value());
//! # let _ = header;
//! # Ok(())
//! # }
//! ```

pub mod ask;
mod codec;
pub mod layer;
mod secret;
pub mod source;

/// The API's messages and services, as generated from `proto/jitgate/v1`.
#[allow(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::wildcard_enum_match_arm,
    clippy::too_many_lines,
    clippy::needless_pass_by_value,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("jitgate.v1");
}

pub use ask::{Asking, Issue};
pub use layer::{TokenInterceptor, TokenLayer, WithToken};
pub use source::{Token, TokenError, TokenSource};

/// The header, and metadata key, that carries a token.
pub const HEADER: &str = "x-jitgate-token";

/// The API's descriptors, for a server's reflection.
#[cfg(feature = "server")]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/jitgate.bin"));
