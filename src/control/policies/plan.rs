//! What applying would change: document by document, with the text that differs and the live grants and pending requests
//! that it touches. Reads everything at one revision and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::diff;
use super::offered::{Key, Offer, by_key, offered};
use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::Fault;
use crate::control::lifecycle::plane::Plane;
use crate::control::lifecycle::rows::listed;
use crate::control::lifecycle::standing::person;
use crate::control::policy::{Listed, PolicySet, Problem};
use crate::control::store::{Reader, StoreError};
use crate::model::access::{AccessRequest, AccessState, Issued};
use crate::model::grant::{End, Phase};
use crate::model::time::Timestamp;
use crate::wire::store::AppliedDocument;

/// Grants and requests listed for one change; all are counted.
const LISTED_MAX: usize = 100;
/// Longest difference, and most of all together, in bytes.
const DIFF_MAX: usize = 16 << 10;
const DIFFS_MAX: usize = 1 << 20;

/// What applying would change.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Names the set in force before.
    pub etag: String,
    /// By kind and name.
    pub changes: Vec<Change>,
    /// What refuses the documents, and what is hardly meant as written.
    pub problems: Vec<Problem>,
}

/// One document.
#[derive(Debug)]
pub(crate) struct Change {
    /// Kind and name.
    pub key: Key,
    /// What happens to it.
    pub action: Action,
    /// The offered file.
    pub file: String,
    /// The version in force.
    pub from_version: u64,
    /// Digests of its meaning, before and after.
    pub digests: (String, String),
    /// Unified, and whether it was cut.
    pub diff: (String, bool),
    /// It decided before and does not after.
    pub withdraws: bool,
    /// Live grants under it, and how many in all.
    pub grants: (Vec<Issued>, usize),
    /// Pending requests under it, and how many in all.
    pub requests: (Vec<AccessRequest>, usize),
}

/// What happens to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is new.
    Add,
    /// It means something else.
    Change,
    /// It goes.
    Remove,
    /// It means what it did.
    Keep,
}

impl Plan {
    /// How many documents it does this to.
    pub(crate) fn count(&self, action: Action) -> usize {
        self.changes
            .iter()
            .filter(|change| change.action == action)
            .count()
    }

    /// Whether the documents are refused.
    #[cfg(test)]
    pub(crate) fn is_refused(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == crate::control::policy::Severity::Error)
    }

    /// Names of the policies that no longer decide.
    pub(crate) fn withdrawn(&self) -> BTreeSet<String> {
        let policies = self
            .changes
            .iter()
            .filter(|change| change.withdraws && change.key.0 == "AccessPolicy");
        policies.map(|change| change.key.1.clone()).collect()
    }
}

/// A plan, and what it leads to.
pub(super) struct Drafted {
    pub(super) plan: Plan,
    /// `None` when the documents are refused.
    pub(super) next: Option<Next>,
    /// What is applied now.
    pub(super) before: Vec<AppliedDocument>,
}

/// What is in force once it is applied.
pub(super) struct Next {
    pub(super) set: Arc<PolicySet>,
    pub(super) documents: Vec<AppliedDocument>,
}

impl Plane {
    /// Says what applying would change. Administrators only.
    ///
    /// # Errors
    /// NOT_ELIGIBLE, or when the store cannot be read. Problems of the documents are part of the plan.
    pub(crate) async fn plan_policies(
        &self,
        caller: &Caller,
        offer: &Offer,
    ) -> Result<Plan, Fault> {
        caller.must_be_admin("plan policies")?;
        let _turn = self.sources().turn.lock().await;
        Ok(self.draft(offer, caller.who().as_str()).await?.plan)
    }

    /// The plan of an offer. Whoever calls this has the turn.
    pub(super) async fn draft(&self, offer: &Offer, actor: &str) -> Result<Drafted, Fault> {
        let before = self.store().read(super::applied).await?;
        let current = match self.assemble(Arc::new(super::texts(&before))).await? {
            Ok(set) => set,
            Err(problems) => {
                return Ok(Drafted {
                    plan: Plan {
                        problems,
                        ..Plan::default()
                    },
                    next: None,
                    before,
                });
            }
        };
        let mut plan = Plan {
            etag: super::etag(&current, &before),
            ..Plan::default()
        };
        let set = match self.read_offer(offer, &before).await? {
            Ok(set) => set,
            Err(problems) => {
                return Ok(Drafted {
                    plan: Plan { problems, ..plan },
                    next: None,
                    before,
                });
            }
        };
        plan.problems = set.warnings().to_vec();
        let documents = next_documents(&set, &before, offer.prune, actor);
        let mut changes = changes(&current, &set, &before, offer.prune);
        let now = self.now();
        plan.changes = self
            .store()
            .read(move |reader| {
                touched(reader, &mut changes, now)?;
                Ok::<_, Fault>(changes)
            })
            .await?;
        Ok(Drafted {
            plan,
            next: Some(Next {
                set: Arc::new(set),
                documents,
            }),
            before,
        })
    }

    /// The set with the offer in it. What the offer replaces is left out, and is known only once the offer is read.
    async fn read_offer(
        &self,
        offer: &Offer,
        before: &[AppliedDocument],
    ) -> Result<Result<PolicySet, Vec<Problem>>, Fault> {
        let alone = offer.texts();
        // Taken for no names, a failure would leave in force what the offer replaces.
        let names = tokio::task::spawn_blocking(move || crate::control::policy::names(&alone))
            .await
            .map_err(|error| super::unreadable(&error))?
            .map_err(|cause| Fault::invalid("files", cause))?;
        let stays = |document: &&AppliedDocument| {
            !offer.prune && !names.contains(&(document.kind.clone(), document.name.clone()))
        };
        let staying: Vec<AppliedDocument> = before.iter().filter(stays).cloned().collect();
        let beside = super::texts(&staying)
            .into_iter()
            .chain(offer.texts())
            .collect();
        self.assemble(Arc::new(beside)).await
    }
}

