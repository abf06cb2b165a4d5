//! Small pieces that every part may use: they know nothing of this crate, so nothing can depend on itself through them.

pub(crate) mod backoff;
pub(crate) mod duration;
pub(crate) mod grpc_timeout;
pub(crate) mod hex;
pub(crate) mod sha256;
