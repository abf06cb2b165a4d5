//! Tokens: those of configured issuers, and jitgate's own. Both are JWS in compact form (RFC 7515), verified by keys whose
//! own algorithm decides, never by the token's header.

pub(crate) mod identify;
pub(crate) mod issuers;
pub(crate) mod jit;
