//! Why a call would be allowed or not: the very function that sidecars decide with, over the same grants, step by step in words.

use std::sync::Arc;
use std::time::Duration;

use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::control::lifecycle::plane::Plane;
use crate::model::access::{Issued, Origin};
use crate::model::decide::{Caller as Calling, Check, Freshness, Grants, decide};
use crate::model::decision::{Decision, DenyReason};
use crate::model::grant::{Ended, Grant, Phase, Revision};
use crate::model::identity::{Principal, PrincipalKind, Service};
use crate::model::target::{Target, TargetError};
use crate::model::time::Timestamp;

/// Grants looked at one by one in an explanation.
const LOOKED_AT_MAX: usize = 50;
/// Steps of one explanation before its decision.
const STEPS_MAX: usize = 200;
/// Workloads named in one step.
const VIA_SHOWN: usize = 3;

/// What is looked at, unless the question is about the past.
const CURRENT_TABLE: &str = "the control plane's own grants, which are always current";

/// What is to be explained.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// Who would call.
    pub principals: Vec<Principal>,
    /// Where.
    pub service: Service,
    /// What: the gRPC path, or the HTTP method and path.
    pub target: Called,
    /// When; `None`: now.
    pub at: Option<Timestamp>,
}

/// What is called, as text; whether it is canonical is part of the answer.
#[derive(Debug, Clone)]
pub(crate) enum Called {
    /// `/pkg.Svc/Method`
    Grpc(String),
    /// `GET`, `/v1/users/7`
    Http(String, String),
}

/// The answer.
#[derive(Debug, Clone)]
pub(crate) struct Explanation {
    /// Why not; `None`: allowed.
    pub denied: Option<DenyReason>,
    /// The grant that allows, or comes nearest, with its record where there is one.
    pub grant: Option<Issued>,
    /// What was looked at, in the sidecar's order.
    pub steps: Vec<Step>,
    /// Policies under which somebody could ask for this.
    pub requestable: Vec<Arc<str>>,
    /// The grants were those of this revision.
    pub revision: Revision,
    /// By which time the state of the grant is told: of a past call, as it was then.
    pub told_by: Timestamp,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// What.
    pub check: &'static str,
    /// Whether it speaks for allowing.
    pub ok: bool,
    /// In words.
    pub detail: String,
}

impl Plane {
    /// Explains a call.
    ///
    /// # Errors
    /// NOT_ELIGIBLE for whoever asks about somebody else and is no administrator.
    pub(crate) async fn explain(
        &self,
        caller: &Caller,
        question: &Question,
    ) -> Result<Explanation, Fault> {
        if let Some(other) = question
            .principals
            .iter()
            .find(|principal| !caller.principals().contains(principal))
            && !caller.is_admin()
        {
            let message = format!(
                "only an administrator may ask about others; {other} is not you ({})",
                caller.who()
            );
            return Err(Fault::new(FaultKind::NotEligible, message));
        }
        let now = self.now();
        let at = question.at.unwrap_or(now);
        let Question {
            principals,
            service,
            ..
        } = question;
        let past = if at < now {
            Some(self.past(principals, service, at).await?)
        } else {
            None
        };
        let index = self.fanout().index();
        let target = question.target();
        let workloads = || {
            principals
                .iter()
                .filter(|principal| principal.kind() == PrincipalKind::Workload)
        };
        let check = Check {
            service,
            target: target.clone(),
            caller: Ok(Calling {
                peer: workloads().next().cloned(),
                principals: principals.clone(),
                tokened: None,
            }),
        };
        let (decision, mut steps, revision) = match &past {
            Some(past) => explained(past, past_table(at), &check, at),
            None => explained(&*index, CURRENT_TABLE.to_owned(), &check, at),
        };
        if past.is_some() && target.is_ok() && matches!(decision, Decision::Deny(_)) {
            self.past_can_refuse(principals, service, at).await?;
        }
        let (denied, grant) = match &decision {
            Decision::Permit(permit) => (None, Some(permit.grant().clone())),
            Decision::Deny(denial) => {
                let nearest = denial
                    .nearest
                    .clone()
                    .filter(|nearest| !nearest.is_request());
                (Some(denial.reason), nearest)
            }
        };
        steps.push(verdict(&decision));
        let requestable =
            self.policies_in_force()
                .requestable(principals, service, target.as_ref().ok());
        let grant = match (grant, &past) {
            (Some(grant), Some(past)) => past.record(&grant.id).cloned(),
            (Some(grant), None) => Some(self.record(&grant).await?),
            (None, _) => None,
        };
        Ok(Explanation {
            denied,
            grant,
            steps,
            requestable,
            revision,
            told_by: at.min(now),
        })
    }

    /// The grant as decided on, with what the store knows of where it came from.
    async fn record(&self, grant: &Grant) -> Result<Issued, Fault> {
        let id = grant.id.to_string();
        let stored = self
            .store()
            .read(move |reader| Ok::<_, Fault>(reader.grant(&id)?))
            .await?;
        let grant = grant.clone();
        Ok(match stored {
            Some(Issued {
                origin,
                suspension,
                ending,
                ..
            }) => Issued {
                grant,
                origin,
                suspension,
                ending,
            },
            None => Issued {
                grant,
                origin: Origin::default(),
                suspension: None,
                ending: None,
            },
        })
    }
}

