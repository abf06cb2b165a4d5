//! Tokens: issued for a grant that is ACTIVE, to whoever holds it, bound to one workload. Nobody takes a token of another,
//! an administrator neither.
//!
//! The grant is looked at, the token signed and its audit event written in one change of the store: no token exists
//! without all of it.

use std::sync::Arc;
use std::time::Duration;

use super::keys::TokenKeys;
use super::lifecycle::caller::Caller;
use super::lifecycle::fault::{Fault, FaultKind};
use super::lifecycle::plane::Plane;
use super::lifecycle::rows::new_id;
use super::store::Change;
use crate::jose::issuers::Issuers;
use crate::jose::jit::claims::{at_second, seconds};
use crate::jose::jit::verify::TOKEN_MAX;
use crate::jose::jit::{JitClaims, KeyPair, TOKEN_LIFETIME_MAX};
use crate::model::decide::in_force;
use crate::model::decision::DenyReason;

use crate::model::grant::Grant;
use crate::model::identity::{Principal, PrincipalKind};
use crate::model::time::Timestamp;
use crate::telemetry::trace;

pub(crate) mod inspect;
mod pace;
pub(crate) mod validate;

use pace::Pace;

/// Issues and judges tokens.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(super) plane: Plane,
    pub(super) keys: Arc<TokenKeys>,
    pub(super) issuers: Arc<Issuers>,
    pace: Arc<Pace>,
}

/// A token that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// For which grant.
    pub grant: String,
    /// Who is to present it, where that does not follow from who asks.
    pub workload: Option<Principal>,
    /// Good for no longer than this.
    pub lifetime: Option<Duration>,
}

/// A token. Its Debug shows what it says, never the token.
pub(crate) struct IssuedToken {
    /// The credential.
    pub token: String,
    /// What it says.
    pub claims: JitClaims,
    /// By which key it is signed.
    pub kid: String,
    /// When.
    pub time: Timestamp,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedToken")
            .field("claims", &self.claims)
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl IssuedToken {
    /// Two thirds of the way.
    pub(crate) fn renew_at(&self) -> Timestamp {
        self.time.plus(self.claims.expires.since(self.time) * 2 / 3)
    }
}

impl Tokens {
    /// Signs with these keys, for grants of this plane.
    pub(crate) fn new(plane: Plane, keys: Arc<TokenKeys>, issuers: Arc<Issuers>) -> Self {
        Self {
            plane,
            keys,
            issuers,
            pace: Arc::default(),
        }
    }

