//! One decision as it leaves the decision path: shared values and one short text. Never a path, a query or a credential.

use std::sync::Arc;

use crate::model::decision::{Decision, DenyReason, Nearest};
use crate::model::grant::{Grant, Revision};
use crate::model::identity::{Principal, Service};
use crate::model::scope::Rule;
use crate::model::target::Target;
use crate::model::time::Timestamp;
use crate::sidecar::check::decision_id::DecisionId;
use crate::sidecar::check::input::Call;

/// Longest method that is reported.
const METHOD_MAX: usize = 512;

/// A decision and what it was about.
#[derive(Debug)]
pub(in crate::sidecar) struct Seen {
    pub(super) id: DecisionId,
    /// By this machine's wall clock.
    pub(super) at: Timestamp,
    /// `None`: allowed.
    pub(super) refused: Option<DenyReason>,
    pub(super) grant: Option<Arc<Grant>>,
    pub(super) principal: Option<Principal>,
    pub(super) service: Option<Service>,
    pub(super) method: String,
    pub(super) trace: Option<[u8; 16]>,
    pub(super) revision: Revision,
    pub(super) shadow: bool,
}

/// Where and when a decision was made, beside the decision itself.
#[derive(Debug, Clone, Copy)]
pub(in crate::sidecar) struct Place<'a> {
    /// Its name.
    pub(in crate::sidecar) id: DecisionId,
    /// By this machine's wall clock.
    pub(in crate::sidecar) at: Timestamp,
    /// Whom it is about.
    pub(in crate::sidecar) principal: Option<&'a Principal>,
    /// The trace that it belongs to.
    pub(in crate::sidecar) trace: Option<[u8; 16]>,
    /// The table's.
    pub(in crate::sidecar) revision: Revision,
    /// Whether a denial was answered with OK.
    pub(in crate::sidecar) shadow: bool,
}

impl Seen {
    /// Takes from a decision what may be told of it.
    pub(in crate::sidecar) fn of(
        place: Place<'_>,
        decision: &Decision,
        call: Option<&Call<'_>>,
    ) -> Self {
        let Place {
            id,
            at,
            principal,
            trace,
            revision,
            shadow,
        } = place;
        let target = call.and_then(|call| call.target.as_ref().ok());
        let (refused, grant, rule) = match decision {
            Decision::Permit(permit) => (None, Some(Arc::clone(permit.grant())), permit.rule()),
            Decision::Deny(denial) => {
                let rule = denial.nearest.as_ref().and_then(Nearest::rule);
                (Some(denial.reason), denial.grant().cloned(), rule)
            }
        };
        Self {
            id,
            at,
            refused,
            principal: principal.cloned(),
            service: call.map(|call| call.service.clone()),
            method: target
                .map(|target| method(target, rule))
                .unwrap_or_default(),
            grant,
            trace,
            revision,
            shadow,
        }
    }
}

/// A gRPC method in full; of an HTTP call the method, and the template of the rule that covers it.
fn method(target: &Target<'_>, rule: Option<&Rule>) -> String {
    let mut text = match target {
        Target::Grpc(method) => method.as_str().to_owned(),
        Target::Http(method, _) => match rule {
            Some(Rule::Http(rule)) => format!("{} {}", method.as_str(), rule.path()),
            Some(Rule::Grpc(_)) | None => method.as_str().to_owned(),
        },
    };
    text.truncate(text.floor_char_boundary(METHOD_MAX));
    text
}
