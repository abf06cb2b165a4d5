//! One token judged: a pure function of the token, the issuer's keys and the time. No text of the token reaches a denial.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::{Identity, Terms};
use crate::jose::json;
use crate::jose::keys::{KID_MAX, KeySet, NoKey};
use crate::model::decision::{Denial, DenyReason};
use crate::model::identity::{Principal, PrincipalError};
use crate::model::time::Timestamp;

/// Longest token that is read, in bytes.
pub(super) const TOKEN_MAX: usize = 8192;
const GROUPS_MAX: usize = 64;
const GROUP_MAX: usize = 256;
/// The last second that a [`Timestamp`] can hold.
const SECONDS_MAX: u64 = Timestamp::MAX.as_micros() / 1_000_000;

/// Header members that bring their own key or change how the rest is read (RFC 7515 section 4.1, RFC 7797).
const REFUSED_MEMBERS: [&str; 6] = ["jwk", "jku", "x5c", "x5u", "crit", "b64"];

/// `typ` of jitgate's own tokens. They are bound to a workload and a grant, which nobody looks at here.
const OWN_TYPE: &str = "jit+jwt";

/// Reads what strict reading refuses, only to learn whose token it claims to be.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A token taken apart. Nothing in it is believed yet.
pub(super) struct Presented<'t> {
    /// What the signature is over.
    message: &'t str,
    header: &'t str,
    payload: &'t str,
    signature: &'t str,
    claims: json::Object,
}

