//! The approval of a policy in its canonical text: written when the policy is sealed, and read back from the store when
//! people review under a pinned version. What does not read back whole is damage, never fewer approvers.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::canonical::sorted;
use crate::model::approval::{Stage, Step};
use crate::model::grant::Staleness;
use crate::model::policy::{Matcher, PolicyDigest};

/// What a pinned policy text says about its requests that wait for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// Who has to approve.
    pub stages: Vec<Stage>,
    /// The grant's, once approved.
    pub staleness: Staleness,
}

/// Nothing for a policy without people, so that its digest is what it always was.
pub(super) fn write(stages: &[Stage]) -> Value {
    if stages.is_empty() {
        return Value::Null;
    }
    let step = |step: &Step| {
        json!({
            "name": *step.name,
            "approvers": sorted(&step.approvers),
            "approvals": step.approvals,
            "denials": step.denials,
        })
    };
    let stage =
        |stage: &Stage| json!({ "name": *stage.name, "steps": stage.steps.iter().map(step).collect::<Vec<_>>() });
    json!({ "stages": stages.iter().map(stage).collect::<Vec<_>>() })
}

/// Reads the canonical text of a policy; `digest` is the one that the text must have.
///
/// # Errors
/// One sentence about what is wrong with it.
pub fn pinned(text: &str, digest: &str) -> Result<Pinned, String> {
    if PolicyDigest(Sha256::digest(text).into()).to_string() != digest {
        return Err("the text of the policy is not the one of its digest".to_owned());
    }
    let policy: Value = serde_json::from_str(text).map_err(|error| format!("the policy is no JSON: {error}"))?;
    let stages = match policy.get("approval") {
        None => Vec::new(),
        Some(approval) => each(approval.get("stages"), read_stage).ok_or("its approval does not read back")?,
    };
    let staleness = match policy.get("staleness").and_then(Value::as_str) {
        Some("strict") => Staleness::Strict,
        Some("lastKnown") => Staleness::LastKnown,
        Some(_) | None => return Err("its staleness does not read back".to_owned()),
    };
    Ok(Pinned { stages, staleness })
}

fn each<T>(list: Option<&Value>, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    list?.as_array().filter(|list| !list.is_empty())?.iter().map(read).collect()
}

fn read_stage(stage: &Value) -> Option<Stage> {
    Some(Stage { name: stage.get("name")?.as_str()?.into(), steps: each(stage.get("steps"), read_step)? })
}

fn read_step(step: &Value) -> Option<Step> {
    let count = |field: &str| usize::try_from(step.get(field)?.as_u64()?).ok().filter(|count| *count > 0);
    Some(Step {
        name: step.get("name")?.as_str()?.into(),
        approvers: each(step.get("approvers"), |matcher| Matcher::parse(matcher.as_str()?).ok())?,
        approvals: count("approvals")?,
        denials: count("denials")?,
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
        assert_eq!((read.stages.len(), read.staleness), (2, Staleness::LastKnown));
        assert_eq!((read.stages[0].steps[0].approvals, read.stages[1].steps[0].denials), (2, 2));
        assert_eq!(read.stages[1], policy.approval[1]);
        assert!(pinned(&policy.canonical, &"0".repeat(64)).is_err(), "another text");
    }

    #[test]
    fn a_policy_without_approval_names_nobody() {
        let set = load(GOOD);
        let policy = set.policy("pay").unwrap();
        assert_eq!(pinned(&policy.canonical, &policy.digest.to_string()).unwrap().stages, []);
        assert!(!policy.canonical.contains("approval"), "its digest is what it was");
    }
}
