//! A call decided as a sidecar would: the same credentials read by the same rules, the same decision function, the same
//! grants. For whoever wants a verdict without an Envoy; nothing is enforced here.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Tokens;
use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::index::Index;
use crate::jose::issuers::{Identity, Issuers, Verdict as Judged};
use crate::jose::jit::{JitKeys, JitToken, verify};
use crate::model::decide::{Caller as Calling, Check, Freshness, Tokened, decide};
use crate::model::decision::{Decision, Denial, DenyReason};
use crate::model::grant::Revision;
use crate::model::identity::{Principal, Service};
use crate::model::target::{Target, TargetError};
use crate::model::time::Timestamp;
use crate::wire::access::revision_to;
use crate::wire::grant::timestamp_to;
use crate::wire::v1;
use crate::wire::v1::validate_access_request::Target as WireTarget;

/// How long a revision is waited for.
const WAIT_MAX: Duration = Duration::from_millis(200);
/// Principals named beside the credentials.
const PRINCIPALS_MAX: usize = 64;

/// A call, as a sidecar would see it.
#[derive(Clone)]
pub(crate) struct Question {
    service: Service,
    target: Called,
    /// What the client certificate names; empty without one.
    peer: String,
    bearer: Option<String>,
    token: Option<String>,
    principals: Vec<Principal>,
    revision: Revision,
}

#[derive(Debug, Clone)]
enum Called {
    Grpc(String),
    Http(String, String),
}

/// Without the credentials.
impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question")
            .field("service", &self.service)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// What a sidecar would say, and of which grants.
#[derive(Debug)]
pub(crate) struct Verdict {
    decision: Decision,
    revision: Revision,
    now: Timestamp,
}

impl Verdict {
    /// As the API answers it.
    pub(crate) fn into_wire(self) -> v1::ValidateAccessResponse {
        let Self {
            decision,
            revision,
            now,
        } = self;
        let (allowed, reason, detail, grant) = match decision {
            Decision::Permit(permit) => (
                true,
                "",
                format!("by {}", permit.principal()),
                Some(permit.grant().clone()),
            ),
            Decision::Deny(denial) => (
                false,
                denial.reason.as_str(),
                denial.detail.into_owned(),
                denial.nearest,
            ),
        };
        v1::ValidateAccessResponse {
            allowed,
            reason: reason.to_owned(),
            detail,
            grant: grant.map(|grant| grant.id.to_string()).unwrap_or_default(),
            revision: revision_to(revision),
            server_time: Some(timestamp_to(now)),
        }
    }
}

impl Question {
    /// # Errors
    /// INVALID_ARGUMENT with the field.
    pub(crate) fn parse(wire: v1::ValidateAccessRequest) -> Result<Self, Fault> {
        let v1::ValidateAccessRequest {
            service,
            target,
            peer,
            bearer,
            token,
            principals,
            revision,
        } = wire;
        if principals.len() > PRINCIPALS_MAX {
            return Err(Fault::invalid(
                "principals",
                format!("are more than {PRINCIPALS_MAX}"),
            ));
        }
        let principal = |(i, text): (usize, &String)| {
            Principal::parse(text)
                .map_err(|error| Fault::invalid(format!("principals[{i}]"), error.to_string()))
        };
        let target = match target {
            Some(WireTarget::Grpc(path)) => Called::Grpc(path),
            Some(WireTarget::Http(line)) => match line.split_once(' ') {
                Some((method, path)) => {
                    Called::Http(method.to_owned(), without_query(path).to_owned())
                }
                None => {
                    return Err(Fault::invalid(
                        "http",
                        "must be a method and a path, such as: GET /v1/users/7",
                    ));
                }
            },
            None => return Err(Fault::invalid("target", "say what is called: grpc or http")),
        };
        Ok(Self {
            service: Service::parse(&service)
                .map_err(|error| Fault::invalid("service", error.to_string()))?,
            target,
            peer,
            bearer: Some(bearer).filter(|bearer| !bearer.is_empty()),
            token: Some(token).filter(|token| !token.is_empty()),
            principals: principals
                .iter()
                .enumerate()
                .map(principal)
                .collect::<Result<_, _>>()?,
            revision: u64::try_from(revision)
                .map(Revision)
                .map_err(|_| Fault::invalid("revision", "is negative"))?,
        })
    }

