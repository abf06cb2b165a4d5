//! One token judged: a pure function of the token, the issuer's keys and the time. No text of the token reaches a denial.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::terms::{Identity, Terms};
use crate::jose::Algorithm;
use crate::jose::jit;
use crate::jose::json;
use crate::jose::jwt::{self, Compact, KID_MAX, Validity, malformed, numeric_date};
use crate::jose::keys::{KeySet, NoKey};
use crate::model::decision::{Denial, DenyReason};
use crate::model::identity::{Principal, PrincipalError};
use crate::model::time::Timestamp;

/// Longest token that is read, in bytes.
pub(super) const TOKEN_MAX: usize = 8192;
const GROUPS_MAX: usize = 64;
const GROUP_MAX: usize = 256;

/// Header members that bring their own key or change how the rest is read (RFC 7515 section 4.1, RFC 7797).
const REFUSED_MEMBERS: [&str; 6] = ["jwk", "jku", "x5c", "x5u", "crit", "b64"];

/// Reads what strict reading refuses, only to learn whose token it claims to be.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A token taken apart. Nothing in it is believed yet.
pub(super) struct Presented<'t> {
    parts: Compact<'t>,
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
        let parts = Compact::split(token).map_err(|_| {
            Unread::Foreign("the bearer token is no JWT: it does not have three parts")
        })?;
        jwt::check_size(token, TOKEN_MAX).map_err(Unread::Bad)?;
        // Whose token it is must be told of a badly encoded one too; `seal` refuses it if it is ours to judge.
        let claims = LENIENT
            .decode(parts.payload)
            .ok()
            .and_then(|claims| json::object(&claims));
        match claims {
            Some(claims) => Ok(Self { parts, claims }),
            None => Err(Unread::Foreign(
                "the bearer token is no JWT: its payload is no JSON object",
            )),
        }
    }

    /// The unverified `iss`: good for choosing the issuer and for nothing else.
    pub(super) fn claimed_issuer(&self) -> Option<&str> {
        self.claims.members.get("iss").and_then(Value::as_str)
    }

    /// Reads the header and the signature, and makes sure that each part has its only spelling.
    pub(super) fn seal(&self) -> Result<Seal, Denial> {
        let header = jwt::part(self.parts.header, "header")?;
        jwt::part(self.parts.payload, "payload")?;
        let signature = jwt::part(self.parts.signature, "signature")?;
        let header = jwt::header(&header, &REFUSED_MEMBERS)?;
        if header
            .get("typ")
            .and_then(Value::as_str)
            .is_some_and(is_own_type)
        {
            return Err(malformed(
                "the token is one of jitgate's own, which no issuer's key can make good",
            ));
        }
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) if (1..=KID_MAX).contains(&kid.len()) => Some(kid.clone()),
            Some(_) => {
                return Err(malformed(format!(
                    "the token's \"kid\" is no string of 1 to {KID_MAX} bytes"
                )));
            }
        };
        let algorithm = match header.get("alg") {
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
        if !key.verifies(self.parts.message.as_bytes(), &seal.signature) {
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
        let claims = jwt::once(&self.claims)?;
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

/// jitgate's own tokens are bound to a workload and a grant, which nobody looks at here. A media type may leave `application/` out, and its case does not matter (RFC 7515 section 4.1.9).
fn is_own_type(typ: &str) -> bool {
    let typ = typ.trim().to_ascii_lowercase();
    typ.strip_prefix("application/").unwrap_or(&typ) == jit::TYP
}

fn no_principal(claim: &str, error: &PrincipalError) -> Denial {
    malformed(format!(
        "the token's {claim:?} yields no principal: it {error}"
    ))
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
    let validity = Validity {
        not_before: numeric_date(claims, "nbf")?,
        issued: numeric_date(claims, "iat")?,
        expires,
    };
    validity.check(now, terms.leeway, terms.leeway)?;
    Ok(expires)
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
