//! The claims of a token, once its signature holds: each there, of its one type, and in its bounds.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::jose::cache::Expires;
use crate::jose::jit::claims::{JitClaims, TOKEN_LIFETIME_MAX};
use crate::jose::jwt::{Validity, malformed, numeric_date};
use crate::model::decision::{Denial, DenyReason};
use crate::model::grant::{GrantId, Revision};
use crate::model::identity::{Principal, PrincipalKind, Service};
use crate::model::time::Timestamp;

/// How far ahead of ours the clock that dated a token may be. Nothing is added to its end.
const LEEWAY: Duration = Duration::from_secs(5);
/// Longest `jti`, in bytes.
const ID_MAX: usize = 64;

/// A token that counts: signed by one of the keys, at this time. Whether its workload presents it and its grant is alive
/// is for the decision to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JitToken {
    /// What it says.
    pub claims: JitClaims,
}

impl JitToken {
    /// # Errors
    /// TOKEN_AUDIENCE_MISMATCH when it is for another service.
    pub(crate) fn meant_for(&self, service: &Service) -> Result<(), Denial> {
        if self.claims.audience == *service {
            return Ok(());
        }
        Err(Denial::new(
            DenyReason::TokenAudienceMismatch,
            format!("the token is not for service {service}"),
        ))
    }

    /// # Errors
    /// TOKEN_BINDING_MISMATCH unless the mTLS peer is the workload that the token is bound to. Without a peer nobody is.
    pub(crate) fn bound_to(&self, peer: Option<&Principal>) -> Result<(), Denial> {
        let detail = match peer {
            Some(peer) if *peer == self.claims.workload => return Ok(()),
            Some(_) => "the token is bound to another workload than the one that presents it",
            None => {
                "the token is bound to a workload, and the call comes from none: it has no mTLS identity"
            }
        };
        Err(Denial::new(DenyReason::TokenBindingMismatch, detail))
    }

    /// Whether `now` lies in its time.
    pub(super) fn timely(&self, now: Timestamp) -> Result<(), Denial> {
        let JitClaims {
            issued,
            not_before,
            expires,
            ..
        } = &self.claims;
        let validity = Validity {
            issued: Some(*issued),
            not_before: Some(*not_before),
            expires: *expires,
        };
        validity.check(now, LEEWAY, Duration::ZERO)
    }
}

impl Expires for JitToken {
    fn expires(&self) -> Timestamp {
        self.claims.expires
    }
}

/// Whose token it claims to be, before anything is believed.
pub(super) fn expect_issuer(claims: &Map<String, Value>, issuer: &str) -> Result<(), Denial> {
    if text(claims, "iss")? == issuer {
        return Ok(());
    }
    let detail = "the token's \"iss\" is not the control plane that this sidecar follows";
    Err(Denial::new(DenyReason::TokenIssuerUnknown, detail))
}

/// All claims. What is not one of ours is passed over, so that later versions can add some.
pub(super) fn read(issuer: &str, claims: &Map<String, Value>) -> Result<JitClaims, Denial> {
    let (issued, not_before, expires) = (
        date(claims, "iat")?,
        date(claims, "nbf")?,
        date(claims, "exp")?,
    );
    if expires <= issued || expires <= not_before {
        return Err(malformed(
            "the token's \"exp\" does not lie after its \"iat\" and \"nbf\"",
        ));
    }
    if expires.since(issued) > TOKEN_LIFETIME_MAX {
        return Err(malformed("the token lives longer than 5 minutes"));
    }
    let principal =
        |claim, text: &str| Principal::parse(text).map_err(|_| no(claim, "canonical principal"));
    let id = text(claims, "jti")?;
    if !(1..=ID_MAX).contains(&id.len()) {
        return Err(no("jti", "id of 1 to 64 bytes"));
    }
    Ok(JitClaims {
        issuer: issuer.to_owned(),
        subject: principal("sub", text(claims, "sub")?)?,
        audience: Service::parse(text(claims, "aud")?)
            .map_err(|_| no("aud", "name of one service"))?,
        issued,
        not_before,
        expires,
        id: id.to_owned(),
        grant: GrantId::parse(text(claims, "grant")?).map_err(|_| no("grant", "grant id"))?,
        revision: revision(claims)?,
        workload: workload(claims)?,
    })
}

/// `cnf` must confirm by a SPIFFE ID and by nothing beside it: what is not understood cannot be checked.
fn workload(claims: &Map<String, Value>) -> Result<Principal, Denial> {
    let bound = match claims.get("cnf") {
        None => {
            return Err(malformed(
                "the token has no \"cnf\": it is bound to no workload",
            ));
        }
        Some(Value::Object(bound)) if bound.len() == 1 => bound,
        Some(_) => return Err(no("cnf", "object of \"spiffe_id\" alone")),
    };
    let id = bound
        .get("spiffe_id")
        .and_then(Value::as_str)
        .ok_or_else(|| no("cnf", "object of \"spiffe_id\" alone"))?;
    let workload = Principal::parse(id)
        .ok()
        .filter(|principal| principal.kind() == PrincipalKind::Workload);
    workload.ok_or_else(|| no("cnf", "canonical SPIFFE ID"))
}

fn revision(claims: &Map<String, Value>) -> Result<Revision, Denial> {
    let value = claims.get("rev").ok_or_else(|| absent("rev"))?;
    // Revisions travel as int64.
    let revision = value
        .as_u64()
        .filter(|revision| i64::try_from(*revision).is_ok());
    revision
        .map(Revision)
        .ok_or_else(|| no("rev", "whole number from 0 to 2^63 - 1"))
}

fn date(claims: &Map<String, Value>, claim: &str) -> Result<Timestamp, Denial> {
    numeric_date(claims, claim)?.ok_or_else(|| absent(claim))
}

fn text<'c>(claims: &'c Map<String, Value>, claim: &str) -> Result<&'c str, Denial> {
    claims
        .get(claim)
        .ok_or_else(|| absent(claim))?
        .as_str()
        .ok_or_else(|| no(claim, "string"))
}

fn absent(claim: &str) -> Denial {
    malformed(format!("the token has no {claim:?}"))
}

fn no(claim: &str, what: &str) -> Denial {
    malformed(format!("the token's {claim:?} is no {what}"))
}
