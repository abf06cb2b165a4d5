//! Our protobufs, and their conversion to and from the model. Nothing downstream validates a second time.

pub(crate) mod access;
pub(crate) mod audit;
pub(crate) mod codec;
pub(crate) mod fields;
pub(crate) mod grant;
pub(crate) mod review;
mod secret;

/// The API, as generated from `proto/jitgate/v1`.
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

/// The descriptor set of the API, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/jitgate.bin"));