    fn target(&self) -> Result<Target<'_>, TargetError> {
        match &self.target {
            // What is no gRPC path is still a POST of that content type.
            Called::Grpc(path) => Target::grpc(path).or_else(|_| Target::http("POST", path)),
            // The target of a CONNECT is an authority, whatever stands where the path should.
            Called::Http(method, _) if method == "CONNECT" => Err(TargetError::NotAbsolute),
            Called::Http(method, path) => Target::http(method, path),
        }
    }

    /// Who would call, by the rules that a sidecar has: what is presented, ours to judge and bad denies always.
    async fn caller(
        &self,
        issuers: &Issuers,
        keys: &JitKeys,
        now: Timestamp,
    ) -> Result<Calling, Denial> {
        let peer = peer(&self.peer)?;
        let mut principals: Vec<Principal> = peer.iter().cloned().collect();
        let mut tokened = None;
        if let Some(token) = &self.token {
            match issuers.verify(token, now).await {
                Judged::Valid(identity) => add(&mut principals, &identity),
                Judged::Bad(denial) => return Err(denial),
                Judged::Foreign(_) => {
                    let token = verify(keys, token, &self.service, now)?;
                    token.bound_to(peer.as_ref())?;
                    tokened = Some(proven_by(token));
                }
            }
        }
        if let Some(bearer) = &self.bearer {
            match issuers.verify(bearer, now).await {
                Judged::Valid(identity) => add(&mut principals, &identity),
                Judged::Foreign(_) => {}
                Judged::Bad(denial) => return Err(denial),
            }
        }
        for principal in &self.principals {
            if !principals.contains(principal) {
                principals.push(principal.clone());
            }
        }
        Ok(Calling {
            peer,
            principals,
            tokened,
        })
    }
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

/// As Envoy names it: only a SPIFFE ID names a workload, and a bad one is refused.
fn peer(text: &str) -> Result<Option<Principal>, Denial> {
    if !text
        .get(..7)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
    {
        return Ok(None);
    }
    let invalid = |error| {
        Denial::new(
            DenyReason::PeerIdentityInvalid,
            format!("the peer's identity {error}"),
        )
    };
    Principal::parse(text).map(Some).map_err(invalid)
}

fn add(principals: &mut Vec<Principal>, identity: &Identity) {
    for principal in std::iter::once(&identity.user).chain(&identity.groups) {
        if !principals.contains(principal) {
            principals.push(principal.clone());
        }
    }
}

fn proven_by(token: JitToken) -> Tokened {
    let claims = token.claims;
    Tokened {
        subject: claims.subject,
        grant: claims.grant,
        revision: claims.revision,
    }
}

/// The decision on a call by these keys, issuers and grants.
pub(crate) async fn judge(
    (issuers, keys): (&Issuers, &JitKeys),
    grants: &Index,
    question: &Question,
    now: Timestamp,
) -> Decision {
    let target = question.target();
    // With a target that is refused anyway, no credential is worth verifying.
    let caller = match &target {
        Ok(_) => question.caller(issuers, keys, now).await,
        Err(_) => Ok(Calling::default()),
    };
    decide(
        grants,
        Freshness::Fresh,
        &Check {
            service: &question.service,
            target,
            caller,
        },
        now,
    )
}

impl Tokens {
    /// What a sidecar would say to a call. The control plane's own grants are always fresh.
    ///
    /// # Errors
    /// NOT_ELIGIBLE for whoever asks about others and is no administrator.
    pub(crate) async fn validate(
        &self,
        caller: &Caller,
        question: &Question,
    ) -> Result<Verdict, Fault> {
        may_ask(caller, question)?;
        let until = Instant::now() + WAIT_MAX;
        self.reach(question.revision, until).await;
        let verdict = self.judge_now(question).await;
        match &verdict.decision {
            Decision::Deny(denial) if denial.reason == DenyReason::GrantNotYetVisible => {
                self.reach(Revision(verdict.revision.0.saturating_add(1)), until)
                    .await;
                Ok(self.judge_now(question).await)
            }
            Decision::Deny(_) | Decision::Permit(_) => Ok(verdict),
        }
    }

    async fn judge_now(&self, question: &Question) -> Verdict {
        let (index, keys, now) = (
            self.plane.fanout().index(),
            self.keys.current(),
            self.plane.now(),
        );
        let revision = index.revision();
        let decision = if revision < question.revision {
            let detail = format!(
                "revision {} has not come yet: the grants are of {revision}",
                question.revision
            );
            Decision::Deny(Denial::new(DenyReason::GrantNotYetVisible, detail))
        } else {
            judge((&self.issuers, &keys.verifiers), &index, question, now).await
        };
        Verdict {
            decision,
            revision,
            now,
        }
    }

    async fn reach(&self, revision: Revision, until: Instant) {
        let mut revisions = self.plane.fanout().revisions();
        let reached = revisions.wait_for(|newest| *newest >= revision);
        // That it did not come is for the verdict to say.
        drop(timeout_at(until, reached).await);
    }
}

/// About oneself anybody may ask: what a token proves is proven by holding it.
fn may_ask(caller: &Caller, question: &Question) -> Result<(), Fault> {
    if caller.is_admin() {
        return Ok(());
    }
    let own = |text: &str| {
        caller
            .principals()
            .iter()
            .any(|principal| principal.as_str() == text)
    };
    let named = question.principals.iter().map(Principal::as_str);
    match named
        .chain(Some(&*question.peer).filter(|peer| !peer.is_empty()))
        .find(|text| !own(text))
    {
        None => Ok(()),
        Some(other) => {
            let other: String = other
                .chars()
                .filter(|c| !c.is_control())
                .take(256)
                .collect();
            let message = format!(
                "only an administrator may ask about others; {other} is not you ({})",
                caller.who()
            );
            Err(Fault::new(FaultKind::NotEligible, message))
        }
    }
}

#[cfg(test)]
mod tests;
