//! Putting a policy set in force: versions are given, standing grants issued and ended, all in one revision; then the set rules.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::fault::Fault;
use super::plane::Plane;
use super::rows::end;
use crate::control::policy::ActivePolicies;
use crate::control::store::Change;
use crate::model::access::{Issued, Origin};
use crate::model::grant::{End, Ended, Grant, GrantId, Hold, PolicyRef, Revision};
use crate::model::policy::StandingGrant;

/// Who it is in the audit log.
const ACTOR: &str = "system:policies";

/// What putting a set in force has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Policies put in force, in a new version or again.
    pub policies: usize,
    /// Policies no longer declared.
    pub removed: usize,
    /// Standing grants issued.
    pub issued: usize,
    /// Standing grants ended.
    pub ended: usize,
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            policies,
            removed,
            issued,
            ended,
        } = self;
        write!(
            f,
            "{policies} policies changed, {removed} removed, {issued} standing grants issued, {ended} ended"
        )
    }
}

impl Plane {
    /// Puts a set in force in one revision. Until this returns, the set before it rules.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be used; then nothing was changed.
    pub(crate) async fn apply(
        &self,
        policies_in_force: Arc<dyn ActivePolicies>,
    ) -> Result<Applied, Fault> {
        let (declared, keep) = (Declared::by(&*policies_in_force), self.tombstone_keep());
        let (applied, _) = self
            .store()
            .write(move |change| declared.write(change, ACTOR, keep))
            .await?;
        self.put_in_force(policies_in_force);
        Ok(applied)
    }
}

/// What a set declares, as the store keeps it.
#[derive(Debug)]
pub(crate) struct Declared {
    /// Name -> digest and canonical text.
    policies: BTreeMap<String, (String, Arc<str>)>,
    standing: BTreeMap<String, StandingGrant>,
}

impl Declared {
    pub(crate) fn by(policies_in_force: &dyn ActivePolicies) -> Self {
        let policies = policies_in_force.policies().into_iter().map(|policy| {
            (
                policy.name.to_string(),
                (policy.digest.to_string(), Arc::clone(&policy.canonical)),
            )
        });
        // Who is whom decides what counts, too. No policy can have such a name.
        let persons = policies_in_force.declared_persons().iter().map(|person| {
            (
                self::person(&person.name),
                (person.digest.to_string(), Arc::clone(&person.canonical)),
            )
        });
        let standing = policies_in_force.standing().into_iter();
        Self {
            policies: policies.chain(persons).collect(),
            standing: standing
                .map(|standing| (standing.name.to_string(), standing.clone()))
                .collect(),
        }
    }

    /// Gives versions to what is new, takes out of force what is gone, and does the same with standing grants. `actor` is
    /// who changes the policies.
    pub(crate) fn write(
        &self,
        change: &mut Change<'_>,
        actor: &str,
        keep: Duration,
    ) -> Result<Applied, Fault> {
        let mut applied = Applied::default();
        self.write_policies(change, actor, &mut applied)?;
        self.end_standing(change, keep, &mut applied)?;
        for (name, standing) in &self.standing {
            applied.issued += usize::from(issue(change, name, standing)?);
        }
        Ok(applied)
    }

    fn write_policies(
        &self,
        change: &mut Change<'_>,
        actor: &str,
        applied: &mut Applied,
    ) -> Result<(), Fault> {
        let mut current = BTreeMap::new();
        for (name, version) in change.read().current_policies()? {
            // A version whose row is gone has no digest: it differs from any, and is written again.
            let digest = change
                .read()
                .policy(&name, version)?
                .map(|policy| policy.digest)
                .unwrap_or_default();
            current.insert(name, digest);
        }
        for name in current
            .keys()
            .filter(|name| !self.policies.contains_key(*name))
        {
            change.remove_policy(name, actor)?;
            applied.removed += 1;
        }
        for (name, (digest, text)) in &self.policies {
            if current.get(name) != Some(digest) {
                change.apply_policy(name, digest, text, actor)?;
                applied.policies += 1;
            }
        }
        Ok(())
    }

    /// Ends the standing grants that are declared otherwise or not at all.
    fn end_standing(
        &self,
        change: &mut Change<'_>,
        keep: Duration,
        applied: &mut Applied,
    ) -> Result<(), Fault> {
        for id in change.read().enforced(None)? {
            let held = change
                .read()
                .grant(&id)?
                .filter(|issued| is_standing(issued) && !is_over(issued));
            let Some(mut issued) = held else { continue };
            let declared = self.standing.get(&id);
            if declared.is_some_and(|standing| is_declared_by(&issued, standing)) {
                continue;
            }
            let reason = "its declaration was changed or removed".to_owned();
            end(
                change,
                &mut issued,
                Ended::Revoked,
                (ACTOR.to_owned(), reason),
                keep,
            )?;
            // The name goes to another service: the sidecars of this one have to let it go.
            if declared
                .is_some_and(|standing| standing.scope.service() != issued.grant.scope.service())
            {
                change.forget(&issued);
            }
            applied.ended += 1;
        }
        Ok(())
    }
}

/// Issues a standing grant unless it stands, or an administrator has revoked this very declaration.
fn issue(change: &mut Change<'_>, name: &str, standing: &StandingGrant) -> Result<bool, Fault> {
    let mut suspension = None;
    if let Some(issued) = change.read().grant(name)? {
        let by_hand = issued
            .ending
            .as_ref()
            .is_some_and(|ending| ending.by != ACTOR);
        if !is_over(&issued) || (by_hand && is_declared_by(&issued, standing)) {
            return Ok(false);
        }
        // An operator holds it back: another declaration does not let it go, only resuming it does.
        suspension = issued.suspension.filter(|_| !by_hand);
    }
    let id = GrantId::parse(name)
        .map_err(|error| Fault::invalid("name", format!("standing grant {name} {error}")))?;
    let grant = Grant {
        id,
        subject: standing.subject.clone(),
        via: standing.via.clone(),
        scope: standing.scope.clone(),
        not_before: standing.not_before,
        end: End::Standing,
        hold: if suspension.is_some() {
            Hold::Suspended
        } else {
            Hold::None
        },
        staleness: standing.staleness,
        policy: PolicyRef::default(),
        traceparent: None,
        mod_revision: Revision(0),
    };
    let origin = Origin {
        policy_digest: standing.digest.to_string().into(),
        ..Origin::default()
    };
    change.issue(
        &mut Issued {
            grant,
            origin,
            suspension,
            ending: None,
        },
        ACTOR,
        "declared as a standing grant",
    )?;
    Ok(true)
}

/// Under what name the versions of a person are kept.
pub(crate) fn person(name: &str) -> String {
    format!("person:{name}")
}

fn is_standing(issued: &Issued) -> bool {
    issued.grant.end == End::Standing
}

fn is_over(issued: &Issued) -> bool {
    matches!(issued.grant.hold, Hold::Ended { .. })
}

fn is_declared_by(issued: &Issued, standing: &StandingGrant) -> bool {
    *issued.origin.policy_digest == *standing.digest.to_string()
}