/// Why there is nothing to judge.
pub(super) enum Unread {
    /// It belongs to the application.
    Foreign(&'static str),
    /// It cannot be read far enough to tell whose it is.
    Bad(Denial),
}

/// What is to prove the token: its header and signature, read strictly.
pub(super) struct Seal {
    algorithm: Algorithm,
    kid: Option<String>,
    signature: Vec<u8>,
}

/// Why a token does not count.
pub(super) enum Fault {
    /// Other keys of the issuer could not change that.
    Final(Denial),
    /// The issuer may have published the key since its keys were read.
    KeyUnknown(Denial),
}

impl Seal {
    /// Whether these keys can tell who made the seal, or rightly refuse to.
    pub(super) fn is_known_to(&self, keys: &KeySet) -> bool {
        !matches!(
            keys.select(self.kid.as_deref(), self.algorithm),
            Err(NoKey::Unknown)
        )
    }
}

impl<'t> Presented<'t> {
    /// Takes a bearer token apart as far as it takes to see whose it is.
    pub(super) fn read(token: &'t str) -> Result<Self, Unread> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Unread::Foreign(
                "the bearer token is no JWT: it does not have three parts",
            ));
        };
        if token.len() > TOKEN_MAX {
            return Err(Unread::Bad(malformed(format!(
                "the token is longer than {TOKEN_MAX} bytes"
            ))));
        }
        let Some(claims) = LENIENT
            .decode(payload)
            .ok()
            .and_then(|claims| json::object(&claims))
        else {
            return Err(Unread::Foreign(
                "the bearer token is no JWT: its payload is no JSON object",
            ));
        };
        let message = token
            .get(..header.len() + 1 + payload.len())
            .unwrap_or_default();
        Ok(Self {
            message,
            header,
            payload,
            signature,
            claims,
        })
    }

    /// The unverified `iss`: good for choosing the issuer and for nothing else.
    pub(super) fn claimed_issuer(&self) -> Option<&str> {
        self.claims.members.get("iss").and_then(Value::as_str)
    }

    /// Reads the header and the signature, and makes sure that each part has its only spelling.
    pub(super) fn seal(&self) -> Result<Seal, Denial> {
        let header = part(self.header, "header")?;
        part(self.payload, "payload")?;
        let signature = part(self.signature, "signature")?;
        let header = json::object(&header)
            .ok_or_else(|| malformed("the token's header is no JSON object"))?;
        if header.repeats {
            return Err(malformed("the token's header has a member twice"));
        }
        if let Some(member) = REFUSED_MEMBERS
            .iter()
            .find(|member| header.members.contains_key(**member))
        {
            return Err(malformed(format!(
                "the token's header has {member:?}, which is not accepted"
            )));
        }
        if header
            .members
            .get("typ")
            .and_then(Value::as_str)
            .is_some_and(is_own_type)
        {
            return Err(malformed(
                "the token is one of jitgate's own, which no issuer's key can make good",
            ));
        }
        let kid = match header.members.get("kid") {
            None => None,
            Some(Value::String(kid)) if (1..=KID_MAX).contains(&kid.len()) => Some(kid.clone()),
            Some(_) => {
                return Err(malformed(format!(
                    "the token's \"kid\" is no string of 1 to {KID_MAX} bytes"
                )));
            }
        };
        let algorithm = match header.members.get("alg") {
            Some(Value::String(name)) => name.parse().map_err(|_| {
                Denial::new(
                    DenyReason::TokenAlgNotAllowed,
                    "the token's \"alg\" is none that is ever accepted",
                )
            })?,
            _ => return Err(malformed("the token's header has no \"alg\"")),
        };
        Ok(Seal {
            algorithm,
            kid,
            signature,
        })
    }

    /// Judges the token by the issuer's terms and keys.
    pub(super) fn judge(
        &self,
        seal: &Seal,
        terms: &Terms,
        keys: &KeySet,
        now: Timestamp,
    ) -> Result<Identity, Fault> {
        self.check_signature(seal, terms, keys)?;
        self.identity(terms, now).map_err(Fault::Final)
    }

    fn check_signature(&self, seal: &Seal, terms: &Terms, keys: &KeySet) -> Result<(), Fault> {
        let algorithm = seal.algorithm;
        if terms
            .algorithms
            .as_ref()
            .is_some_and(|allowed| !allowed.contains(&algorithm))
        {
            let detail = format!(
                "issuer {} is configured without {algorithm:?}",
                terms.issuer
            );
            return Err(Fault::Final(Denial::new(
                DenyReason::TokenAlgNotAllowed,
                detail,
            )));
        }
        let key = keys
            .select(seal.kid.as_deref(), algorithm)
            .map_err(|none| no_key(none, algorithm, terms, keys))?;
        if !key.verifies(self.message.as_bytes(), &seal.signature) {
            let detail = format!(
                "the token's signature is not one of issuer {}",
                terms.issuer
            );
            return Err(Fault::Final(Denial::new(
                DenyReason::TokenSignatureInvalid,
                detail,
            )));
        }
        Ok(())
    }

    /// What the claims say, once the signature holds.
    fn identity(&self, terms: &Terms, now: Timestamp) -> Result<Identity, Denial> {
        if self.claims.repeats {
            return Err(malformed("the token has a claim twice"));
        }
        let claims = &self.claims.members;
        let expires = check_times(claims, terms, now)?;
        check_audience(claims, terms)?;
        let sub = match claims.get("sub") {
            Some(Value::String(sub)) => sub,
            Some(_) => return Err(malformed("the token's \"sub\" is no string")),
            None => return Err(malformed("the token has no \"sub\"")),
        };
        let user =
            Principal::user(&terms.issuer, sub).map_err(|error| no_principal("sub", &error))?;
        let groups = groups(claims, terms)?;
        Ok(Identity {
            user,
            groups,
            expires,
            claims: Arc::new(claims.clone()),
        })
    }
}

/// A media type may leave `application/` out, and its case does not matter (RFC 7515 section 4.1.9).
fn is_own_type(typ: &str) -> bool {
    let typ = typ.trim().to_ascii_lowercase();
    typ.strip_prefix("application/").unwrap_or(&typ) == OWN_TYPE
}

fn malformed(detail: impl Into<std::borrow::Cow<'static, str>>) -> Denial {
    Denial::new(DenyReason::TokenMalformed, detail)
}

fn no_principal(claim: &str, error: &PrincipalError) -> Denial {
    malformed(format!(
        "the token's {claim:?} yields no principal: it {error}"
    ))
}

/// One part of the token in its only spelling.
fn part(text: &str, name: &str) -> Result<Vec<u8>, Denial> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| {
        malformed(format!(
            "the token's {name} is no unpadded, canonical base64url"
        ))
    })
}

