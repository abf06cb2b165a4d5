//! The gRPC service: parse, call, reply. It leaves no token in a span, a log or an error.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::Span;

use super::call::{Api, REQUEST_MAX};
use crate::control::keys::TokenKeys;
use crate::control::lifecycle::fault::Fault;
use crate::control::store::token_key::{Stage, TokenKey};
use crate::control::tokens::inspect::Found;
use crate::control::tokens::{IssuedToken, Tokens, Wanted, validate};
use crate::jose::issuers::Issuers;
use crate::jose::jit::inspect::{Check, Outcome};
use crate::model::identity::{Principal, Service};
use crate::telemetry::names;
use crate::wire::access::revision_to;
use crate::wire::grant::{duration_from, timestamp_to};
use crate::wire::v1;
use crate::wire::v1::token_service_server::{TokenService, TokenServiceServer};

/// Longest reason for a rotation, in characters.
const REASON_MAX: usize = 1024;

/// Serves `TokenService`.
#[derive(Debug, Clone)]
pub(crate) struct TokenApi {
    api: Api,
    tokens: Tokens,
}

impl TokenApi {
    /// In the bounds of `api`, with these keys and issuers.
    pub(crate) fn new(api: Api, keys: Arc<TokenKeys>, issuers: Arc<Issuers>) -> Self {
        let tokens = Tokens::new(api.plane().clone(), keys, issuers);
        Self {
            api: api.named("jitgate.v1.TokenService"),
            tokens,
        }
    }

    /// The service to add to a gRPC server.
    pub(crate) fn into_service(self) -> TokenServiceServer<Self> {
        TokenServiceServer::new(self).max_decoding_message_size(REQUEST_MAX)
    }
}

#[tonic::async_trait]
impl TokenService for TokenApi {
    async fn issue_token(
        &self,
        request: Request<v1::IssueTokenRequest>,
    ) -> Result<Response<v1::IssueTokenResponse>, Status> {
        let tokens = self.tokens.clone();
        self.api
            .call("IssueToken", request, |_, caller, wire| async move {
                let issued = tokens.issue(&caller, wanted(&wire)?).await?;
                let span = Span::current();
                span.record(names::GRANT_ID, issued.claims.grant.as_str());
                span.record(names::SERVICE, issued.claims.audience.as_str());
                Ok(issued_to(issued))
            })
            .await
    }

    async fn introspect_token(
        &self,
        request: Request<v1::IntrospectTokenRequest>,
    ) -> Result<Response<v1::IntrospectTokenResponse>, Status> {
        let tokens = self.tokens.clone();
        self.api
            .call("IntrospectToken", request, |_, _, wire| async move {
                let service = optional("service", &wire.service, Service::parse)?;
                let peer = optional("peer", &wire.peer, Principal::workload)?;
                Ok(found_to(tokens.inspect(
                    &wire.token,
                    service.as_ref(),
                    peer.as_ref(),
                )))
            })
            .await
    }

    async fn validate_access(
        &self,
        request: Request<v1::ValidateAccessRequest>,
    ) -> Result<Response<v1::ValidateAccessResponse>, Status> {
        let tokens = self.tokens.clone();
        self.api
            .call("ValidateAccess", request, |_, caller, wire| async move {
                let question = validate::Question::parse(wire)?;
                Ok(tokens.validate(&caller, &question).await?.into_wire())
            })
            .await
    }

    async fn list_token_keys(
        &self,
        request: Request<v1::ListTokenKeysRequest>,
    ) -> Result<Response<v1::ListTokenKeysResponse>, Status> {
        let tokens = self.tokens.clone();
        self.api
            .call("ListTokenKeys", request, |_, _, _| async move {
                Ok(tokens.listed())
            })
            .await
    }

    async fn rotate_token_key(
        &self,
        request: Request<v1::RotateTokenKeyRequest>,
    ) -> Result<Response<v1::ListTokenKeysResponse>, Status> {
        let tokens = self.tokens.clone();
        self.api
            .call("RotateTokenKey", request, |_, caller, wire| async move {
                caller.must_be_admin("rotate the token keys")?;
                let printable = wire.reason.chars().all(|c| !c.is_control());
                if !printable || wire.reason.chars().count() > REASON_MAX {
                    let problem = format!("must be at most {REASON_MAX} characters on one line");
                    return Err(Fault::invalid("reason", problem));
                }
                tokens
                    .keys
                    .rotate(caller.who().to_string(), wire.reason)
                    .await?;
                Ok(tokens.listed())
            })
            .await
    }
}

