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

use envoy_types::pb::envoy::service::auth::v3::authorization_server::Authorization;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use smallvec::SmallVec;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::serve::config::Checking;
use super::state::table::Table;
use super::state::view::View;
use crate::jose::identify::Identified;
use crate::jose::issuers::Issuers;
use crate::model::caller::Caller;
use crate::model::decide::{Check, decide};
use crate::model::decision::{Decision, Denial, DenyReason};
use crate::model::grant::Revision;
use crate::model::time::Timestamp;
use deadline::WaitBudget;
use identify::{Verifiers, identify};
use input::{Call, Inbound};
use record::{Evaluation, Facts, Pending, Recorder};
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
        let evaluation = self.evaluate(&inbound, wait_budget).await;
        let to = To {
            inbound: &inbound,
            id: pending.id(),
            table: evaluation.table,
            caller: evaluation.caller.as_ref(),
        };
        let responder = &self.checking.responder;
        let (answer, shadowed) = match (&evaluation.decision, self.checking.shadow) {
            (Decision::Permit(permit), None) => (responder.permit(permit, &to), false),
            (Decision::Permit(permit), Some(witness)) => {
                (responder.permit_unbounded(witness, permit, &to), false)
            }
            (Decision::Deny(denial), None) => (responder.deny(denial, &to), false),
            (Decision::Deny(denial), Some(witness)) => {
                (responder.shadow(witness, denial, &to), true)
            }
        };
        pending.finish(Facts {
            inbound: &inbound,
            evaluation: &evaluation,
            shadowed,
        });
        answer
    }

    /// Decides, and once more when a token's grant was on its way here and has come.
    async fn evaluate(&self, inbound: &Inbound<'_>, wait_budget: WaitBudget) -> Evaluation {
        let call = match &inbound.call {
            Ok(call) => call,
            Err(denial) => return self.undecided(denial.clone()),
        };
        let identified = match self.time_to_verify(call) {
            Some(now) => identify(&self.verifiers, call, wait_budget, now).await,
            None => Identified {
                caller: Ok(Caller::default()),
                ignored: SmallVec::new(),
            },
        };
        let mut evaluation = self.decide(call, identified);
        if let Some(revision) = awaited(&evaluation)
            && self.verifiers.tokens.reached(revision, wait_budget).await
            && let Some(caller) = evaluation.caller.take()
        {
            evaluation = self.decide(
                call,
                Identified {
                    caller: Ok(caller),
                    ignored: evaluation.ignored,
                },
            );
        }
        evaluation
    }

    /// By which time credentials are verified. `None` before the first snapshot, by clocks in doubt, or with a target
    /// that is refused anyway: then no credential is worth verifying, nor a key worth waiting for.
    fn time_to_verify(&self, call: &Call<'_>) -> Option<Timestamp> {
        let view = self.view();
        let worth_it = call.target.is_ok() && view.index().is_some() && view.refusal().is_none();
        view.state().now.filter(|_| worth_it)
    }

    fn view(&self) -> View {
        self.table.view(self.checking.max_staleness)
    }

    /// Refused before any grant was looked up.
    fn undecided(&self, denial: Denial) -> Evaluation {
        Evaluation {
            decision: Decision::Deny(denial),
            caller: None,
            ignored: SmallVec::new(),
            table: self.view().state(),
        }
    }

    /// Looks up and decides, from one view of the table, which is taken here: after every wait.
    fn decide(&self, call: &Call<'_>, identified: Identified) -> Evaluation {
        let Identified { caller, ignored } = identified;
        let check = Check {
            service: call.service,
            target: call.target.clone(),
            caller,
        };
        let view = self.view();
        let table = view.state();
        let decision = match view.refusal() {
            Some(denial) => Decision::Deny(denial.clone()),
            None => decide(&view, table.freshness, &check, view.time()),
        };
        Evaluation {
            decision,
            caller: check.caller.ok(),
            ignored,
            table,
        }
    }
}

/// The revision that may change the decision. A permit, and a denial for another cause, need not wait.
fn awaited(evaluation: &Evaluation) -> Option<Revision> {
    match &evaluation.decision {
        Decision::Deny(denial) if denial.reason == DenyReason::GrantNotYetVisible => {
            let token = evaluation.caller.as_ref()?.tokened.as_ref();
            token.map(|token| token.revision)
        }
        Decision::Deny(_) | Decision::Permit(_) => None,
    }
}

#[cfg(test)]
mod tests;
