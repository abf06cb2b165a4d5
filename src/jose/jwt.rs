//! What both kinds of tokens are read with: the three parts of a compact JWS (RFC 7515 section 7.1), each in its only
//! spelling, and the claims that every JWT has (RFC 7519). Pure. No text of a token reaches a denial.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json;
use crate::model::decision::{Denial, DenyReason};
use crate::model::time::Timestamp;

/// Longest key id, in bytes.
pub(super) const KID_MAX: usize = 256;
/// The last second that a [`Timestamp`] can hold.
const SECONDS_MAX: u64 = Timestamp::MAX.as_micros() / 1_000_000;

/// The parts of a compact token, still encoded.
pub(super) struct Compact<'t> {
    /// What the signature is over.
    pub(super) message: &'t str,
    pub(super) header: &'t str,
    pub(super) payload: &'t str,
    pub(super) signature: &'t str,
}

impl<'t> Compact<'t> {
    /// # Errors
    /// How many parts there are, when they are not three.
    pub(super) fn split(token: &'t str) -> Result<Self, usize> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(token.split('.').count());
        };
        // Found above as a part of `token`; were it not there, no signature would be one over nothing.
        let message = token
            .get(..header.len() + 1 + payload.len())
            .unwrap_or_default();
        Ok(Self {
            message,
            header,
            payload,
            signature,
        })
    }
}

/// # Errors
/// TOKEN_MALFORMED for a token of more than `most` bytes.
pub(super) fn check_size(token: &str, most: usize) -> Result<(), Denial> {
    if token.len() > most {
        return Err(malformed(format!("the token is longer than {most} bytes")));
    }
    Ok(())
}

/// One part of the token in its only spelling.
///
/// # Errors
/// TOKEN_MALFORMED for padding, another alphabet, or bits left over.
pub(super) fn part(text: &str, name: &str) -> Result<Vec<u8>, Denial> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| {
        malformed(format!(
            "the token's {name} is no unpadded, canonical base64url"
        ))
    })
}

/// The members of a header, each written once and none of them `refused`.
///
/// # Errors
/// TOKEN_MALFORMED.
pub(super) fn header(bytes: &[u8], refused: &[&str]) -> Result<Map<String, Value>, Denial> {
    let header =
        json::object(bytes).ok_or_else(|| malformed("the token's header is no JSON object"))?;
    if header.repeats {
        return Err(malformed("the token's header has a member twice"));
    }
    if let Some(member) = refused
        .iter()
        .find(|member| header.members.contains_key(**member))
    {
        return Err(malformed(format!(
            "the token's header has {member:?}, which is not accepted"
        )));
    }
    Ok(header.members)
}

/// The claims, each written once.
///
/// # Errors
/// TOKEN_MALFORMED.
pub(super) fn once(claims: &json::Object) -> Result<&Map<String, Value>, Denial> {
    if claims.repeats {
        return Err(malformed("the token has a claim twice"));
    }
    Ok(&claims.members)
}

/// A NumericDate (RFC 7519 section 2), whole seconds only.
///
/// # Errors
/// TOKEN_MALFORMED for a claim that is there and is none.
pub(super) fn numeric_date(
    claims: &Map<String, Value>,
    claim: &str,
) -> Result<Option<Timestamp>, Denial> {
    let Some(value) = claims.get(claim) else {
        return Ok(None);
    };
    match value.as_u64().filter(|seconds| *seconds <= SECONDS_MAX) {
        Some(seconds) => Ok(Some(Timestamp::from_micros(seconds * 1_000_000))),
        None => Err(malformed(format!(
            "the token's {claim:?} is no whole number of seconds since 1970"
        ))),
    }
}

/// The time of a token by its own claims.
pub(super) struct Validity {
    pub(super) issued: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) expires: Timestamp,
}

impl Validity {
    /// Whether `now` lies in it: up to `late` after its end, and up to `early` before it begins or was issued.
    ///
    /// # Errors
    /// TOKEN_EXPIRED or TOKEN_NOT_YET_VALID.
    pub(super) fn check(
        &self,
        now: Timestamp,
        early: Duration,
        late: Duration,
    ) -> Result<(), Denial> {
        let Self {
            issued,
            not_before,
            expires,
        } = self;
        if now >= expires.plus(late) {
            return Err(Denial::new(
                DenyReason::TokenExpired,
                format!("the token ended at {expires}"),
            ));
        }
        let latest = now.plus(early);
        let not_yet = |detail| Err(Denial::new(DenyReason::TokenNotYetValid, detail));
        if let Some(begins) = not_before.filter(|begins| *begins > latest) {
            return not_yet(format!("the token begins at {begins}"));
        }
        if let Some(issued) = issued.filter(|issued| *issued > latest) {
            return not_yet(format!(
                "the token says that it is issued at {issued}, which has not come yet"
            ));
        }
        Ok(())
    }
}

pub(super) fn malformed(detail: impl Into<Cow<'static, str>>) -> Denial {
    Denial::new(DenyReason::TokenMalformed, detail)
}
