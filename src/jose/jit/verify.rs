//! Whether a token counts: a pure function of the keys, the token, the service it is presented at, and the time.
//!
//! There is one spelling of a token, one header and one type of each claim; whatever else the JOSE specifications allow is
//! refused. No text of the token reaches a denial. Who presents it, and whether its grant is alive, is decided elsewhere.

use super::TYP;
use super::key::TokenAlgorithm;
use crate::jose::json;
use crate::jose::jwt::{self, Compact, KID_MAX, malformed};
use crate::model::decision::{Denial, DenyReason};
use crate::model::identity::Service;
use crate::model::time::Timestamp;

mod body;
mod keys;

pub(crate) use body::JitToken;
pub(crate) use keys::{JitKeys, KeysError};

/// Longest token that is read, in bytes: four times what the longest usual names need.
pub(crate) const TOKEN_MAX: usize = 4096;

/// Header members that bring their own key, or change how the rest is read (RFC 7515 section 4.1, RFC 7516, RFC 7797).
const REFUSED_MEMBERS: [&str; 11] = [
    "jwk", "jku", "x5c", "x5u", "x5t", "x5t#S256", "crit", "b64", "zip", "enc", "cty",
];

/// A token of the right shape and type. Nothing in it is believed yet.
pub(crate) struct Presented<'t> {
    /// What the signature is over.
    message: &'t str,
    algorithm: TokenAlgorithm,
    kid: String,
    claims: json::Object,
    signature: Vec<u8>,
}

/// Verifies a token.
///
/// # Errors
/// The first check that fails, in the order shape, type, claims readable, issuer, key, signature, claims, times, audience.
pub(crate) fn verify(
    keys: &JitKeys,
    token: &str,
    audience: &Service,
    now: Timestamp,
) -> Result<JitToken, Denial> {
    let token = Presented::read(token)?.judge(keys, now)?;
    token.meant_for(audience)?;
    Ok(token)
}

impl<'t> Presented<'t> {
    /// Takes a token apart: everything that can be told without a key.
    ///
    /// # Errors
    /// TOKEN_MALFORMED or TOKEN_ALG_NOT_ALLOWED.
    pub(crate) fn read(token: &'t str) -> Result<Self, Denial> {
        let parts = split(token)?;
        let (algorithm, kid) = read_header(&jwt::part(parts.header, "header")?)?;
        let payload = jwt::part(parts.payload, "payload")?;
        let signature = jwt::part(parts.signature, "signature")?;
        let claims = json::object(&payload)
            .ok_or_else(|| malformed("the token's payload is no JSON object"))?;
        jwt::once(&claims)?;
        Ok(Self {
            message: parts.message,
            algorithm,
            kid,
            claims,
            signature,
        })
    }

    /// Judges it by the keys and the time. For which service it is, [`JitToken::meant_for`] tells.
    ///
    /// # Errors
    /// As [`verify`]. TOKEN_KEY_UNKNOWN alone may be answered differently by newer keys.
    pub(crate) fn judge(&self, keys: &JitKeys, now: Timestamp) -> Result<JitToken, Denial> {
        body::expect_issuer(&self.claims.members, keys.issuer())?;
        let key = keys.find(&self.kid).ok_or_else(|| {
            Denial::new(
                DenyReason::TokenKeyUnknown,
                "the control plane has published no key of the token's \"kid\"",
            )
        })?;
        if key.algorithm() != self.algorithm {
            let detail = format!(
                "the token's key is for {}, which is not the \"alg\" of its header",
                key.algorithm()
            );
            return Err(Denial::new(DenyReason::TokenAlgNotAllowed, detail));
        }
        if !key.verifies(self.message.as_bytes(), &self.signature) {
            let detail = "the token's signature is not one of the key it names";
            return Err(Denial::new(DenyReason::TokenSignatureInvalid, detail));
        }
        let token = JitToken {
            claims: body::read(keys.issuer(), &self.claims.members)?,
        };
        token.timely(now)?;
        Ok(token)
    }
}

/// The three parts of a token that is signed, in words of their own for what is often presented instead.
fn split(token: &str) -> Result<Compact<'_>, Denial> {
    jwt::check_size(token, TOKEN_MAX)?;
    if token.starts_with(['{', '[']) {
        return Err(malformed(
            "the token is in a JSON serialization; only the compact one is read",
        ));
    }
    let parts = Compact::split(token).map_err(|parts| {
        malformed(match parts {
            0..3 => "the token does not have three parts",
            5 => "the token has five parts: an encrypted token is not read",
            _ => "the token has more than three parts",
        })
    })?;
    if parts.signature.is_empty() && token.len() > 2 {
        return Err(Denial::new(
            DenyReason::TokenSignatureInvalid,
            "the token has no signature",
        ));
    }
    Ok(parts)
}

/// The algorithm and the key id of a header that has exactly these and the type.
fn read_header(header: &[u8]) -> Result<(TokenAlgorithm, String), Denial> {
    let members = jwt::header(header, &REFUSED_MEMBERS)?;
    if members
        .keys()
        .any(|member| !matches!(member.as_str(), "alg" | "kid" | "typ"))
    {
        return Err(malformed(
            "the token's header has a member other than \"alg\", \"kid\" and \"typ\"",
        ));
    }
    let text = |member| match members.get(member) {
        None => Err(malformed(format!("the token's header has no {member:?}"))),
        Some(value) => value
            .as_str()
            .ok_or_else(|| malformed(format!("the token's {member:?} is no string"))),
    };
    if text("typ")? != TYP {
        return Err(malformed(
            "the token's \"typ\" is not \"jit+jwt\": it is no token of jitgate's own",
        ));
    }
    let algorithm = text("alg")?;
    let algorithm = algorithm.parse().map_err(|_| not_allowed(algorithm))?;
    let kid = text("kid")?;
    if !(1..=KID_MAX).contains(&kid.len()) {
        return Err(malformed(format!(
            "the token's \"kid\" has not 1 to {KID_MAX} bytes"
        )));
    }
    Ok((algorithm, kid.to_owned()))
}

/// Tells apart what is often tried, in words of our own.
fn not_allowed(algorithm: &str) -> Denial {
    let detail = if algorithm.eq_ignore_ascii_case("none") {
        "the token's \"alg\" is none: an unsigned token proves nothing"
    } else if algorithm
        .get(..2)
        .is_some_and(|family| family.eq_ignore_ascii_case("HS"))
    {
        "the token's \"alg\" is symmetric: a public key is no secret"
    } else {
        "the token's \"alg\" is neither EdDSA nor ES256"
    };
    Denial::new(DenyReason::TokenAlgNotAllowed, detail)
}

/// Which key it names; neither claims nor signature.
impl std::fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presented")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
