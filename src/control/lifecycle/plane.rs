//! What the control plane is made of, put together once. Its parts are handed out by name and never replaced.
//!
//! What can be asked of it, and where that is written:
//!
//! | file | calls |
//! |---|---|
//! | `lifecycle/requests` | `request_access` `access_request` `watch_request` `cancel` |
//! | `lifecycle/reviews` | `review_request` |
//! | `lifecycle/break_glass` | `review_break_glass` `measure_reviews` |
//! | `lifecycle/grants` | `grant` `revoke` `revoke_all` `release` `await_enforced` |
//! | `lifecycle/extend` | `extend` |
//! | `lifecycle/suspend` | `suspend` `resume` |
//! | `lifecycle/sweeper` | `sweep_until` `sweep` |
//! | `lifecycle/standing` | `apply` |
//! | `lifecycle/write_options` | `replayed` `write_once`, by which every call above writes |
//! | `query/lists` | `access_requests` `grants` |
//! | `query/follow` | `follow_requests` |
//! | `query/explain`, `query/timeline`, `query/grant_use` | `explain` `story` `with_uses` |
//! | `query/audit` | `audit_events` `audit_run` `audit_checkpoint` `look_at_audit_chain` |
//! | `policies` | `declared` `follow` |
//! | `policies/{plan,applying,history}` | `plan_policies` `apply_policies` `policy_versions` `policy_version` |

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::notify::Waiting;
use crate::control::fanout::Fanout;
use crate::control::metrics::ControlMetrics;
use crate::control::policy::{ActivePolicies, NoPolicies, Sources};
use crate::control::store::{Store, Usable};
use crate::model::time::Timestamp;

/// The control plane, without its listeners.
#[derive(Debug, Clone)]
pub(crate) struct Plane {
    store: Store,
    fanout: Arc<Fanout>,
    waiting: Waiting,
    metrics: Arc<ControlMetrics>,
    tombstone_keep: Duration,
    sources: Sources,
    since: Timestamp,
    policies_in_force: Arc<ArcSwap<Arc<dyn ActivePolicies>>>,
}

impl Plane {
    /// A control plane in which nothing may be asked for, until [`Plane::apply`] puts policies in force.
    pub(crate) fn new(
        store: Store,
        fanout: Arc<Fanout>,
        waiting: Waiting,
        metrics: Arc<ControlMetrics>,
        tombstone_keep: Duration,
    ) -> Self {
        let none: Arc<dyn ActivePolicies> = Arc::new(NoPolicies);
        let policies_in_force = Arc::new(ArcSwap::from_pointee(none));
        let (since, sources) = (store.now(), Sources::default());
        Self {
            store,
            fanout,
            waiting,
            metrics,
            tombstone_keep,
            sources,
            since,
            policies_in_force,
        }
    }

    /// The same with policies from these places.
    #[must_use]
    pub(crate) fn with_sources(self, sources: Sources) -> Self {
        Self { sources, ..self }
    }

    /// What is durable.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// What sidecars hold.
    pub(crate) fn fanout(&self) -> &Arc<Fanout> {
        &self.fanout
    }

    /// Who waits for which access request.
    pub(crate) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// What is measured.
    pub(crate) fn metrics(&self) -> &Arc<ControlMetrics> {
        &self.metrics
    }

    /// How long the tombstone of an ended grant is kept.
    pub(crate) fn tombstone_keep(&self) -> Duration {
        self.tombstone_keep
    }

    /// Where policies come from.
    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// When it was put together: what happened before is known from the store alone.
    pub(crate) fn since(&self) -> Timestamp {
        self.since
    }

    /// The policies in force.
    pub(crate) fn policies_in_force(&self) -> Arc<dyn ActivePolicies> {
        Arc::clone(&self.policies_in_force.load())
    }

    /// To look at what is in force at the moment of a change, not at the one of a call.
    pub(crate) fn current(&self) -> Current {
        Current(Arc::clone(&self.policies_in_force))
    }

    /// Tells whether a set is still the one in force, at the moment of writing what it ruled.
    pub(crate) fn still_in_force(
        &self,
        ruled: &Arc<Arc<dyn ActivePolicies>>,
    ) -> impl FnOnce() -> bool + Send + use<> {
        let (in_force, ruled) = (Arc::clone(&self.policies_in_force), Arc::clone(ruled));
        move || Arc::ptr_eq(&in_force.load(), &ruled)
    }

    /// The policies in force, by their identity.
    pub(crate) fn version_in_force(&self) -> Arc<Arc<dyn ActivePolicies>> {
        self.policies_in_force.load_full()
    }

    pub(crate) fn put_in_force(&self, policies_in_force: Arc<dyn ActivePolicies>) {
        warn_of_unmeasured(&*policies_in_force, &self.fanout);
        self.policies_in_force.store(Arc::new(policies_in_force));
    }

    /// Whether the store can be used, for readiness.
    pub(crate) fn usable(&self) -> Usable {
        self.store.usable()
    }

    /// The control plane's time.
    pub(crate) fn now(&self) -> Timestamp {
        self.store.now()
    }
}

/// What is in force whenever it is looked at.
pub(crate) struct Current(Arc<ArcSwap<Arc<dyn ActivePolicies>>>);

impl Current {
    pub(crate) fn load(&self) -> Arc<Arc<dyn ActivePolicies>> {
        self.0.load_full()
    }
}

/// Says loudly which policies ask for what cannot be known.
fn warn_of_unmeasured(policies_in_force: &dyn ActivePolicies, fanout: &Fanout) {
    if fanout.takes_decisions() {
        return;
    }
    for policy in policies_in_force
        .policies()
        .into_iter()
        .filter(|policy| policy.unused_ttl().is_some())
    {
        tracing::warn!(
            policy = %policy.name,
            "duration.unusedTtl has no effect: no decisions are kept, so no use is known; raise --keep-decisions"
        );
    }
}
