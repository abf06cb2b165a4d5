//! A call decided as a sidecar would: the same credentials read by the same rules, the same decision function, the same
//! grants. For whoever wants a verdict without an Envoy; nothing is enforced here.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Tokens;
use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::index::Index;
use crate::jose::identify::{Credentials, Presented, Verify, identify};
use crate::jose::issuers::{Issuers, Verdict as Judged};
use crate::jose::jit::{JitKeys, JitToken, verify};
use crate::model::call::WrittenCall;
use crate::model::caller::Caller as Calling;
use crate::model::decide::{Check, Freshness, decide};
use crate::model::decision::{Decision, Denial, DenyReason};
use crate::model::grant::Revision;
use crate::model::identity::{Principal, Service};
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
    call: WrittenCall,
    /// What the client certificate names; empty without one.
    peer: String,
    bearer: Option<String>,
    token: Option<String>,
    principals: Vec<Principal>,
    revision: Revision,
}

/// Without the credentials.
impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question")
            .field("service", &self.service)
            .field("call", &self.call)
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
        let (allowed, reason, detail, grant) = match &decision {
            Decision::Permit(permit) => (
                true,
                "",
                format!("by {}", permit.principal()),
                Some(permit.grant().clone()),
            ),
            Decision::Deny(denial) => (
                false,
                denial.reason.as_str(),
                denial.detail.to_string(),
                denial.grant().cloned(),
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
        let call = match target {
            Some(WireTarget::Grpc(path)) => WrittenCall::grpc(path),
            Some(WireTarget::Http(line)) => WrittenCall::http(&line)
                .map_err(|error| Fault::invalid("http", error.to_string()))?,
            None => return Err(Fault::invalid("target", "say what is called: grpc or http")),
        };
        Ok(Self {
            service: Service::parse(&service)
                .map_err(|error| Fault::invalid("service", error.to_string()))?,
            call,
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

    /// Who would call: whoever is proven, and whoever is named beside.
    async fn caller(&self, by: &Verifiers<'_>) -> Result<Calling, Denial> {
        let presented = Credentials {
            service: &self.service,
            peer: &self.peer,
            token: presented(self.token.as_deref()),
            bearer: presented(self.bearer.as_deref()),
        };
        let mut caller = identify(by, presented).await.caller?;
        caller.prove(&self.principals);
        Ok(caller)
    }
}

fn presented(token: Option<&str>) -> Presented<'_> {
    token.map_or(Presented::Nothing, |token| {
        Presented::token(token, "must be exactly one token")
    })
}

/// By whom tokens are verified here: by the keys that the sidecars are sent.
struct Verifiers<'a> {
    issuers: &'a Issuers,
    keys: &'a JitKeys,
    service: &'a Service,
    now: Timestamp,
}

impl Verify for Verifiers<'_> {
    async fn issued(&self, token: &str) -> Judged {
        self.issuers.verify(token, self.now).await
    }

    async fn own(&self, token: &str) -> Result<Arc<JitToken>, Denial> {
        verify(self.keys, token, self.service, self.now).map(Arc::new)
    }
}

/// The decision on a call by these keys, issuers and grants.
pub(crate) async fn judge(
    (issuers, keys): (&Issuers, &JitKeys),
    grants: &Index,
    question: &Question,
    now: Timestamp,
) -> Decision {
    let target = question.call.target();
    // With a target that is refused anyway, no credential is worth verifying.
    let caller = match &target {
        Ok(_) => {
            let service = &question.service;
            let by = Verifiers {
                issuers,
                keys,
                service,
                now,
            };
            question.caller(&by).await
        }
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