fn no_key(none: NoKey, algorithm: Algorithm, terms: &Terms, keys: &KeySet) -> Fault {
    let issuer = &terms.issuer;
    match none {
        NoKey::Unknown if keys.len() == 0 => {
            let detail = format!(
                "the keys of issuer {issuer} could not be read yet; see the log of this process"
            );
            Fault::KeyUnknown(Denial::new(DenyReason::TokenKeyUnknown, detail))
        }
        NoKey::Unknown => {
            let detail = format!("issuer {issuer} has no key of the token's \"kid\"");
            Fault::KeyUnknown(Denial::new(DenyReason::TokenKeyUnknown, detail))
        }
        NoKey::Unnamed => {
            let detail = format!(
                "the token has no \"kid\", and issuer {issuer} has several keys for {algorithm:?}"
            );
            Fault::Final(Denial::new(DenyReason::TokenKeyUnknown, detail))
        }
        NoKey::Algorithm => {
            let detail =
                format!("the key of issuer {issuer} that the token names is not for {algorithm:?}");
            Fault::Final(Denial::new(DenyReason::TokenAlgNotAllowed, detail))
        }
    }
}

/// `exp`, `nbf` and `iat`; returns `exp`.
fn check_times(
    claims: &Map<String, Value>,
    terms: &Terms,
    now: Timestamp,
) -> Result<Timestamp, Denial> {
    let expires =
        numeric_date(claims, "exp")?.ok_or_else(|| malformed("the token has no \"exp\""))?;
    let not_before = numeric_date(claims, "nbf")?;
    let issued = numeric_date(claims, "iat")?;
    if now >= expires.plus(terms.leeway) {
        return Err(Denial::new(
            DenyReason::TokenExpired,
            format!("the token ended at {expires}"),
        ));
    }
    let latest = now.plus(terms.leeway);
    if let Some(begins) = not_before.filter(|begins| *begins > latest) {
        return Err(Denial::new(
            DenyReason::TokenNotYetValid,
            format!("the token begins at {begins}"),
        ));
    }
    if let Some(issued) = issued.filter(|issued| *issued > latest) {
        let detail =
            format!("the token says that it is issued at {issued}, which has not come yet");
        return Err(Denial::new(DenyReason::TokenNotYetValid, detail));
    }
    Ok(expires)
}

/// A NumericDate (RFC 7519 section 2), whole seconds only.
fn numeric_date(claims: &Map<String, Value>, claim: &str) -> Result<Option<Timestamp>, Denial> {
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

fn check_audience(claims: &Map<String, Value>, terms: &Terms) -> Result<(), Denial> {
    let ours = |audience: &Value| match audience.as_str() {
        Some(audience) => Ok(terms.audiences.iter().any(|ours| ours == audience)),
        None => Err(malformed(
            "the token's \"aud\" is neither a string nor a list of strings",
        )),
    };
    let met = match claims.get("aud") {
        None => false,
        Some(Value::Array(audiences)) => audiences.iter().try_fold(false, |met, audience| {
            Ok::<_, Denial>(ours(audience)? || met)
        })?,
        Some(audience) => ours(audience)?,
    };
    if met {
        return Ok(());
    }
    let detail = format!("the token is not for {}", terms.audiences.join(" or "));
    Err(Denial::new(DenyReason::TokenAudienceMismatch, detail))
}

/// The groups, each once, in the token's order.
fn groups(claims: &Map<String, Value>, terms: &Terms) -> Result<Vec<Principal>, Denial> {
    let claim = &*terms.groups_claim;
    let names = match claims.get(claim) {
        None => return Ok(Vec::new()),
        Some(Value::Array(names)) => names,
        Some(_) => {
            return Err(malformed(format!(
                "the token's {claim:?} is no list of group names"
            )));
        }
    };
    if names.len() > GROUPS_MAX {
        return Err(malformed(format!(
            "the token has {} groups; at most {GROUPS_MAX} are read",
            names.len()
        )));
    }
    let mut groups = Vec::with_capacity(names.len());
    for name in names {
        let name = name.as_str().filter(|name| name.len() <= GROUP_MAX);
        let name = name.ok_or_else(|| {
            malformed(format!(
                "a group of the token is no string of up to {GROUP_MAX} bytes"
            ))
        })?;
        let group =
            Principal::group(&terms.issuer, name).map_err(|error| no_principal(claim, &error))?;
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    Ok(groups)
}
