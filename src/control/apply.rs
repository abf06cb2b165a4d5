//! Putting a policy set in force: versions are given, standing grants issued and ended, then the set rules. One change each.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::fault::Fault;
use super::grants::{end, known};
use super::plane::{Plane, Rulings};
use super::store::Change;
use crate::model::access::{Issued, Origin};
use crate::model::grant::{End, Ended, Grant, GrantId, Hold, PolicyRef, Revision};
use crate::model::policy::StandingGrant;

/// Who it is in the audit log.
const ACTOR: &str = "system:policies";

/// What putting a set in force has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
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
        let Self { policies, removed, issued, ended } = self;
        write!(f, "{policies} policies changed, {removed} removed, {issued} standing grants issued, {ended} ended")
    }
}

impl Plane {
    /// Puts a set in force. Until this returns, the set before it rules.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be used; the set before it stays, and applying again completes what is missing.
    pub async fn apply(&self, rulings: Arc<dyn Rulings>) -> Result<Applied, Fault> {
        let mut applied = Applied::default();
        self.apply_policies(&*rulings, &mut applied).await?;
        // New texts have their versions now: the set may rule before the baseline is in place.
        self.rule_by(Arc::clone(&rulings));
        self.apply_standing(&*rulings, &mut applied).await?;
        Ok(applied)
    }

    async fn apply_policies(&self, rulings: &dyn Rulings, applied: &mut Applied) -> Result<(), Fault> {
        let declared: BTreeMap<String, (String, Arc<str>)> = rulings
            .policies()
            .into_iter()
            .map(|policy| (policy.name.to_string(), (policy.digest.to_string(), Arc::clone(&policy.canonical))))
            .collect();
        let current = self.store.read(|reader| {
            let mut current = BTreeMap::new();
            for (name, version) in reader.current_policies()? {
                let digest = reader.policy(&name, version)?.map(|policy| policy.digest).unwrap_or_default();
                current.insert(name, digest);
            }
            Ok::<_, Fault>(current)
        });
        let current = current.await?;
        for name in current.keys().filter(|name| !declared.contains_key(*name)) {
            let name = name.clone();
            self.store.write(move |change| change.remove_policy(&name)).await?;
            applied.removed += 1;
        }
        for (name, (digest, text)) in declared {
            if current.get(&name) != Some(&digest) {
                self.store.write(move |change| change.apply_policy(&name, &digest, &text)).await?;
                applied.policies += 1;
            }
        }
        Ok(())
    }

    async fn apply_standing(&self, rulings: &dyn Rulings, applied: &mut Applied) -> Result<(), Fault> {
        let declared: BTreeMap<String, StandingGrant> =
            rulings.standing().into_iter().map(|standing| (standing.name.to_string(), standing.clone())).collect();
        let held = self.store.read(|reader| {
            let mut held = Vec::new();
            for id in reader.enforced(None)? {
                let issued = reader.grant(&id)?;
                held.extend(issued.filter(|issued| is_standing(issued) && !is_over(issued)));
            }
            Ok::<_, Fault>(held)
        });
        let keep = self.tombstone_keep;
        for issued in held.await? {
            let id = issued.grant.id.to_string();
            if declared.get(&id).is_some_and(|standing| is_declared_by(&issued, standing)) {
                continue;
            }
            let moved =
                declared.get(&id).is_some_and(|standing| standing.scope.service() != issued.grant.scope.service());
            self.store
                .write(move |change| {
                    let Some(mut issued) = known(change, &id)?.filter(|issued| !is_over(issued)) else { return Ok(()) };
                    let reason = "its declaration was changed or removed".to_owned();
                    end(change, &mut issued, Ended::Revoked, (ACTOR.to_owned(), reason), keep)?;
                    // The name goes to another service: the sidecars of this one have to let it go first.
                    if moved {
                        change.forget(&issued);
                    }
                    Ok::<_, Fault>(())
                })
                .await?;
            applied.ended += 1;
        }
        for (name, standing) in declared {
            let (issued, _) = self.store.write(move |change| issue(change, &name, &standing)).await?;
            applied.issued += usize::from(issued);
        }
        Ok(())
    }
}

/// Issues a standing grant unless it stands, or an administrator has revoked this very declaration.
fn issue(change: &mut Change<'_>, name: &str, standing: &StandingGrant) -> Result<bool, Fault> {
    let mut suspension = None;
    if let Some(issued) = known(change, name)? {
        let by_hand = issued.ending.as_ref().is_some_and(|ending| ending.by != ACTOR);
        if !is_over(&issued) || (by_hand && is_declared_by(&issued, standing)) {
            return Ok(false);
        }
        // An operator holds it back: another declaration does not let it go, only resuming it does.
        suspension = issued.suspension.filter(|_| !by_hand);
    }
    let id = GrantId::parse(name).map_err(|error| Fault::invalid("name", format!("standing grant {name} {error}")))?;
    let grant = Grant {
        id,
        subject: standing.subject.clone(),
        via: standing.via.clone(),
        scope: standing.scope.clone(),
        not_before: standing.not_before,
        end: End::Standing,
        hold: if suspension.is_some() { Hold::Suspended } else { Hold::None },
        staleness: standing.staleness,
        policy: PolicyRef::default(),
        traceparent: None,
        mod_revision: Revision(0),
    };
    let origin = Origin { policy_digest: standing.digest.to_string().into(), ..Origin::default() };
    change.issue(&mut Issued { grant, origin, suspension, ending: None }, ACTOR, "declared as a standing grant")?;
    Ok(true)
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