/// Everything applied afterwards. What means the same stays as it was written.
fn next_documents(
    set: &PolicySet,
    before: &[AppliedDocument],
    prune: bool,
    actor: &str,
) -> Vec<AppliedDocument> {
    let offered = offered(set);
    let mut next: BTreeMap<Key, AppliedDocument> = BTreeMap::new();
    for (key, document) in by_key(before) {
        let same = offered
            .get(&key)
            .map(|new| new.digest.to_string() == document.digest);
        if same.unwrap_or(!prune) {
            next.insert(key, document.clone());
        }
    }
    for (key, document) in offered {
        next.entry(key).or_insert_with(|| AppliedDocument {
            kind: document.kind.to_owned(),
            name: document.name.to_string(),
            text: document.written.to_string(),
            digest: document.digest.to_string(),
            actor: actor.to_owned(),
            ..AppliedDocument::default()
        });
    }
    next.into_values().collect()
}

fn changes(
    current: &PolicySet,
    set: &PolicySet,
    before: &[AppliedDocument],
    prune: bool,
) -> Vec<Change> {
    let (old, new) = (by_key(before), offered(set));
    let decided: BTreeMap<Key, &Listed> = current
        .documents()
        .iter()
        .map(|document| {
            (
                (document.kind.to_owned(), document.name.to_string()),
                document,
            )
        })
        .collect();
    let keys: BTreeSet<&Key> = old.keys().filter(|_| prune).chain(new.keys()).collect();
    let mut left = DIFFS_MAX;
    let change = |key: &Key| {
        let (from, to) = (old.get(key), new.get(key));
        let digests = (
            from.map(|from| from.digest.clone()).unwrap_or_default(),
            to.map(|to| to.digest.to_string()).unwrap_or_default(),
        );
        let action = match (from, to) {
            (None, _) => Action::Add,
            (Some(_), None) => Action::Remove,
            (Some(_), Some(_)) if digests.0 == digests.1 => Action::Keep,
            (Some(_), Some(_)) => Action::Change,
        };
        let written = (
            from.map_or("", |from| from.text.as_str()),
            to.map_or("", |to| &*to.written),
        );
        let diff = if action == Action::Keep {
            (String::new(), false)
        } else {
            cut(diff::unified(written.0, written.1), &mut left)
        };
        let did = decided.get(key).is_some_and(|document| document.in_effect);
        Change {
            key: key.clone(),
            action,
            file: to
                .map(|to| to.file.display().to_string())
                .unwrap_or_default(),
            from_version: 0,
            digests,
            diff,
            withdraws: did && !to.is_some_and(|to| to.in_effect),
            grants: Default::default(),
            requests: Default::default(),
        }
    };
    keys.into_iter().map(change).collect()
}

/// At a line's end, and never more than is left for all.
fn cut(diff: String, left: &mut usize) -> (String, bool) {
    let max = DIFF_MAX.min(*left);
    let whole = diff.len() <= max;
    let kept: String = match whole {
        true => diff,
        false => {
            let mut kept = String::new();
            for line in diff.split_inclusive('\n') {
                if kept.len() + line.len() > max {
                    break;
                }
                kept.push_str(line);
            }
            kept
        }
    };
    *left -= kept.len().min(*left);
    (kept, !whole)
}

/// Live grants and pending requests under what changes or goes.
fn touched(reader: &Reader<'_>, changes: &mut [Change], now: Timestamp) -> Result<(), StoreError> {
    let moved = |change: &Change| matches!(change.action, Action::Change | Action::Remove);
    let places: BTreeMap<Key, usize> = changes
        .iter()
        .enumerate()
        .filter(|(_, c)| moved(c))
        .map(|(at, c)| (c.key.clone(), at))
        .collect();
    for change in changes.iter_mut() {
        let (kind, name) = (change.key.0.as_str(), change.key.1.as_str());
        let versioned = match kind {
            "AccessPolicy" => name.to_owned(),
            "Person" => person(name),
            _ => continue,
        };
        change.from_version = reader.current_policy(&versioned)?.unwrap_or_default();
    }
    if places.is_empty() {
        return Ok(());
    }
    let place = |kind: &str, name: &str| places.get(&(kind.to_owned(), name.to_owned())).copied();
    for id in reader.enforced(None)? {
        let issued = listed(reader.grant(&id)?, &id)?;
        if matches!(issued.grant.phase(now), Phase::Ended(_)) {
            continue;
        }
        let at = match issued.grant.end {
            End::Standing => place("StandingGrant", issued.grant.id.as_str()),
            End::At(_) => place("AccessPolicy", &issued.grant.policy.name),
        };
        if let Some(change) = at.and_then(|at| changes.get_mut(at)) {
            note(&mut change.grants, issued);
        }
    }
    for id in reader.all_pending(usize::MAX)? {
        let request = listed(reader.request(&id)?, &id)?;
        let at = place("AccessPolicy", &request.terms.policy.name)
            .filter(|_| request.state == AccessState::Pending);
        if let Some(change) = at.and_then(|at| changes.get_mut(at)) {
            note(&mut change.requests, request);
        }
    }
    Ok(())
}

fn note<T>((list, count): &mut (Vec<T>, usize), item: T) {
    *count += 1;
    if list.len() < LISTED_MAX {
        list.push(item);
    }
}
