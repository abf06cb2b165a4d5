//! Tokens: those of configured issuers, and jitgate's own. Both are JWS in compact form (RFC 7515), verified by keys whose
//! own algorithm decides, never by the token's header.

pub(crate) mod cache;
pub(crate) mod issuers;
pub(crate) mod jit;
mod json;
mod jwt;
mod keys;

#[cfg(test)]
mod fixture;
