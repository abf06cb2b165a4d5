//! What the canonical text of a policy says of its approval, read back from the store when people review under a pinned
//! version. What does not read back whole is damage, never fewer approvers.

use std::time::Duration;

use crate::support::sha256::Sha256;
use serde_json::Value;

use super::duration::parse_duration;
use crate::model::approval::{Escalation, Stage, Step};
use crate::model::grant::Staleness;
use crate::model::policy::{Matcher, PolicyDigest};
use crate::model::window::{Days, Window, parse_clock};

/// What a pinned policy text says about its requests that wait for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pinned {
    /// Who has to approve.
    pub stages: Vec<Stage>,
    /// When access can exist; empty: always.
    pub windows: Vec<Window>,
    /// The grant's, once approved.
    pub staleness: Staleness,
    /// How long the grant may lie unused; absent: as long as it lasts.
    pub unused_ttl: Option<Duration>,
}

/// Reads the canonical text of a policy; `digest` is the one that the text must have.
///
/// # Errors
/// One sentence about what is wrong with it.
pub(crate) fn pinned(text: &str, digest: &str) -> Result<Pinned, String> {
    if PolicyDigest(Sha256::digest(text)).to_string() != digest {
        return Err("the text of the policy is not the one of its digest".to_owned());
    }
    let policy: Value =
        serde_json::from_str(text).map_err(|error| format!("the policy is no JSON: {error}"))?;
    let stages = match policy.get("approval") {
        None => Vec::new(),
        Some(approval) => {
            each(approval.get("stages"), read_stage).ok_or("its approval does not read back")?
        }
    };
    let windows = match policy.get("windows") {
        None => Vec::new(),
        windows @ Some(_) => each(windows, read_window).ok_or("its windows do not read back")?,
    };
    let staleness = match policy.get("staleness").and_then(Value::as_str) {
        Some("strict") => Staleness::Strict,
        Some("lastKnown") => Staleness::LastKnown,
        Some(_) | None => return Err("its staleness does not read back".to_owned()),
    };
    let unused_ttl = match policy
        .get("duration")
        .and_then(|duration| duration.get("unusedTtl"))
    {
        None | Some(Value::Null) => None,
        Some(ttl) => Some(
            ttl.as_str()
                .and_then(|ttl| parse_duration(ttl).ok())
                .ok_or("its unusedTtl does not read back")?,
        ),
    };
    Ok(Pinned {
        stages,
        windows,
        staleness,
        unused_ttl,
    })
}

fn each<T>(list: Option<&Value>, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    list?
        .as_array()
        .filter(|list| !list.is_empty())?
        .iter()
        .map(read)
        .collect()
}

fn read_stage(stage: &Value) -> Option<Stage> {
    Some(Stage {
        name: stage.get("name")?.as_str()?.into(),
        steps: each(stage.get("steps"), read_step)?,
    })
}

fn read_step(step: &Value) -> Option<Step> {
    let count = |field: &str| {
        usize::try_from(step.get(field)?.as_u64()?)
            .ok()
            .filter(|count| *count > 0)
    };
    Some(Step {
        name: step.get("name")?.as_str()?.into(),
        approvers: each(step.get("approvers"), |matcher| {
            Matcher::parse(matcher.as_str()?).ok()
        })?,
        approvals: count("approvals")?,
        denials: count("denials")?,
        escalate: match step.get("escalate") {
            None => Vec::new(),
            escalate @ Some(_) => each(escalate, read_escalation)?,
        },
    })
}

fn read_escalation(escalation: &Value) -> Option<Escalation> {
    Some(Escalation {
        after: parse_duration(escalation.get("after")?.as_str()?).ok()?,
        approvers: each(escalation.get("approvers"), |matcher| {
            Matcher::parse(matcher.as_str()?).ok()
        })?,
    })
}

fn read_window(window: &Value) -> Option<Window> {
    let time = |field: &str| parse_clock(window.get(field)?.as_str()?);
    let number = |name: &Value| {
        Days::NAMES
            .iter()
            .position(|day| Some(*day) == name.as_str())
    };
    let days = each(window.get("days"), number)?;
    let zone = window.get("timeZone")?.as_str()?.into();
    Some(Window {
        days: days.into_iter().fold(Days::default(), Days::with),
        from: time("from")?,
        to: time("to")?,
        zone,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::policy::tests::{GOOD, load};

    #[test]
    fn an_approval_reads_back_from_the_canonical_text() {
        let text = format!(
            "{GOOD}  staleness: lastKnown\n  approval:\n    stages:\n      - name: team\n        steps:\n          - name: leads\n            \
             approvers: ['user:https://idp.example|*', 'group:https://idp.example|leads']\n            approvals: 2\n      - name: owner\n        \
             steps: [{{name: owner, approvers: ['group:https://idp.example|owners'], denials: 2}}]\n"
        );
        let set = load(&text);
        let policy = set.policy("pay").unwrap();
        let read = pinned(&policy.canonical, &policy.digest.to_string()).unwrap();
        assert_eq!(
            (read.stages.len(), read.staleness),
            (2, Staleness::LastKnown)
        );
        assert_eq!(
            (
                read.stages[0].steps[0].approvals,
                read.stages[1].steps[0].denials
            ),
            (2, 2)
        );
        assert_eq!(
            (&read.stages[1], read.unused_ttl),
            (&policy.approval[1], None)
        );
        assert!(
            pinned(&policy.canonical, &"0".repeat(64)).is_err(),
            "another text"
        );
    }

    #[test]
    fn how_long_a_grant_may_lie_unused_reads_back() {
        let set = load(&GOOD.replace("max: 1h", "max: 1h, unusedTtl: 10m"));
        let policy = set.policy("pay").unwrap();
        let read = pinned(&policy.canonical, &policy.digest.to_string()).unwrap();
        assert_eq!(
            (read.unused_ttl, policy.unused_ttl()),
            (Some(Duration::from_secs(600)), read.unused_ttl)
        );
    }

    #[test]
    fn a_policy_without_approval_names_nobody() {
        let set = load(GOOD);
        let policy = set.policy("pay").unwrap();
        assert_eq!(
            pinned(&policy.canonical, &policy.digest.to_string())
                .unwrap()
                .stages,
            []
        );
        assert!(
            !policy.canonical.contains("approval"),
            "its digest is what it was"
        );
    }
}