impl Tokens {
    fn listed(&self) -> v1::ListTokenKeysResponse {
        let (current, schedule) = (self.keys.current(), self.keys.schedule());
        let status = |key: &TokenKey| v1::TokenKeyStatus {
            kid: key.kid.clone(),
            alg: key.algorithm.as_str().to_owned(),
            state: match key.stage() {
                Stage::Published => v1::TokenKeyState::Published,
                Stage::Signing(_) => v1::TokenKeyState::Signing,
                Stage::Retired(_) => v1::TokenKeyState::Retired,
            }
            .into(),
            publish_time: Some(timestamp_to(key.published)),
            sign_time: key.signing().map(timestamp_to),
            retire_time: key.retired().map(timestamp_to),
            next_time: current.ring.moves_at(key, schedule).map(timestamp_to),
            jwk: key.jwk.clone(),
        };
        v1::ListTokenKeysResponse {
            issuer: self.keys.issuer().to_owned(),
            keys: current.ring.0.iter().map(status).collect(),
            server_time: Some(timestamp_to(self.plane.now())),
        }
    }
}

fn wanted(wire: &v1::IssueTokenRequest) -> Result<Wanted, Fault> {
    let v1::IssueTokenRequest {
        grant,
        workload,
        duration,
    } = wire;
    if grant.is_empty() {
        return Err(Fault::invalid(
            "grant",
            "is absent: name the grant that the token is for",
        ));
    }
    Ok(Wanted {
        grant: grant.clone(),
        workload: optional("workload", workload, Principal::workload)?,
        lifetime: duration
            .as_ref()
            .map(|span| duration_from(span, "duration"))
            .transpose()?,
    })
}

fn optional<T, E: std::fmt::Display>(
    field: &str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    parse(text)
        .map(Some)
        .map_err(|error| Fault::invalid(field, error.to_string()))
}

fn issued_to(issued: IssuedToken) -> v1::IssueTokenResponse {
    let renew_time = issued.renew_at();
    let IssuedToken {
        token,
        claims,
        kid,
        time,
    } = issued;
    v1::IssueTokenResponse {
        token,
        expire_time: Some(timestamp_to(claims.expires)),
        renew_time: Some(timestamp_to(renew_time)),
        issue_time: Some(timestamp_to(time)),
        id: claims.id,
        grant: claims.grant.to_string(),
        subject: claims.subject.to_string(),
        workload: claims.workload.to_string(),
        audience: claims.audience.to_string(),
        kid,
    }
}

fn found_to(found: Found) -> v1::IntrospectTokenResponse {
    let Found {
        inspection,
        now,
        revision,
    } = found;
    let failed = inspection
        .checks
        .iter()
        .find_map(|check| match check.outcome {
            Outcome::Failed(reason) => Some(reason.as_str()),
            Outcome::Passed | Outcome::Skipped => None,
        });
    let active = inspection
        .checks
        .iter()
        .all(|check| check.outcome == Outcome::Passed);
    let json =
        |part: Option<serde_json::Value>| part.map(|part| part.to_string()).unwrap_or_default();
    v1::IntrospectTokenResponse {
        active,
        reason: failed.unwrap_or_default().to_owned(),
        checks: inspection.checks.into_iter().map(check_to).collect(),
        header: json(inspection.header),
        claims: json(inspection.claims),
        server_time: Some(timestamp_to(now)),
        revision: revision_to(revision),
    }
}

fn check_to(check: Check) -> v1::TokenCheck {
    let (outcome, reason) = match check.outcome {
        Outcome::Passed => (v1::TokenCheckOutcome::Passed, ""),
        Outcome::Failed(reason) => (v1::TokenCheckOutcome::Failed, reason.as_str()),
        Outcome::Skipped => (v1::TokenCheckOutcome::Skipped, ""),
    };
    v1::TokenCheck {
        name: check.name.to_owned(),
        outcome: outcome.into(),
        detail: check.detail,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
