//! Why a call would be allowed or not: the very function that sidecars decide with, over the same grants, step by step in words.

use std::sync::Arc;
use std::time::Duration;

use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::control::lifecycle::plane::Plane;
use crate::model::access::{Issued, Origin};
use crate::model::call::WrittenCall;
use crate::model::caller::Caller as Calling;
use crate::model::decide::{Check, Failure, Finding, Freshness, Grants, Observer, evaluate};
use crate::model::decision::{Decision, DenyReason};
use crate::model::entry::TableEntry;
use crate::model::grant::{Grant, Revision};
use crate::model::identity::{Principal, Service};
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
    /// What. Whether it has one reading only is part of the answer.
    pub call: WrittenCall,
    /// When; `None`: now.
    pub at: Option<Timestamp>,
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
        let Question {
            principals,
            service,
            call,
            at,
        } = question;
        let now = self.now();
        let at = at.unwrap_or(now);
        let past = if at < now {
            Some(self.past(principals, service, at).await?)
        } else {
            None
        };
        let target = call.target();
        let check = Check {
            service,
            target: target.clone(),
            caller: Ok(Calling::named(principals.clone())),
        };
        let index = self.fanout().index();
        let (decision, steps, revision) = match &past {
            Some(past) => explained(past, &check, at, past_table(at)),
            None => explained(&*index, &check, at, CURRENT_TABLE.to_owned()),
        };
        if past.is_some() && target.is_ok() && matches!(decision, Decision::Deny(_)) {
            self.past_can_refuse(principals, service, at).await?;
        }
        let (denied, grant) = match &decision {
            Decision::Permit(permit) => (None, Some(permit.grant().clone())),
            Decision::Deny(denial) => (Some(denial.reason), denial.grant().cloned()),
        };
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

/// The decision, its steps, and the revision of the grants.
fn explained(
    grants: &impl Grants,
    check: &Check<'_>,
    at: Timestamp,
    table: String,
) -> (Decision, Vec<Step>, Revision) {
    let mut steps = Steps::before_grants(check, table);
    let decision = evaluate(grants, Freshness::Fresh, check, at, &mut steps);
    let steps = steps.finish(&decision);
    (decision, steps, grants.revision())
}

fn past_table(at: Timestamp) -> String {
    format!(
        "the control plane's grants as they were at {at}; sidecars knew of a change a moment later"
    )
}

/// What an evaluation looks at, in words; of each principal a bounded number of entries.
struct Steps<'a> {
    check: &'a Check<'a>,
    steps: Vec<Step>,
    /// Whose entries are looked at, and how many there were.
    of: Option<(Principal, usize)>,
    /// Whether there were more principals than can be told of.
    cut: bool,
}

impl<'a> Steps<'a> {
    /// What is known before any grant is looked at.
    fn before_grants(check: &'a Check<'a>, table: String) -> Self {
        let mut steps = Self {
            check,
            steps: vec![],
            of: None,
            cut: false,
        };
        steps.push("table", true, table);
        match &check.target {
            Ok(target) => steps.push("target", true, format!("{target} has one reading only")),
            Err(why) => {
                steps.push("target", false, why.to_string());
                return steps;
            }
        }
        let names = check.caller.iter().flat_map(Calling::proven);
        let names: Vec<&str> = names.map(Principal::as_str).collect();
        if names.is_empty() {
            steps.push("caller", false, "no principal was named".to_owned());
        } else {
            steps.push("caller", true, names.join(", "));
        }
        steps
    }

    fn push(&mut self, check: &'static str, ok: bool, detail: String) {
        self.steps.push(Step { check, ok, detail });
    }

    /// Nothing more comes of the principal before.
    fn close(&mut self) {
        let Some((principal, seen)) = self.of.take() else {
            return;
        };
        if seen == 0 {
            let detail = format!("{principal} holds no grant at {}", self.check.service);
            self.push("grants", false, detail);
        } else if seen > LOOKED_AT_MAX {
            let more = seen - LOOKED_AT_MAX;
            let detail = format!("and {more} more of {principal}, not listed");
            self.push("grants", false, detail);
        }
    }

    fn finish(mut self, decision: &Decision) -> Vec<Step> {
        self.close();
        if self.cut {
            let detail = "and more, not listed: ask about fewer principals".to_owned();
            self.push("grants", false, detail);
        }
        let (ok, detail) = match decision {
            Decision::Permit(permit) => {
                let until = permit
                    .expires()
                    .map_or("it is standing".to_owned(), |end| format!("until {end}"));
                let detail = format!("allowed by grant {}, {until}", permit.grant().id);
                (true, detail)
            }
            Decision::Deny(denial) => {
                let detail = format!("{}: {}", denial.reason.as_str(), denial.detail);
                (false, detail)
            }
        };
        self.push("decision", ok, detail);
        self.steps
    }
}

impl Observer for Steps<'_> {
    fn looks_at(&mut self, principal: &Principal) {
        self.close();
        if self.steps.len() < STEPS_MAX {
            self.of = Some((principal.clone(), 0));
        } else {
            self.cut = true;
        }
    }

    fn found(&mut self, principal: &Principal, entry: &TableEntry, finding: Finding<'_>) {
        let Some((_, seen)) = &mut self.of else {
            return;
        };
        *seen += 1;
        if *seen <= LOOKED_AT_MAX {
            let (ok, detail) = in_words(self.check, entry, finding);
            let detail = format!("{} of {principal}: {detail}", entry.id());
            self.push("grant", ok, detail);
        }
    }
}

fn in_words(check: &Check<'_>, entry: &TableEntry, finding: Finding<'_>) -> (bool, String) {
    let rule = |rule: Option<usize>| {
        let rule = entry.scope().rules().get(rule?)?;
        Some(format!("covers it by {rule}"))
    };
    match finding {
        Finding::Carries {
            rule: at,
            remaining,
            ..
        } => {
            let covers = rule(Some(at)).unwrap_or_default();
            let detail = match remaining {
                Some(left) => {
                    let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
                    format!("{covers} and lasts {left} more")
                }
                None => format!("{covers} and is a standing grant"),
            };
            (true, detail)
        }
        Finding::Fails { rule: at, failure } => {
            let detail = match (entry, failure) {
                (_, Failure::Scope) => match &check.target {
                    Ok(target) => format!("its scope does not cover {target}"),
                    Err(why) => why.to_string(),
                },
                (_, Failure::Via) => {
                    let covers = rule(at).unwrap_or_default();
                    format!("{covers}, but only through {}", workloads(entry.via()))
                }
                (TableEntry::Request(_), Failure::Pending) => {
                    "would cover it, but is a request that waits for approval".to_owned()
                }
                (TableEntry::Request(_), _) => {
                    "would have covered it, but was never approved".to_owned()
                }
                (TableEntry::Grant(grant), failure) => {
                    format!("covers it, but {}", failure.of_grant(grant))
                }
            };
            (false, detail)
        }
    }
}

fn workloads(via: &[Principal]) -> String {
    let shown: Vec<&str> = via.iter().take(VIA_SHOWN).map(Principal::as_str).collect();
    match via.len().saturating_sub(VIA_SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
