//! jitgate's own tokens: what they say, how they are signed, and whether one counts. Pure: it reads no clock and no network.
//!
//! ```text
//! control plane:  JitClaims --KeyPair::sign--> x-jitgate-token        KeyPair::public --TokenKeys--> sidecars, JWKS
//! sidecar:        x-jitgate-token --verify(JitKeys, audience, now)--> JitToken | Denial
//! ```
//!
//! A token is a JWS in compact form with exactly `{"alg", "kid", "typ": "jit+jwt"}` as its header. The algorithm is
//! that of the key, never what the header says.

pub(crate) mod claims;
pub(crate) mod inspect;
pub(crate) mod key;
pub(crate) mod verify;

pub(crate) use claims::{JitClaims, TOKEN_LIFETIME_MAX};
pub(crate) use key::{KeyPair, PublicKey, SignError, TokenAlgorithm};
pub(crate) use verify::{JitKeys, JitToken, KeysError, verify};

/// `typ` of every token's header.
pub(crate) const TYP: &str = "jit+jwt";
