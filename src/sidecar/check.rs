//! Answers Envoy's checks: read, identify, decide, respond; one record for each. It waits for nothing but the
//! verification of a token and, briefly, for a grant that a token says is on its way; whatever goes wrong is never an allow.

pub(crate) mod deadline;
pub(crate) mod decision_id;
pub(crate) mod identify;
pub(crate) mod input;
pub(crate) mod mode;
pub(crate) mod record;
pub(crate) mod respond;
pub(crate) mod tokens;

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::authorization_server::Authorization;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use smallvec::SmallVec;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::serve::config::Checking;
use super::state::table::Table;
use crate::jose::identify::Identified;
use crate::jose::issuers::Issuers;
use crate::model::caller::Caller;
use crate::model::decide::{Check, Freshness, Grants, Held, decide};
use crate::model::decision::{Decision, Denial, DenyReason};
use crate::model::grant::Revision;
use crate::model::identity::Principal;
use deadline::WaitBudget;
use identify::{Verifiers, identify};
use input::{Call, Inbound};
use record::{Facts, Pending, Recorder};
use respond::{Answer, To};
use tokens::Tokens;

/// Checks in flight at once, over all connections. Beyond it Envoy gets an error at once instead of a place in a queue.
const IN_FLIGHT_MAX: usize = 4096;

/// The ext_authz service.
#[derive(Debug)]
pub(crate) struct Authorizer {
    table: Arc<Table>,
    verifiers: Verifiers,
    checking: Checking,
    recorder: Recorder,
    slots: Semaphore,
}

/// A decision and what it was made from.
struct Ruling {
    decision: Decision,
    caller: Option<Caller>,
    ignored: SmallVec<[&'static str; 2]>,
    revision: Revision,
    age: Option<Duration>,
    freshness: Freshness,
}

#[tonic::async_trait]
impl Authorization for Authorizer {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let pending = self.recorder.begin(request.metadata());
        let wait_budget = WaitBudget::of(request.metadata());
        let Ok(_slot) = self.slots.try_acquire() else {
            // An RPC error is no decision to Envoy: it fails the call unless its operator chose to fail open.
            return Err(Status::resource_exhausted("too many checks in flight"));
        };
        Ok(Response::new(
            self.answer(pending, wait_budget, request.get_ref())
                .await
                .into_message(),
        ))
    }
}

impl Authorizer {
    /// Answers from `table`, trusting `issuers`.
    pub(crate) fn new(
        table: Arc<Table>,
        issuers: Arc<Issuers>,
        checking: Checking,
        recorder: Recorder,
    ) -> Self {
        let verifiers = Verifiers {
            issuers,
            tokens: Tokens::new(Arc::clone(&table)),
        };
        Self {
            table,
            verifiers,
            checking,
            recorder,
            slots: Semaphore::new(IN_FLIGHT_MAX),
        }
    }

    async fn answer(
        &self,
        pending: Pending,
        wait_budget: WaitBudget,
        check: &CheckRequest,
    ) -> Answer {
        let inbound = input::read(check, &self.checking.services);
        let ruling = self.rule(&inbound, wait_budget).await;
        let caller = ruling.caller.as_ref();
        let Ruling {
            revision,
            age,
            freshness,
            ..
        } = ruling;
        let to = To {
            inbound: &inbound,
            id: pending.id(),
            revision,
            age,
            freshness,
            caller,
        };
        let responder = &self.checking.responder;
        let (answer, shadowed) = match (&ruling.decision, self.checking.shadow) {
            (Decision::Permit(permit), None) => (responder.permit(permit, &to), false),
            (Decision::Permit(permit), Some(witness)) => {
                (responder.permit_unbounded(witness, permit, &to), false)
            }
            (Decision::Deny(denial), None) => (responder.deny(denial, &to), false),
            (Decision::Deny(denial), Some(witness)) => {
                (responder.shadow(witness, denial, &to), true)
            }
        };
        pending.finish(&Facts {
            inbound: &inbound,
            caller,
            ignored: &ruling.ignored,
            decision: &ruling.decision,
            shadowed,
            revision,
            age,
            freshness,
        });
        answer
    }

    /// Rules, and once more when a token's grant was on its way here and has come.
    async fn rule(&self, inbound: &Inbound<'_>, wait_budget: WaitBudget) -> Ruling {
        let call = match &inbound.call {
            Ok(call) => call,
            Err(denial) => return self.undecided(denial.clone()),
        };
        // Before the first snapshot, by clocks in doubt, or with a target that is refused anyway, no credential is worth
        // verifying, nor a key worth waiting for.
        let worth_it = || {
            call.target.is_ok()
                && self.table.current().is_some()
                && self.table.skew_refusal().is_none()
        };
        let identified = match self.table.now() {
            Some(now) if worth_it() => identify(&self.verifiers, call, wait_budget, now).await,
            Some(_) | None => Identified {
                caller: Ok(Caller::default()),
                ignored: SmallVec::new(),
            },
        };
        let mut ruling = self.decide(call, identified);
        if let Some(revision) = ruling.awaits()
            && self.verifiers.tokens.reached(revision, wait_budget).await
            && let Some(caller) = ruling.caller.take()
        {
            ruling = self.decide(
                call,
                Identified {
                    caller: Ok(caller),
                    ignored: ruling.ignored,
                },
            );
        }
        ruling
    }

    /// Refused before the table was asked.
    fn undecided(&self, denial: Denial) -> Ruling {
        Ruling {
            decision: Decision::Deny(denial),
            caller: None,
            ignored: SmallVec::new(),
            revision: Revision(0),
            age: self.table.age(),
            freshness: self.table.freshness(self.checking.max_staleness),
        }
    }

    /// Looks up and decides. Table, freshness and time are read here, after every wait.
    fn decide(&self, call: &Call<'_>, identified: Identified) -> Ruling {
        let Identified { caller, ignored } = identified;
        let check = Check {
            service: call.service,
            target: call.target.clone(),
            caller,
        };
        let (freshness, age) = (
            self.table.freshness(self.checking.max_staleness),
            self.table.age(),
        );
        let (decision, revision) = match (
            self.table.skew_refusal(),
            self.table.current().zip(self.table.now()),
        ) {
            (Some(denial), _) => (
                Decision::Deny(denial),
                self.table.revision().unwrap_or_default(),
            ),
            (None, Some((grants, now))) => {
                (decide(&*grants, freshness, &check, now), grants.revision())
            }
            (None, None) => (
                decide(
                    &Nothing,
                    Freshness::Never,
                    &check,
                    crate::model::time::Timestamp::MAX,
                ),
                Revision(0),
            ),
        };
        Ruling {
            decision,
            caller: check.caller.ok(),
            ignored,
            revision,
            age,
            freshness,
        }
    }
}

impl Ruling {
    /// The revision that may change it. A permit, and a denial for another cause, need not wait.
    fn awaits(&self) -> Option<Revision> {
        match &self.decision {
            Decision::Deny(denial) if denial.reason == DenyReason::GrantNotYetVisible => self
                .caller
                .as_ref()
                .and_then(|caller| caller.tokened.as_ref())
                .map(|token| token.revision),
            Decision::Deny(_) | Decision::Permit(_) => None,
        }
    }
}

/// The table before the first snapshot.
struct Nothing;

impl Grants for Nothing {
    fn held_by(&self, _principal: &Principal) -> Option<Held> {
        None
    }

    fn revision(&self) -> Revision {
        Revision::default()
    }
}

#[cfg(test)]
mod tests;
