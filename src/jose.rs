//! Tokens: those of configured issuers, and jitgate's own. Both are JWS in compact form (RFC 7515), verified by keys whose
//! own algorithm decides, never by the token's header.

pub(crate) mod cache;
pub(crate) mod identify;
pub(crate) mod issuers;
pub(crate) mod jit;
mod json;
mod jwt;
mod keys;

/// Every signature algorithm that JOSE names and that some key can be for. `none` is not among them.
pub(crate) use jsonwebtoken::Algorithm;

#[cfg(test)]
mod fixture;