    /// A token for the caller's grant.
    ///
    /// # Errors
    /// NOT_FOUND and NOT_ELIGIBLE for a grant of others, the grant's own reason when it is not ACTIVE,
    /// INVALID_ARGUMENT for a workload that cannot be, LIMIT_EXCEEDED for a caller in a hurry.
    pub(crate) async fn issue(
        &self,
        caller: &Caller,
        wanted: Wanted,
    ) -> Result<IssuedToken, Fault> {
        self.pace.admit(caller.who())?;
        let (caller, keys) = (caller.clone(), Arc::clone(&self.keys));
        let traceparent = trace::current_traceparent();
        let written = self.plane.store().write(move |change| {
            // Read at the moment of writing: a key that has retired meanwhile signs nothing.
            let keys_now = keys.current();
            let key = keys_now.signer.as_ref().ok_or_else(no_key)?;
            let claims = claims(change, &caller, &wanted, keys.issuer())?;
            let issued = sign(claims, key, change.now())?;
            change.note_token(&issued.claims, &issued.kid, traceparent.as_deref())?;
            Ok::<_, Fault>(issued)
        });
        let (issued, _) = written.await?;
        Ok(issued)
    }
}

fn no_key() -> Fault {
    Fault::new(
        FaultKind::Unavailable,
        "the control plane has no token key yet; try again shortly",
    )
}

/// What the token would say, once everything speaks for it.
fn claims(
    change: &Change<'_>,
    caller: &Caller,
    wanted: &Wanted,
    issuer: &str,
) -> Result<JitClaims, Fault> {
    let issued = change
        .read()
        .grant(&wanted.grant)?
        .filter(|issued| caller.sees_grant(issued));
    let grant = issued
        .ok_or_else(|| Fault::not_found("grant", &wanted.grant))?
        .grant;
    if !caller.acting().contains(&grant.subject) {
        let message = format!(
            "grant {} is of {}: only whoever holds a grant gets tokens for it",
            grant.id, grant.subject
        );
        return Err(Fault::new(FaultKind::NotEligible, message));
    }
    let left = active(&grant, change.now())?;
    let workload = workload(&grant, caller, wanted.workload.as_ref())?;
    let (issued, expires) = span(&grant, change.now(), wanted.lifetime, left)?;
    Ok(JitClaims {
        issuer: issuer.to_owned(),
        subject: grant.subject,
        audience: grant.scope.service().clone(),
        issued,
        not_before: issued,
        expires,
        id: new_id(change.now()).to_string(),
        grant: grant.id,
        revision: grant.mod_revision,
        workload,
    })
}

/// What is left of a grant that is in force; everything else is refused with its own word.
fn active(grant: &Grant, now: Timestamp) -> Result<Option<Duration>, Fault> {
    in_force(grant, now, false).map_err(|failure| {
        let message = format!(
            "grant {} {}: tokens are issued for a grant that is active",
            grant.id,
            failure.of_grant(grant)
        );
        Fault::new(FaultKind::Inactive(failure.reason()), message)
    })
}

/// Who may present the token: named by a user, else the workload that asks, else the grant's own.
fn workload(grant: &Grant, caller: &Caller, named: Option<&Principal>) -> Result<Principal, Fault> {
    let by_user = caller.who().kind() == PrincipalKind::User;
    let own = [caller.workload(), Some(&grant.subject)]
        .into_iter()
        .flatten();
    let own = own
        .into_iter()
        .find(|principal| principal.kind() == PrincipalKind::Workload);
    let workload = match (named, own) {
        (Some(named), own) if by_user || own == Some(named) => named,
        (Some(named), _) => {
            let message = format!(
                "{named} is not you: a workload gets tokens for itself only; leave the field empty"
            );
            return Err(Fault::invalid("workload", message));
        }
        (None, Some(own)) => own,
        (None, None) => {
            let message = "is absent: name the SPIFFE ID of the workload that will present the token, such as \
                           spiffe://td/ns/shop/sa/checkout";
            return Err(Fault::invalid("workload", message));
        }
    };
    if grant.passes_through(Some(workload)) {
        return Ok(workload.clone());
    }
    let message = format!(
        "grant {} is only for calls through {}",
        grant.id,
        list(&grant.via)
    );
    Err(Fault::invalid(
        "workload",
        format!("{workload} could not use the token: {message}"),
    ))
}

fn list(principals: &[Principal]) -> String {
    const SHOWN: usize = 3;
    let names: Vec<&str> = principals
        .iter()
        .take(SHOWN)
        .map(Principal::as_str)
        .collect();
    let more = if principals.len() > SHOWN {
        " and others"
    } else {
        ""
    };
    names.join(", ") + more
}

/// From when to when, in whole seconds: never past the grant, nor longer than a token may live or was wanted.
fn span(
    grant: &Grant,
    now: Timestamp,
    wanted: Option<Duration>,
    left: Option<Duration>,
) -> Result<(Timestamp, Timestamp), Fault> {
    if wanted.is_some_and(|wanted| wanted < Duration::from_secs(1)) {
        return Err(Fault::invalid("duration", "must be at least 1 s"));
    }
    let issued = seconds(now);
    let lifetime = wanted
        .unwrap_or(TOKEN_LIFETIME_MAX)
        .min(TOKEN_LIFETIME_MAX)
        .as_secs();
    let end_of_grant = left.and(grant.expires()).map_or(u64::MAX, seconds);
    let expires = at_second(issued.saturating_add(lifetime).min(end_of_grant));
    if expires <= now {
        let message = format!("less than a second is left of grant {}", grant.id);
        return Err(Fault::new(
            FaultKind::Inactive(DenyReason::GrantExpired),
            message,
        ));
    }
    Ok((at_second(issued), expires))
}

fn sign(claims: JitClaims, key: &KeyPair, time: Timestamp) -> Result<IssuedToken, Fault> {
    let token = claims.sign(key).map_err(|error| {
        tracing::error!(%error, kid = key.kid(), "a token could not be signed");
        Fault::new(
            FaultKind::Internal,
            "the token could not be signed; the operator has to look at the log",
        )
    })?;
    if token.len() > TOKEN_MAX {
        let message = format!(
            "the token would have {} bytes, and sidecars read {TOKEN_MAX}: its names are too long",
            token.len()
        );
        return Err(Fault::new(FaultKind::Limit, message));
    }
    Ok(IssuedToken {
        token,
        claims,
        kid: key.kid().to_owned(),
        time,
    })
}

#[cfg(test)]
mod tests;
