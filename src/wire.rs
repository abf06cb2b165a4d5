//! Our protobufs, and their conversion to and from the model. Nothing downstream validates a second time.

pub(crate) mod access;
pub(crate) mod audit;
pub(crate) mod fields;
pub(crate) mod grant;
pub(crate) mod review;
mod secret;

/// The API: the messages are those of the client library.
pub(crate) use jitgate_client::v1;

/// What the control plane's store holds, as generated from `proto/jitgate/store/v1`.
#[allow(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod store {
    include!(concat!(env!("OUT_DIR"), "/store/jitgate.store.v1.rs"));
}