impl Question {
    fn target(&self) -> Result<Target<'_>, TargetError> {
        match &self.target {
            Called::Grpc(path) => Target::grpc(path),
            Called::Http(method, path) => Target::http(method, path),
        }
    }
}

/// The decision, its steps, and the revision of the grants.
fn explained(
    grants: &impl Grants,
    table: String,
    check: &Check<'_>,
    at: Timestamp,
) -> (Decision, Vec<Step>, Revision) {
    let decision = decide(grants, Freshness::Fresh, check, at);
    (decision, steps(grants, table, check, at), grants.revision())
}

fn past_table(at: Timestamp) -> String {
    format!(
        "the control plane's grants as they were at {at}; sidecars knew of a change a moment later"
    )
}

fn steps(grants: &impl Grants, table: String, check: &Check<'_>, at: Timestamp) -> Vec<Step> {
    let step = |check, ok, detail: String| Step { check, ok, detail };
    let mut steps = vec![step("table", true, table)];
    let target = match &check.target {
        Ok(target) => {
            steps.push(step(
                "target",
                true,
                format!("{target} has one reading only"),
            ));
            target
        }
        Err(why) => {
            steps.push(step("target", false, why.to_string()));
            return steps;
        }
    };
    let principals = check
        .caller
        .as_ref()
        .map(|caller| caller.principals.as_slice())
        .unwrap_or_default();
    if principals.is_empty() {
        steps.push(step("caller", false, "no principal was named".to_owned()));
        return steps;
    }
    let names: Vec<&str> = principals.iter().map(Principal::as_str).collect();
    steps.push(step("caller", true, names.join(", ")));
    let peer = check
        .caller
        .as_ref()
        .ok()
        .and_then(|caller| caller.peer.as_ref());
    for principal in principals {
        if steps.len() >= STEPS_MAX {
            steps.push(step(
                "grants",
                false,
                "and more, not listed: ask about fewer principals".to_owned(),
            ));
            break;
        }
        let held = grants.held_by(principal);
        let here: Vec<_> = held
            .iter()
            .flat_map(|held| held.iter())
            .filter(|g| g.scope.service() == check.service)
            .collect();
        if here.is_empty() {
            steps.push(step(
                "grants",
                false,
                format!("{principal} holds no grant at {}", check.service),
            ));
        }
        for grant in here.iter().take(LOOKED_AT_MAX) {
            let (ok, detail) = looked_at(grant, target, peer, at);
            steps.push(step(
                "grant",
                ok,
                format!("{} of {principal}: {detail}", grant.id),
            ));
        }
        if let Some(more) = here
            .len()
            .checked_sub(LOOKED_AT_MAX)
            .filter(|more| *more > 0)
        {
            steps.push(step(
                "grants",
                false,
                format!("and {more} more of {principal}, not listed"),
            ));
        }
    }
    steps
}

/// Whether one grant allows the call, and why.
fn looked_at(
    grant: &Grant,
    target: &Target<'_>,
    peer: Option<&Principal>,
    at: Timestamp,
) -> (bool, String) {
    let Some(rule) = grant.scope.covering(target) else {
        return (false, format!("its scope does not cover {target}"));
    };
    if !grant.passes_through(peer) {
        let via: Vec<&str> = grant
            .via
            .iter()
            .take(VIA_SHOWN)
            .map(Principal::as_str)
            .collect();
        let more = grant.via.len().saturating_sub(via.len());
        let more = if more == 0 {
            String::new()
        } else {
            format!(" and {more} more")
        };
        return (
            false,
            format!(
                "covers it by {rule}, but only through {}{more}",
                via.join(", ")
            ),
        );
    }
    match grant.phase(at) {
        Phase::Live(Some(left)) => {
            let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
            (true, format!("covers it by {rule} and lasts {left} more"))
        }
        Phase::Live(None) => (true, format!("covers it by {rule} and is a standing grant")),
        Phase::NotStarted => (
            false,
            format!("covers it, but begins at {}", grant.not_before),
        ),
        Phase::Suspended => (false, "covers it, but is suspended".to_owned()),
        Phase::Ended(Ended::Expired) => (false, "covers it, but its time is up".to_owned()),
        Phase::Ended(Ended::Revoked) => (false, "covers it, but was revoked".to_owned()),
        Phase::Ended(Ended::Released) => (
            false,
            "covers it, but was released by its subject".to_owned(),
        ),
        Phase::Requested { waiting: true } => (
            false,
            "would cover it, but is a request that waits for approval".to_owned(),
        ),
        Phase::Requested { waiting: false } => (
            false,
            "would have covered it, but was never approved".to_owned(),
        ),
    }
}

fn verdict(decision: &Decision) -> Step {
    match decision {
        Decision::Permit(permit) => {
            let until = permit
                .expires()
                .map_or("it is standing".to_owned(), |end| format!("until {end}"));
            Step {
                check: "decision",
                ok: true,
                detail: format!("allowed by grant {}, {until}", permit.grant().id),
            }
        }
        Decision::Deny(denial) => {
            let detail = format!("{}: {}", denial.reason.as_str(), denial.detail);
            Step {
                check: "decision",
                ok: false,
                detail,
            }
        }
    }
}
