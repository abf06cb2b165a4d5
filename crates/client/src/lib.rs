//! jitgate for Rust programs: ask for access, wait for it, call what it is for, and give it back.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use jitgate_client::{Ask, Client, Error, Reason};
//!
//! # async fn example() -> Result<(), Error> {
//! // From JITGATE_SERVER, JITGATE_CA, JITGATE_TOKEN and so on; `Client::builder` takes them by hand.
//! let jitgate = Client::from_env().await?;
//! let ask = Ask::new("payments")
//!     .http(&["GET"], "/v1/users/{id}")
//!     .lasting(Duration::from_secs(300))
//!     .reason("to look into case 4711");
//! let request = match jitgate.ask(&ask).await {
//!     Err(error) if error.reason() == Some(&Reason::ReasonRequired) => return Err(error),
//!     asked => asked?,
//! };
//! let grant = jitgate.wait(&request, Duration::from_secs(3600)).await?;
//!
//! // A token of the grant, kept good; `TokenLayer` puts it on every call of a tonic channel.
//! let tokens = jitgate.tokens_of(&grant.id);
//! let token = tokens.token(Duration::from_secs(2)).await?;
//! let header = (jitgate_client::HEADER, token.header_value());
//! # let _ = header;
//!
//! jitgate.release(&grant.id, "done").await?;
//! # Ok(())
//! # }
//! ```
//!
//! In reading order:
//!
//! * [`connect`]: where the control plane is, and how the caller proves who it is ([`credential`], [`tls`], [`transport`]);
//! * [`access`]: ask, wait, extend, release; [`follow`]: a watch that outlasts a restart of the control plane;
//! * [`token`]: a token of one grant, kept good, on each call;
//! * [`error`] and [`reason`]: what can go wrong, as types;
//! * [`v1`]: the API's messages and services, for everything else.
//!
//! Plaintext leaves this machine only where [`Builder::allow_plaintext`] says so, TLS is 1.3, and no `Debug` shows a
//! credential.

pub mod access;
mod codec;
pub mod connect;
pub mod credential;
pub mod error;
pub mod follow;
pub mod reason;
mod secret;
pub mod tls;
pub mod token;
pub mod transport;

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

pub use access::Ask;
pub use connect::{Builder, Client, DEADLINE, with_deadline};
pub use error::{Error, Refusal, SettingError};
pub use reason::Reason;
pub use tls::Tls;
pub use token::{HEADER, Token, TokenError, TokenInterceptor, TokenLayer, TokenSource};
pub use transport::Route;

/// The API's descriptors, for a server's reflection.
#[cfg(feature = "server")]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/jitgate.bin"));

#[cfg(test)]
mod tests {
    /// What the documentation prints is what is compiled, and was run.
    #[test]
    fn the_documentation_shows_the_example() {
        let example = include_str!("../examples/call.rs");
        let (_, code) = example.split_once("\nuse ").unwrap();
        let shown = format!("```rust\nuse {code}```\n");
        let documentation = include_str!("../../../docs/callers.md");
        assert!(
            documentation.contains(&shown),
            "docs/callers.md is to have:\n{shown}"
        );
    }
}
